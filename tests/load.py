"""A node under load, as a process: `load.py PORT NODE`. For each line `COUNT` on its stdin it publishes so many events of QoS 1, and says
`acknowledged TOTAL` when the broker has acknowledged all of them, through whatever losses of its connection.
"""

import sys
import time

import paho.mqtt.client as paho
from live import event

from gatewayd.core import wire


def main(port, node):
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=node, clean_session=False)
    client.max_queued_messages_set(0)
    client.reconnect_delay_set(1, 1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    acknowledged = set()
    client.on_publish = lambda _client, _userdata, mid, _code, _properties: acknowledged.add(mid)
    seq = 0
    for line in sys.stdin:
        sent = set()
        for _ in range(int(line)):
            one = event(seq) if seq % 50 == 0 else event(seq, window=None)  # some are for the larger model
            sent.add(client.publish(f"nodelink/1/up/{node}/event", wire.encode(one), qos=1).mid)
            seq += 1
        while not sent <= acknowledged:
            time.sleep(0.02)
        acknowledged -= sent
        print("acknowledged", seq, flush=True)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
