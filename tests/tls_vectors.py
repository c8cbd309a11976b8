"""Records what a server says to a client whose random numbers are 1, 2, 3...: tls_vectors.py; for replays, here and in fuzz_tls.c.

A recording is a byte, 0 for a key and 1 for certificates, then pieces: a byte of length below 255, and so many bytes. 255 is a new link.
"""

import contextlib
import ctypes
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from test_tls import CA, HOST, NODE, Server
from tls_client import Client, counted

ROOT = Path(__file__).parents[1]
VECTORS = ROOT / "tests" / "vectors"
IDENTITY, PSK = "node", bytes(range(16))
SAID = b"hello\n"
ANSWER = b"olleh\n"


class KeyServer:
    """`openssl s_server` that says every line backwards."""

    def __init__(self, port):
        self._port = port

    @contextlib.contextmanager
    def up(self):
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{self._port}", "-psk", PSK.hex(), "-psk_identity", IDENTITY]
        command += ["-nocert", "-tls1_2", "-rev", "-quiet"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            try:
                while True:
                    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self._port)) as self._socket:
                        yield self
                        return
                    time.sleep(0.01)
            finally:
                running.kill()

    def exchange(self, data):
        self._socket.sendall(data)
        self._socket.settimeout(0.3)
        answer = b""
        with contextlib.suppress(TimeoutError):
            while got := self._socket.recv(65_536):
                answer += got
        return answer


class CertificateServer(Server):
    """The same behind certificates."""

    def exchange(self, data):
        answer = super().exchange(data)
        if self.heard:
            self.tls.write(ANSWER)
            answer += self.sent()
        return answer


def record(client, server, kind):
    """The recording of a handshake, a line and its answer."""
    pieces = bytearray([kind])

    def talk():
        while data := client.transmit():
            answer = server.exchange(data)
            client.receive(answer)
            for at in range(0, len(answer), 254):
                piece = answer[at : at + 254]
                pieces.extend((len(piece), *piece))

    client.start()
    talk()
    client.write(SAID)
    talk()
    assert client.heard == ANSWER
    return bytes(pieces)


def main():
    lib = ctypes.CDLL(str(ROOT / "build" / "host" / "libnode.so"))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with KeyServer(port).up() as server:
        client = Client(lib, counted(), identity=IDENTITY.encode(), psk=PSK)
        (VECTORS / "tls-psk.bin").write_bytes(record(client, server, 0))
    with tempfile.TemporaryDirectory() as folder:
        authority = CA.certificate.public_bytes(Encoding.DER)
        client = Client(lib, counted(), host=HOST.encode(), ca=authority, **NODE.der())
        (VECTORS / "tls-x509.bin").write_bytes(record(client, CertificateServer(Path(folder)), 1))
    (VECTORS / "tls-ca.der").write_bytes(authority)
    (VECTORS / "tls-node.der").write_bytes(NODE.der()["certificate"])
    (VECTORS / "tls-node-key.der").write_bytes(NODE.der()["key"])


if __name__ == "__main__":
    main()
