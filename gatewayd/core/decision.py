"""From a node's suspicion and a larger model's opinion to one verdict."""

from gatewayd.core.cascade import Cascade
from gatewayd.core.types import Basis, Event, Opinion, Reason, Verdict


def decide(event: Event, cascade: Cascade, opinion: Opinion | None, basis: Basis) -> Verdict:
    """The verdict on `event`. Without an opinion the node stands alone, and only its strong suspicions are believed."""
    if opinion is None:
        accepted = event.reason is Reason.TRIGGER and event.score >= cascade.policy.alone_score
        label, score, action = _node_label(event, cascade), event.score, ""
    else:
        accepted, label, score, action = opinion.accepted, opinion.label, opinion.score, opinion.action
    if not accepted or event.reason is Reason.AUDIT:  # an audit measures; it is too late to act on it
        action = ""
    elif not action:
        action = cascade.policy.actions.get(label, cascade.policy.action if event.reason is Reason.TRIGGER else "")
    return Verdict(event.seq, event.session, accepted, label, min(max(score, 0.0), 1.0), action, cascade.policy.ttl_ms, basis)


def _node_label(event: Event, cascade: Cascade) -> str:
    labels = cascade.node.decision.labels
    return labels[event.label] if event.label < len(labels) else ""
