"""A board whose second UART leads to a radio chip: seen, read, judged; and what a reset of either does."""

import re

import numpy as np
import pytest
from ble_central import FLOW, Central, Fingers, Talk
from bumble.att import ATT_Error
from bumble.pairing import PairingDelegate
from machine import Machine

from cascades.wakeword import speech
from gatewayd import provisioning
from gatewayd.core import beacon
from gatewayd.core.types import Event, Info, NodeState, Provisioning, Security, State, Stored
from gatewayd.demo import radio
from gatewayd.demo.air import Air

pytestmark = pytest.mark.slow


async def test_a_board_with_a_radio_and_no_broker(site):
    place, air = site("kitchen"), Air(interval_ms=7.5)
    place.tls_port = 1  # nobody's
    (place.folder / "kitchen").mkdir()
    async with radio.cell(air, [place.folder / "kitchen" / "radio"]) as (chip,), Central(air).on() as central:
        async with place.board("kitchen", "qemu-m4-ble") as board:
            visit = await visited(central, 1)
            with pytest.raises(ATT_Error):  # a node that has a key says nothing in clear
                await visit.identity()
            await visit.connection.pair()
            assert await visit.identity() == b"kitchen"
            talk = await Talk(visit).begin()
            assert (await talk.hear(Info)).board == "mps2-an386"
            assert await talk.hear(State) == (NodeState.READY, 1)
            board.say(np.pad(speech.say("okay nabu", "espeak-ng:en-us+f2"), speech.RATE_HZ))
            event = await talk.hear(Event)
            await talk.say(Stored(event.session, (event.seq,)))

            await chip.restart()
            with pytest.raises(ConnectionError):
                await talk.hear(State, lambda message: message.session == 2)
            await bonded(central, 1)

            await board.reset()  # the chip is told by the board itself
            talk = await bonded(central, 2)
        with pytest.raises(ConnectionError):
            await talk.hear(Event)


async def test_a_board_that_is_nobody_is_provisioned_over_its_radio(tmp_path):
    air, made = Air(interval_ms=7.5), Provisioning("attic-1", "192.0.2.1", 8883, Security.PSK, keys=(bytes(32),), psk=bytes(range(32)))
    board = Machine(tmp_path / "board", b"", "qemu-m4-ble")
    async with radio.cell(air, [board.folder / "radio"]), board:
        fingers = Fingers(PairingDelegate.KEYBOARD_INPUT_ONLY)
        async with Central(air, fingers=fingers).on() as central:
            _, address = await central.advertisement(lambda data: not beacon.parse(data).provisioned)
            fingers.passkey = int(re.search(r"passkey ([0-9]{6})", board.console.read_text())[1])
            visit = await central.connect(address)
            await visit.connection.pair()
            await visit.subscribe(FLOW)
            talk = Talk(visit)
            await talk.say(made)
            with pytest.raises(ConnectionError):  # it restarts
                await talk.hear(State)
            await central.advertisement(lambda data: beacon.parse(data).crc == beacon.crc_of("attic-1"))
            await bonded(central, 1)
    assert provisioning.read(board.flash.read_bytes()) == made
    assert "attic-1: firmware" in board.console.read_text()


async def visited(central, session):
    _, address = await central.advertisement(lambda data: beacon.parse(data).session_low == session)
    return await central.connect(address)


async def bonded(central, session):
    """The gateway's talk with a node that it has paired with."""
    visit = await visited(central, session)
    await visit.connection.encrypt()
    talk = await Talk(visit).begin()
    assert await talk.hear(State) == (NodeState.READY, session)
    return talk
