"""Each virtio-serial port hci* is a Bluetooth adapter: H4 packets to and from /dev/vhci, plugged in while the host has the port open."""

import os
import select
import threading
import time
from pathlib import Path

VENDOR = 0xFF  # packets between us and the driver: ff 00 makes an adapter
HEADERS = {1: (4, 3, 1), 2: (5, 3, 2), 3: (4, 3, 1), 4: (3, 2, 1), 5: (5, 3, 2)}  # by type: size, where the length is, its size


def packets(data):
    """Take the whole packets off the front of `data`."""
    while data and len(data) >= HEADERS[data[0]][0]:
        header, at, size = HEADERS[data[0]]
        length = int.from_bytes(data[at : at + size], "little")
        if data[0] == 5:
            length &= 0x3FFF
        if len(data) < header + length:
            return
        yield bytes(data[: header + length])
        del data[: header + length]


def adapter(port):
    """While the host listens."""
    vhci = os.open("/dev/vhci", os.O_RDWR)
    try:
        os.write(vhci, bytes([VENDOR, 0]))
        poll, received = select.poll(), bytearray()
        poll.register(port, select.POLLIN)
        poll.register(vhci, select.POLLIN)
        while True:
            for file, events in poll.poll():
                if events & (select.POLLHUP | select.POLLERR):
                    return
                data = os.read(file, 65536)
                if file == port:
                    received += data
                    for packet in packets(received):
                        os.write(vhci, packet)
                elif data[0] != VENDOR:
                    os.write(port, data)
    finally:
        os.close(vhci)


def relay(path):
    """For ever."""
    port = os.open(path, os.O_RDWR)
    poll = select.poll()
    poll.register(port, 0)
    while True:
        if poll.poll(0):  # nobody has opened the other end
            time.sleep(0.1)
        else:
            adapter(port)


for path in Path("/dev/virtio-ports").glob("hci*"):
    threading.Thread(target=relay, args=(path,)).start()
