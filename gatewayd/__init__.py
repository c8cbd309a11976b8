"""gatewayd: a fleet of tiny models, found, judged and kept current by one Raspberry Pi."""

__version__ = "0.1.0"
