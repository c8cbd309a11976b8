"""What operators do with rollouts, with gatewayctl or over HTTP: start one from a bundle, and give it orders."""

import contextlib
import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gatewayd import bundle, signing, state
from gatewayd.config import Cascades
from gatewayd.core import rollout, targets
from gatewayd.core.image import Image, Keyring
from gatewayd.core.rollout import Command, CommandError, Rollout, Rules
from gatewayd.core.targets import Candidate, Selector, TargetError
from gatewayd.errors import ConfigError, StoreError
from gatewayd.ledger import Ledger, StoredRollout
from gatewayd.store import Store

_LATELY_S = 7 * 86_400.0  # whose events choose the canary
_MOST_NAMES = 12  # in a line


class Plan(NamedTuple):
    """A rollout as it would be."""

    image: Image
    upload_sha256: bytes
    groups: tuple[tuple[str, ...], ...]
    left_out: dict[str, str]  # node -> why
    rules: Rules


# ---- start


def keyring(cascades: Cascades) -> Keyring:
    """The keys of which one must have signed a bundle. Raises ConfigError where there is none."""
    if not cascades.keys:
        raise ConfigError("cascades.keys: no public key is trusted, so no bundle is; name the file that `gatewayctl keys make` made (.pub)")
    return signing.keyring(cascades.keys)


def plan(
    store: Store, ledger: Ledger, data: bytes, keys: Keyring, source: str, wanted: Mapping[str, list[str]], sizes: str, rules: Rules
) -> Plan:
    """Verify a bundle, and choose its nodes and their groups. Blocks; raises CascadeError, CommandError, StoreError, TargetError."""
    opened = bundle.parse_bundle(data, keys, source)
    image = opened.image
    _refuse_second(ledger, image.cascade)
    groups, left_out = _groups(store, ledger, image, Selector(image.cascade, **wanted), sizes, time.time())
    return Plan(image, hashlib.sha256(opened.members[bundle.NODE_IMAGE]).digest(), groups, left_out, rules)


def start(ledger: Ledger, bundles: Path, data: bytes, plan: Plan) -> StoredRollout:
    """Hand a rollout to the daemon, which notices within a second. Blocks; raises CommandError, StoreError."""
    image, now_s = plan.image, time.time()
    draft = Rollout("", image.cascade, image.version, image.sha256, image.size_bytes, plan.groups, plan.rules)
    bundle_sha256 = _keep(data, bundles)
    return StoredRollout(ledger.add(draft, bundle_sha256, plan.upload_sha256, now_s), bundle_sha256, now_s, closed=False)


def _refuse_second(ledger: Ledger, cascade: str) -> None:
    """Says early what Ledger.add says in the end."""
    for stored in ledger.open_rollouts():
        if stored.rollout.cascade == cascade:
            state = stored.rollout.state.replace("_", " ")
            raise CommandError(f"rollout {stored.rollout.id} of {cascade} is {state}: it must end first")


def _groups(
    store: Store, ledger: Ledger, image: Image, selector: Selector, sizes: str, now_s: float
) -> tuple[tuple[tuple[str, ...], ...], dict[str, str]]:
    """Node ids by group, and those left out with the reason why."""
    candidates = [Candidate(node.id, node.enrolled, node.last_seen_s, node.info, node.labels) for node in store.nodes()]
    meant = targets.select(candidates, selector)
    left_out = {node.id: reason for node in meant if node.info and (reason := targets.unfit(image, node.info))}
    fit = [node for node in meant if node.id not in left_out]
    if not fit:
        raise TargetError(f"no node is left: {reasons(left_out)}")
    judged: Counter[str] = Counter()
    for _, cell in ledger.cells(selector.cascade, now_s - _LATELY_S, now_s):
        judged[cell.node] += cell.escalated + cell.audits
    return targets.split(targets.in_turn(fit, judged, now_s), sizes), left_out


def reasons(left_out: Mapping[str, str]) -> str:
    """Why nodes are left out, and which."""
    of = {reason: [node for node, why in left_out.items() if why == reason] for reason in dict.fromkeys(left_out.values())}
    return "; ".join(f"{reason}: {few(nodes)}" for reason, nodes in of.items())


def few(names: Sequence[str]) -> str:
    """As many of them as are readable in a line."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _keep(data: bytes, folder: Path) -> str:
    """Put a bundle's file under its SHA-256, where it survives a power cut whole. Raises StoreError."""
    sha256 = hashlib.sha256(data).hexdigest()
    partial = folder / f".{sha256}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        state.own(folder)
        partial.unlink(missing_ok=True)
        with partial.open("xb") as stream:
            state.own(partial)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(folder / f"{sha256}.bundle")
        for above in (folder, folder.parent):  # the folder may be new too
            descriptor = os.open(above, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise StoreError(f"bundle not kept: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return sha256


# ---- orders


def found(ledger: Ledger, id_: str) -> StoredRollout:
    """The rollout of that id. Blocks; raises CommandError where there is none."""
    stored = ledger.rollout(id_)
    if stored is None:
        raise CommandError(f"there is no rollout {id_!r}; `gatewayctl rollout list` shows those there are")
    return stored


def order(ledger: Ledger, id_: str, command: Command, because: str) -> None:
    """Have the daemon carry out `command`. Blocks; raises CommandError where the rollout cannot take it, StoreError."""
    expected, now_s = found(ledger, id_).rollout, time.time()
    for earlier in ledger.orders():
        if earlier.rollout_id == expected.id:
            with contextlib.suppress(CommandError):
                expected = rollout.command(expected, earlier.command, earlier.at_s)
    rollout.command(expected, command, now_s)
    if command is Command.ROLL_BACK:
        _refuse_older(ledger, expected)
    ledger.order(expected.id, command, " ".join(because.split()) or "operator", now_s)


def _refuse_older(ledger: Ledger, one: Rollout) -> None:
    """Nodes keep what they ran before the newest image, and nothing older."""
    for stored in ledger.rollouts():
        newer = stored.rollout
        if newer.cascade == one.cascade and int(newer.id) > int(one.id) and newer.state is not rollout.State.ROLLED_BACK:
            raise CommandError(f"rollout {newer.id} of {newer.cascade} came after it: that one can be rolled back")
