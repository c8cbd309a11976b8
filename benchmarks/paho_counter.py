"""The reference: a bare paho subscriber of QoS 1 that only counts. `paho_counter.py PORT`; prints its count at SIGTERM."""

import signal
import sys
from typing import Any

import paho.mqtt.client as paho


def main() -> None:
    """Count until SIGTERM."""
    count = 0

    def on_message(*_args: Any) -> None:
        nonlocal count
        count += 1

    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="bench-counter", clean_session=True)
    client.on_message = on_message
    client.connect("127.0.0.1", int(sys.argv[1]))
    client.subscribe("nodelink/1/up/+/+", qos=1)
    signal.signal(signal.SIGTERM, lambda *_: client.disconnect())
    client.loop_forever()
    print(count, flush=True)


if __name__ == "__main__":
    main()
