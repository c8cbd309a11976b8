"""`gatewayctl rollout`: starts rollouts, shows them and gives orders, which the daemon carries out, also later when it does not run."""

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from gatewayd import audit, operations, state
from gatewayd.cli.audit import operator
from gatewayd.config import Config
from gatewayd.core import rollout, sealed
from gatewayd.core.rollout import Command, Rules
from gatewayd.core.update import BAD, SETTLED, State, Update
from gatewayd.errors import CascadeError
from gatewayd.ledger import Ledger, Note, StoredRollout
from gatewayd.operations import Plan
from gatewayd.store import Store

_STALE_S = 60.0  # the daemon explains an open rollout more often
_MOST_ROWS = 20  # of nodes, in a table that must fit the screen
_COLUMNS: dict[str, Collection[State]] = {
    "waiting": {State.WAITING},
    "sending": {State.ADMITTED, State.UPLOADING, State.VERIFIED},
    "on trial": {State.TRIAL, State.JUDGING, State.CONFIRMING},
    "confirmed": {State.CONFIRMED},
    "went wrong": {State.REVERTING, *BAD},
}


# ---- start


def start(config: Config, path: Path, wanted: Mapping[str, list[str]], sizes: str, rules: Rules, *, yes: bool, as_json: bool) -> None:
    """Verify a bundle, choose its nodes and their groups, and after a yes keep all that for the daemon.

    Raises CascadeError, CommandError, ConfigError, StoreError, TargetError; then nothing is kept.
    """
    if not all(math.isfinite(number) for number in rules if isinstance(number, float)):
        raise typer.BadParameter("nan is not a number")
    data = _read(path)
    keys = operations.keyring(config.cascades)
    with _ledger(config) as (store, ledger):
        plan = operations.plan(store, ledger, data, keys, str(path), wanted, sizes, rules)
        if not as_json:
            _show_plan(plan)
        if not yes:
            typer.confirm("Start it?", abort=True, err=True)
        added = operations.start(ledger, config.bundles, data, plan)
        audit.record(store, operator(), "rollout.start", added.rollout.id, f"{plan.image.cascade} {plan.image.version}")
    if as_json:
        said = {"id": added.rollout.id, "bundle_sha256": added.bundle_sha256, "groups": plan.groups, "left_out": plan.left_out}
        typer.echo(json.dumps(said))
    else:
        typer.echo(f"rollout {added.rollout.id} is in gatewayd's hands; `gatewayctl rollout watch {added.rollout.id}` shows how it goes")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(sealed.MAX_BYTES + 1)
    except OSError as error:
        raise CascadeError(f"bundle: {error}") from error


def _show_plan(plan: Plan) -> None:
    image = plan.image
    typer.echo(f"{image.cascade} {image.version}, {image.size_bytes:,} bytes, to {sum(map(len, plan.groups))} nodes:")
    for number, names in enumerate(plan.groups, 1):
        typer.echo(f"  group {number}: {operations.few(names)}")
    if plan.left_out:
        typer.echo(f"left out, {operations.reasons(plan.left_out)}")


# ---- orders


def give_order(config: Config, id_: str, command: Command, because: str) -> None:
    """Have the daemon carry out `command`. Raises CommandError where the rollout cannot take it, StoreError."""
    with _ledger(config) as (store, ledger):
        one = _stored(ledger, id_).rollout
        operations.order(ledger, one.id, command, because)
        audit.record(store, operator(), f"rollout.{command}", one.id, because)
    typer.echo(f"rollout {one.id} is to {command.replace('_', ' ')}; `gatewayctl rollout explain {one.id}` tells when it does")


# ---- what is known


def show_list(config: Config, *, as_json: bool) -> None:
    """Print every rollout. Raises StoreError."""
    with _ledger(config) as (_, ledger):
        every, counts = ledger.rollouts(), ledger.counts()
    if as_json:
        for stored in every:
            typer.echo(json.dumps(facts(stored)))
        return
    table = Table("id", "since", "cascade", "version", "state", "group", "nodes", *_COLUMNS, "because")
    for stored in every:
        one = stored.rollout
        of = counts.get(one.id, Counter())
        table.add_row(
            one.id,
            _when(stored.created_s),
            one.cascade,
            one.version,
            one.state.replace("_", " "),
            f"{one.group + 1} of {len(one.groups)}",
            str(of.total()),
            *_tally(of),
            escape(one.cause),
        )
    Console().print(table)


def show_status(config: Config, id_: str, *, as_json: bool) -> None:
    """Print how far a rollout and each of its nodes is. Raises CommandError, StoreError."""
    with _ledger(config) as (_, ledger):
        stored = _stored(ledger, id_)
        updates = ledger.updates(stored.rollout.id)
    if as_json:
        typer.echo(json.dumps(_status(stored, updates)))
        return
    Console(soft_wrap=True).print(_picture(stored, updates, list(updates.values())))


