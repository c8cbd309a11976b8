"""The pip-installable broker iotcore, for a demo where mosquitto is not: no access control, no persistence, never for production."""

import sys

from gatewayd.core.wire import MAX_PAYLOAD_BYTES
from gatewayd.errors import MissingPackageError


def main() -> None:
    """Serve MQTT on the loopback port in argv until killed. Raises MissingPackageError."""
    try:
        from iotcore import Broker  # noqa: PLC0415 -- optional
    except ImportError as error:
        raise MissingPackageError("iotcore", "demo") from error
    # Its own limits are 20 KB a message and 100 in flight: too small for a window of speech.
    broker = Broker(port=int(sys.argv[1]), listen="127.0.0.1", max_payload_size=2 * MAX_PAYLOAD_BYTES, max_inflight_count=1_000)
    broker.run_forever()


if __name__ == "__main__":
    main()
