"""Ed25519 on the node, against the gateway's: what one takes the other takes, and where they differ the node is the stricter one.

There is one exception, which only the owner of a private key can make: see the last test.
"""

import ctypes
import hashlib
import itertools
import random

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
RFC_8032 = (  # section 7.1: key, message, signature
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
)
# Every encoding of the eight points of small order: y = 0, 1, -1 and the two y of order 8, with and without P added, both signs of x.
ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER = [
    (y | sign << 255).to_bytes(32, "little") for y in (0, 1, P - 1, P, P + 1, ORDER_8, P - ORDER_8) for sign in (0, 1) if y < 1 << 255
]


@pytest.fixture
def node(libnode):
    def check(signature, key, message):
        libnode.verify_signature.restype = ctypes.c_bool
        return libnode.verify_signature(signature, key, message, ctypes.c_size_t(len(message)))

    return check


def gateway(signature, key, message):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def scalar(signature):
    return int.from_bytes(signature[32:], "little")


@pytest.mark.parametrize(("key", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032(node, key, message, signature):
    key, message, signature = map(bytes.fromhex, (key, message, signature))
    assert node(signature, key, message)
    for at in range(0, 512, 7):
        broken = bytearray(signature)
        broken[at // 8] ^= 1 << at % 8
        assert not node(bytes(broken), key, message)
    assert not node(signature, key, message + b"?")


def test_what_the_gateway_signs_and_what_it_did_not(node):
    draw = random.Random(1)
    for size in range(300):
        private = Ed25519PrivateKey.from_private_bytes(draw.randbytes(32))
        key, message = private.public_key().public_bytes_raw(), draw.randbytes(size)
        signature = private.sign(message)
        assert node(signature, key, message)
        which = draw.choice(("signature", "key", "message" if size else "key"))
        parts = {"signature": bytearray(signature), "key": bytearray(key), "message": bytearray(message)}
        parts[which][draw.randrange(len(parts[which]))] ^= 1 << draw.randrange(8)
        broken = [bytes(part) for part in parts.values()]
        assert not node(*broken)
        assert not gateway(*broken)


def test_a_signature_has_one_form(node):
    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key, message = private.public_key().public_bytes_raw(), b"message"
    signature = private.sign(message)
    for n in range(1, 2**256 // L + 1):  # S + n L satisfies the same equation
        malleable = signature[:32] + ((scalar(signature) + n * L) % 2**256).to_bytes(32, "little")
        assert not node(malleable, key, message)
        assert not gateway(malleable, key, message)
    assert node(signature, key, message)


def test_points_of_small_order_are_no_keys(node):
    accepted = 0
    for key, point, message in itertools.product(SMALL_ORDER, SMALL_ORDER, (b"message", b"another", b"third")):
        signature = point + bytes(32)  # with S = 0 nobody needs to know anything
        accepted += gateway(signature, key, message)
        assert not node(signature, key, message)
    assert accepted  # the gateway is not so strict; its keys are its operator's own


# ---- a textbook's Ed25519, to sign what no library would


def add(one, other):
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P


def times(n, point):
    result = (0, 1)
    for bit in f"{n:b}":
        result = add(result, result)
        result = add(result, point) if bit == "1" else result
    return result


def encoded(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decoded(y):
    """The point with this y and an even x."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    assert x * x % P == square
    return (x if x % 2 == 0 else P - x), y


def signed(secret, r, torsion, message):
    """A signature with `torsion` added to R, and the key."""
    base = decoded(4 * pow(5, -1, P) % P)
    key, point = encoded(times(secret, base)), encoded(add(times(r, base), torsion))
    h = int.from_bytes(hashlib.sha512(point + key + message).digest(), "little") % L
    return point + ((r + h * secret) % L).to_bytes(32, "little"), key


def test_the_textbook_signs_as_both_do(node):
    signature, key = signed(1234, 5678, (0, 1), b"message")
    assert node(signature, key, b"message")
    assert gateway(signature, key, b"message")


def test_the_one_thing_that_only_the_node_takes_needs_the_private_key(node):
    """R with a part of small order: right with the cofactor, as RFC 8032 has it, and wrong without it."""
    signature, key = signed(1234, 5678, decoded(ORDER_8), b"message")
    assert node(signature, key, b"message")
    assert not gateway(signature, key, b"message")
