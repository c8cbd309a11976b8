"""tls.c behind ctypes: bytes in, bytes out."""

import ctypes as c
import secrets

ROOM_BYTES = 16_384  # for a tls_t, whose size only the C compiler knows
RANDOM = c.CFUNCTYPE(c.c_uint32, c.c_void_p)
RECEIVED = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(c.c_uint8), c.c_size_t)
CERT_VERIFY_FAILED, FATAL_ALERT, CLOSE_NOTIFY, INVALID_MAC, UNEXPECTED = -0x2700, -0x7780, -0x7880, -0x7180, -0x7700


class Credentials(c.Structure):
    _fields_ = (
        ("identity", c.c_char_p),
        ("psk", c.c_char_p),
        ("psk_size", c.c_size_t),
        ("host", c.c_char_p),
        ("ca", c.c_char_p),
        ("certificate", c.c_char_p),
        ("key", c.c_char_p),
        ("ca_size", c.c_size_t),
        ("certificate_size", c.c_size_t),
        ("key_size", c.c_size_t),
        ("random", RANDOM),
        ("context", c.c_void_p),
    )


class Error(Exception):
    """What mbedTLS calls it is its argument."""


def _checked(status):
    if status < 0:
        raise Error(status)
    return status


def counted():
    """Random numbers for a handshake that is the same in every run."""
    state = 0

    def following():
        nonlocal state
        state += 1
        return state

    return following


class Client:
    """A node's side; `heard` is what the other side said."""

    def __init__(self, lib, random=lambda: secrets.randbits(32), **credentials):
        self._lib, self.heard = lib, b""
        sizes = {f"{name}_size": len(value) for name, value in credentials.items() if value and name in {"psk", "ca", "certificate", "key"}}
        self._credentials = Credentials(**credentials, **sizes, random=RANDOM(lambda _: random()))
        self._received = RECEIVED(self._hear)
        self._tls = c.create_string_buffer(ROOM_BYTES)
        lib.tls_transmit.restype, lib.tls_ready.restype = c.c_size_t, c.c_bool
        _checked(lib.tls_open(self._tls, c.byref(self._credentials)))

    def _hear(self, _, data, size):
        self.heard += c.string_at(data, size)
        return 0

    def close(self):
        self._lib.tls_close(self._tls)

    def start(self):
        self.heard = b""
        _checked(self._lib.tls_start(self._tls))

    @property
    def ready(self):
        return self._lib.tls_ready(self._tls)

    def receive(self, data):
        _checked(self._lib.tls_receive(self._tls, data, c.c_size_t(len(data)), self._received, None))

    def transmit(self, most=1 << 20):
        """The next bytes for the other side, as if a socket took `most` of them at a time."""
        data = c.c_void_p()
        out = b""
        while size := min(most, self._lib.tls_transmit(self._tls, c.byref(data))):
            out += c.string_at(data, size)
            _checked(self._lib.tls_transmitted(self._tls, c.c_size_t(size)))
        return out

    def write(self, data):
        """How many bytes it took."""
        return _checked(self._lib.tls_write(self._tls, data, c.c_size_t(len(data))))
