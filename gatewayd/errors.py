"""Every error that gatewayd raises on purpose.

GatewaydError
├── ConfigError         the configuration cannot be used; says where and what to do
├── MissingPackageError an optional package is absent; says which extra installs it
├── DecodeError         bytes from outside are not what nodelink/1 allows; has a `reason` for the counter
├── CascadeError        a cascade's folder or image is not valid
│   └── RefusedError    an image or a bundle is not what it must be; has a `reason` for the counter
├── TransportError      a link broke or could not be made
├── NodeRefusedError    a node said no to what was asked over SMP; has a `reason`
├── EscalationError     a larger model gave no opinion; has a `reason`
│   ├── WorkerTimeoutError   it took longer than its deadline
│   └── WorkerCrashedError   its process ended, or it raised
└── StoreError          the disk or the database refuses
"""


class GatewaydError(Exception):
    """The root: everything below it is understood, everything else is a bug."""


class ConfigError(GatewaydError):
    """The configuration cannot be used."""


class MissingPackageError(GatewaydError):
    """An optional package is absent."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"package {package!r} is not installed: pip install 'gatewayd[{extra}]'")
        self.package = package
        self.extra = extra


class DecodeError(GatewaydError):
    """Bytes from outside are not what nodelink/1 allows."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason  # one of a small closed set: it is a metric label
        self.detail = detail


class CascadeError(GatewaydError):
    """A cascade's folder or image is not valid."""


class RefusedError(CascadeError):
    """An image or a bundle is not what it must be; nothing of it is used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason  # one of a small closed set (docs/nodelink.md, "Images" and "Bundles"): it is a metric label
        self.detail = detail


class TransportError(GatewaydError):
    """A link broke or could not be made."""


class NodeRefusedError(GatewaydError):
    """A node said no."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the node refuses: {reason}")
        self.reason = reason


class EscalationError(GatewaydError):
    """A larger model gave no opinion."""

    reason = "failed"


class WorkerTimeoutError(EscalationError):
    """A larger model took longer than its deadline."""

    reason = "timeout"


class WorkerCrashedError(EscalationError):
    """A larger model's process ended, or it raised."""


class StoreError(GatewaydError):
    """The disk or the database refuses."""
