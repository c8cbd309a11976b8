"""`gatewayctl rollout`."""

from pathlib import Path
from typing import Annotated

import typer

from gatewayd.cli import complete
from gatewayd.cli.options import Because, ConfigFile, Json, RolloutId, Set, load_config, time_option

app = typer.Typer(no_args_is_help=True, help="Bringing a cascade to its nodes, group by group.")


@app.command("start")
def rollout_start(
    bundle: Path,
    node: Annotated[
        list[str] | None, typer.Option(help="Only this node; may be given several times, as the next two.", autocompletion=complete.nodes)
    ] = None,
    board: Annotated[list[str] | None, typer.Option(help="Only nodes of this board.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only nodes with this label.", autocompletion=complete.labels)] = None,
    groups: Annotated[str, typer.Option(metavar="SIZES", help="How many shall have it after each group.")] = "1,10%,100%",
    soak: Annotated[float, time_option("How long a group runs it before the next may begin.", "1d")] = 86_400.0,
    success: Annotated[float, typer.Option(min=0.01, max=1, help="Share of a group that must be confirmed.")] = 0.9,
    error_limit: Annotated[float, typer.Option(min=0, max=1, help="Share of those attempted that may go wrong.")] = 0.1,
    min_attempted: Annotated[int, typer.Option(min=1, help="That share is not looked at before so many were attempted.")] = 1,
    approval: Annotated[bool, typer.Option("--approval", help="Wait for `approve` before each further group.")] = False,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Do not ask whether the new model is worse in the field.")] = False,
    gate_patience: Annotated[float, time_option("How long to wait for enough evidence.", "14d")] = 1_209_600.0,
    margin: Annotated[float, typer.Option(min=0.01, max=0.9, help="Loss of quality that the gate must exclude.")] = 0.15,
    concurrent: Annotated[int, typer.Option(min=1, max=1_000, help="Transfers at the same time.")] = 4,
    bytes_per_hour: Annotated[int | None, typer.Option(min=1, help="Air time that transfers may take.", show_default="no limit")] = None,
    min_battery: Annotated[float, typer.Option(min=0, max=1, help="Charge that a node with a battery must have.")] = 0.3,
    sleep_limit: Annotated[float, time_option("How long to wait for a node that sleeps or is away.", "7d")] = 604_800.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Bring a bundle to its nodes, a canary first."""
    from gatewayd.cli.rollouts import start  # noqa: PLC0415
    from gatewayd.core.rollout import Rules  # noqa: PLC0415

    rules = Rules(
        success_ratio=success,
        min_attempted=min_attempted,
        error_limit=error_limit,
        soak_s=soak,
        gate=not no_gate,
        margin=margin,
        gate_patience_s=gate_patience,
        approval=approval,
        concurrent=concurrent,
        bytes_per_hour=bytes_per_hour,
        min_battery=min_battery,
        sleep_limit_s=sleep_limit,
    )
    wanted = {"nodes": node or [], "boards": board or [], "labels": label or []}
    start(load_config(config, set_), bundle, wanted, groups, rules, yes=yes, as_json=json)


@app.command("list")
def rollout_list(config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """Every rollout that there was."""
    from gatewayd.cli.rollouts import show_list  # noqa: PLC0415

    show_list(load_config(config, set_), as_json=json)


@app.command("status")
def rollout_status(id_: RolloutId, config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """How far one and each of its nodes is."""
    from gatewayd.cli.rollouts import show_status  # noqa: PLC0415

    show_status(load_config(config, set_), id_, as_json=json)


@app.command("watch")
def rollout_watch(id_: RolloutId, config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """Follow one to its end; fails where it was not done."""
    from gatewayd.cli.rollouts import watch as watch_rollout  # noqa: PLC0415

    watch_rollout(load_config(config, set_), id_, as_json=json)


@app.command("explain")
def rollout_explain(id_: RolloutId, config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """Why one moved, waits or stopped."""
    from gatewayd.cli.rollouts import show_explanation  # noqa: PLC0415

    show_explanation(load_config(config, set_), id_, as_json=json)


@app.command("pause")
def rollout_pause(id_: RolloutId, because: Because = "", config: ConfigFile = None, set_: Set = None) -> None:
    """Begin and confirm nothing."""
    _order(id_, "pause", because, config, set_)


@app.command("resume")
def rollout_resume(id_: RolloutId, because: Because = "", config: ConfigFile = None, set_: Set = None) -> None:
    """Go on after a pause."""
    _order(id_, "resume", because, config, set_)


@app.command("approve")
def rollout_approve(id_: RolloutId, because: Because = "", config: ConfigFile = None, set_: Set = None) -> None:
    """Go on: with the next group, or without evidence."""
    _order(id_, "approve", because, config, set_)


@app.command("abort")
def rollout_abort(id_: RolloutId, because: Because = "", config: ConfigFile = None, set_: Set = None) -> None:
    """Stop; what is confirmed stays."""
    _order(id_, "abort", because, config, set_)


@app.command("rollback")
def rollout_rollback(id_: RolloutId, because: Because = "", config: ConfigFile = None, set_: Set = None) -> None:
    """Bring every node back."""
    _order(id_, "roll_back", because, config, set_)


def _order(id_: str, command: str, because: str, config: Path | None, overrides: list[str] | None) -> None:
    from gatewayd.cli.rollouts import give_order  # noqa: PLC0415
    from gatewayd.core.rollout import Command  # noqa: PLC0415

    give_order(load_config(config, overrides), id_, Command(command), because)
