"""When silence means that a node is gone."""

from gatewayd.core.types import NodeState

GRACE_MS = 5_000
_MISSED = 3  # reports in a row
_HERE = frozenset({NodeState.INIT, NodeState.READY})


def patience_ms(vitals_interval_s: int) -> int:
    """How long a node that reports every `vitals_interval_s` may be silent: three missed reports and a grace."""
    return _MISSED * vitals_interval_s * 1_000 + GRACE_MS


def is_up(state: NodeState, silent_ms: int, vitals_interval_s: int) -> bool:
    """Whether a node is there: its own word (or its will's) first, then its silence."""
    return state in _HERE and silent_ms <= patience_ms(vitals_interval_s)
