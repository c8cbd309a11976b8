"""The slots' state machine: the diagram in the node's DESIGN.md is drawn from the table in core/slots.c."""

import ctypes
from pathlib import Path

DESIGN = Path(__file__).parents[1] / "node_firmware" / "DESIGN.md"
STATES, EVENTS = 6, 8


def mermaid(lib):
    lib.slot_state_name.restype = lib.slot_event_name.restype = ctypes.c_char_p
    state_name = [lib.slot_state_name(state).decode() for state in range(STATES)]
    event_name = [lib.slot_event_name(event).decode() for event in range(EVENTS)]
    steps = (
        f"    {state_name[state]} --> {state_name[following]}: {event_name[event]}"
        for state in range(STATES)
        for event in range(EVENTS)
        if (following := lib.slots_step(state, event)) >= 0
    )
    return "\n".join(["stateDiagram-v2", "    [*] --> empty", *steps]) + "\n"


def test_the_diagram_is_the_table(libnode):
    assert f"```mermaid\n{mermaid(libnode)}```" in DESIGN.read_text()


def test_there_are_no_other_states_and_events(libnode):
    assert all(libnode.slots_step(state, EVENTS) < 0 for state in range(STATES))
    assert all(libnode.slots_step(STATES, event) < 0 for event in range(EVENTS))
