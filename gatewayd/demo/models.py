"""The wake-word models of the demo's second act: the one that ships, a better one and a spoilt one, each a cascade of its own version.

All three differ in the last layer of one network, 64 weights and a bias, and in nothing else. The better one's was fitted by
cascades/wakeword/refit.py and is better on voices and words that the fit did not hear. The spoilt one's is the better one's with its bias
raised: it is signed with the operator's key, computes what its self-test says, and takes almost everything that is said for its word.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cascades.wakeword.last_layer import Layer, Model
from gatewayd import app, bundle

OLD, BETTER, SPOILT = "1.0.0", "1.1.0", "1.2.0"
_RAISED = 4.0  # logits
_AUDIT_S = 60
_FILES = ("CARD.md", "head.npz")
_SHIPPED = app.SHIPPED_CASCADES / "wakeword"
# An accepted wake word only chimes: understanding the command after each would take all of a small machine's time.
_CHANGES = (
    (r'^version = ".*"$', 'version = "{version}"'),
    (r'^model = ".*"$', 'model = "node.tflite"'),
    (r"^audit_s = .*$", f"audit_s = {_AUDIT_S}"),
    (r'^action = "listen"$', 'action = "chime"'),
)


class Models(NamedTuple):
    """The folder that the gateway begins with, the image that the nodes begin with, and the bundles of what is rolled out."""

    folder: Path
    image: Path
    better: Path
    spoilt: Path


def build(folder: Path, key: Ed25519PrivateKey) -> Models:
    """Make the three, signed with `key`, in `folder`. Takes some ten seconds."""
    old = _version(folder, OLD, None)
    image = folder / "wakeword-old.img"
    image.write_bytes(bundle.node_image(old, key=key))
    with np.load(_SHIPPED / "refit.npz") as fitted:
        layer = Layer(fitted["weights"].astype(float), float(fitted["bias"]))
    bundles = []
    for version, bias in ((BETTER, layer.bias), (SPOILT, layer.bias + _RAISED)):
        bundles.append(folder / f"wakeword-{version}.bundle")
        made = _version(folder, version, layer._replace(bias=bias))
        bundles[-1].write_bytes(bundle.build(made, counter=1, key=key))
    return Models(old.path, image, *bundles)


def _version(folder: Path, version: str, layer: Layer | None) -> bundle.Folder:
    """The shipped cascade as another version, with `layer` in place of its own."""
    path = folder / f"wakeword-{version}"
    path.mkdir()
    text = (_SHIPPED / bundle.CASCADE).read_text()
    for pattern, line in _CHANGES:
        text, count = re.subn(pattern, line.format(version=version), text, flags=re.MULTILINE)
        assert count == 1, pattern
    (path / bundle.CASCADE).write_text(text)
    for name in _FILES:
        (path / name).write_bytes((_SHIPPED / name).read_bytes())
    content = bundle.node_model(bundle.read(_SHIPPED))
    (path / "node.tflite").write_bytes(Model(content).with_layer(layer) if layer else content)
    return bundle.read(path)
