"""A network of its own with a name server for one name. `dns.py NAME ADDRESS RESOLV_CONF` runs in new network and mount namespaces."""

import fcntl
import socket
import struct
import subprocess
import sys

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
ANSWER = struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4)  # the question's name, A, IN, for a minute, four bytes


def main():
    name, address, resolv_conf = sys.argv[1:]
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        fcntl.ioctl(server, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        subprocess.run(["mount", "--bind", resolv_conf, "/etc/resolv.conf"], check=True)
        server.bind(("127.0.0.1", 53))
        print("ready", flush=True)
        while True:
            query, client = server.recvfrom(512)
            known = query[12:].lower() == question
            header = query[:2] + struct.pack(">5H", 0x8180 if known else 0x8183, 1, known, 0, 0)
            server.sendto(header + query[12:] + (ANSWER + socket.inet_aton(address)) * known, client)
            print("asked", flush=True)


if __name__ == "__main__":
    main()