def watch(config: Config, id_: str, *, as_json: bool) -> None:
    """Show how a rollout goes until it has ended, or Ctrl-C. Raises CommandError, StoreError; exits with 1 where it was not done."""
    with _ledger(config) as (_, ledger):
        if not _stored(ledger, id_).closed and not state.held(config.gateway.state_dir):
            typer.echo("gatewayd does not run on this machine: nothing moves before it does", err=True)
        with contextlib.suppress(KeyboardInterrupt), contextlib.nullcontext() if as_json else Live(auto_refresh=False) as live:
            said = ""
            while True:
                stored = _stored(ledger, id_)
                updates = ledger.updates(stored.rollout.id)
                if live is not None:
                    live.update(_moving(stored, updates), refresh=True)
                elif (now := json.dumps(_status(stored, updates))) != said:
                    said = now
                    typer.echo(now)
                if stored.closed:
                    break
                time.sleep(1)
            raise typer.Exit(0 if stored.rollout.state is rollout.State.DONE else 1)


def _moving(stored: StoredRollout, updates: Mapping[str, Update]) -> RenderableType:
    moving = [one for one in updates.values() if one.state not in (State.WAITING, State.CONFIRMED)]
    return _picture(stored, updates, sorted(moving, key=lambda one: (one.state in SETTLED, one.node))[:_MOST_ROWS])


def _status(stored: StoredRollout, updates: Mapping[str, Update]) -> dict[str, Any]:
    return {**facts(stored), "updates": [_plain_update(one) for one in updates.values()]}


def show_explanation(config: Config, id_: str, *, as_json: bool) -> None:
    """Print why a rollout moved, waits or stopped, and its history. Raises CommandError, StoreError."""
    with _ledger(config) as (_, ledger):
        stored = _stored(ledger, id_)
        explanation, history = ledger.explanation(stored.rollout.id), ledger.history(stored.rollout.id)
    if as_json:
        now = explanation._asdict() if explanation else None
        typer.echo(json.dumps({"id": stored.rollout.id, "explanation": now, "history": [note._asdict() for note in history]}))
        return
    typer.echo(_explained(explanation, closed=stored.closed))
    if history:
        typer.echo("\nhistory")
    for note in history:
        typer.echo(f"{_when(note.at_s)}  {note.text.replace(chr(10), chr(10) + ' ' * 21)}")


def _explained(explanation: Note | None, *, closed: bool) -> str:
    if explanation is None:
        return "gatewayd has not looked at it yet: is it running?"
    age_s = max(0.0, time.time() - explanation.at_s)
    doubt = ": is gatewayd running?" if age_s > _STALE_S and not closed else ""
    return f"{explanation.text}\n(as of {_span(age_s)} ago{doubt})"


# ---- pictures


def _picture(stored: StoredRollout, updates: Mapping[str, Update], shown: Collection[Update]) -> RenderableType:
    """The rollout, its groups, and the updates that are to be `shown`."""
    one = stored.rollout
    state = f"{one.state.replace('_', ' ')}, group {one.group + 1} of {len(one.groups)}"
    since = f", for {_span(time.time() - one.since_s)}" if one.since_s else ": gatewayd has not taken it up yet"
    head = f"rollout {one.id}: {one.cascade} {one.version}: [bold]{state}[/]{since}" + (
        f"\nbecause: {escape(one.cause)}" if one.cause else ""
    )
    groups = Table("group", "nodes", *_COLUMNS)
    for number, names in enumerate(one.groups, 1):
        groups.add_row(str(number), str(len(names)), *_tally(Counter(updates[name].state for name in names)))
    if not shown:
        return Group(head, groups)
    number_of = {name: str(number) for number, names in enumerate(one.groups, 1) for name in names}
    nodes = Table("group", "node", "state", "sent", "since", "why")
    for each in sorted(shown, key=lambda each: int(number_of[each.node])):
        words = each.state.replace("_", " ") + (", asleep" if each.asleep else "")
        nodes.add_row(number_of[each.node], each.node, words, _sent(each), _when(each.since_s), escape(each.reason))
    return Group(head, groups, nodes)


def _sent(one: Update) -> str:
    return f"{one.offset_bytes / one.size_bytes:.0%}" if one.offset_bytes else ""


def _tally(counts: Counter[State]) -> list[str]:
    return [str(sum(counts[state] for state in states) or "") for states in _COLUMNS.values()]


def facts(stored: StoredRollout) -> dict[str, Any]:
    """A rollout, for JSON."""
    one = stored.rollout
    return {
        **one._asdict(),
        "sha256": one.sha256.hex(),
        "rules": one.rules._asdict(),
        "bundle_sha256": stored.bundle_sha256,
        "created_s": stored.created_s,
        "closed": stored.closed,
    }


def _plain_update(one: Update) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in one._asdict().items()}


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


def _span(seconds: float) -> str:
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.1f}{unit}"
    return f"{seconds:.0f}s"


# ---- the store


@contextlib.contextmanager
def _ledger(config: Config) -> Iterator[tuple[Store, Ledger]]:
    with Store(config.store, config.store_url) as store:
        yield store, Ledger(store)


def _stored(ledger: Ledger, id_: str) -> StoredRollout:
    return operations.found(ledger, id_)
