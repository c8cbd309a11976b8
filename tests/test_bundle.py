"""Bundles: made, opened, shown; and every way in which one can be wrong has its reason."""

import functools
import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from node_image import Node
from typer.testing import CliRunner

from gatewayd import bundle, selftest, signing
from gatewayd.cli import app
from gatewayd.core import image, microfrontend, sealed
from gatewayd.errors import CascadeError, ConfigError, MissingPackageError, RefusedError

CASCADES = Path(__file__).parent.parent / "cascades"
FOLDER = bundle.read(CASCADES / "vibration")
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
KEYS = {image.key_hash(KEY.public_key()): KEY.public_key()}
MEMBERS = {"a.txt": b"one", "b/c.bin": bytes(range(256)), "empty": b""}


@functools.cache
def made() -> bytes:
    return bundle.build(FOLDER, counter=3, key=KEY)


def seal(members=MEMBERS, key=KEY, **changes) -> bytes:
    return sealed.seal(members, **{"cascade": "c", "version": "1.0.0", "counter": 1, "created_by": "test", "key": key, **changes})


def rezip(members: dict[str, bytes], **options) -> bytes:
    """As sealed does it, but whatever is asked for."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr, info.compress_type = 3, 0o100644 << 16, archive.compression
            archive.writestr(info, members[name])
    return out.getvalue()


def content(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_manifest(data: bytes, change) -> dict[str, bytes]:
    """The members with a changed manifest, signed again."""
    members = content(data)
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    text = json.dumps(manifest).encode()
    name = image.key_hash(KEY.public_key())
    return {**members, "manifest.json": text, "manifest.sig": name + KEY.sign(b"gatewayd bundle 1\0" + text)}


def resealed(**members) -> bytes:
    """The real bundle with other members, well signed."""
    kept = {name: value for name, value in content(made()).items() if not name.startswith("manifest.")}
    for name, value in members.items():
        full = {"toml": "cascade.toml", "image": "node.img", "selftest": "selftest.cbor", "card": "CARD.md"}[name]
        kept.pop(full)
        if value is not None:
            kept[full] = value
    return seal(kept, cascade="vibration", counter=3)


def reason(data: bytes, keys=KEYS) -> str:
    with pytest.raises(RefusedError) as caught:
        sealed.unseal(data, keys)
    return caught.value.reason


def reason_of_bundle(data: bytes) -> str:
    with pytest.raises(RefusedError) as caught:
        bundle.parse_bundle(data, KEYS)
    return caught.value.reason


# ---- the file


def test_what_was_sealed_comes_out():
    manifest, members = sealed.unseal(seal(), KEYS)
    assert members == MEMBERS
    assert (manifest.cascade, manifest.version, manifest.counter, manifest.created_by) == ("c", "1.0.0", 1, "test")
    assert manifest.members["a.txt"] == sealed.Member(sha256=hashlib.sha256(b"one").hexdigest(), size_bytes=3)


def test_the_same_members_are_the_same_bytes_on_every_machine():
    assert hashlib.sha256(seal()).hexdigest() == "0c05980c60d49b8129fc6c39754ebd00e8dbcb578ddcedaaf4bd4ba58e6457e7"
    assert rezip(content(seal())) == seal()


def test_every_flipped_bit_is_noticed():
    data, seen = seal(), set()
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            broken = bytearray(data)
            broken[at] ^= mask
            seen.add(reason(bytes(broken)))
    assert {"damaged", "name", "compressed"} <= seen <= {"damaged", "name", "compressed", "archive", "truncated", "missing", "oversized"}


def test_every_flip_that_a_zip_forgives_is_noticed():
    """Members changed and zipped anew, so that no checksum of the ZIP's gives it away."""
    members = content(seal())
    for name, value in members.items():
        expected = {"manifest.sig": {"key", "signature"}, "manifest.json": {"signature"}}.get(name, {"digest"})
        for at in range(len(value)):
            broken = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
            assert reason(rezip({**members, name: broken})) in expected


def test_every_cut_is_noticed():
    data = seal()
    for size in range(len(data)):
        assert reason(data[:size]) == ("truncated" if size >= 4 else "archive")


@given(st.binary(max_size=300), st.integers(0, 2000))
def test_anything_else_is_refused(noise, at):
    data = seal()
    spliced = data[:at] + noise + data[at + len(noise) :]
    if spliced != data:
        assert reason(spliced)


def test_other_files_are_not_bundles():
    assert reason(b"") == "archive"
    assert reason(b"GIF89a" + bytes(1000)) == "archive"
    assert reason(bundle.node_image(FOLDER)) == "archive"
    assert reason(rezip({"hello": b"there"})) == "missing"


def test_what_is_hidden_around_the_members_is_noticed():
    data = seal()
    assert reason(b"#!/bin/sh\n" + data) == "archive"
    assert reason(data + b"\0") == "truncated"
    assert reason(data + data) == "damaged"
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = b"read me"
    assert reason(out.getvalue()) == "truncated"


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a/../../b", "a//b", "a\\b", "..", ".hidden", "c:x", "a b", "ü", "x" * 65, "a\0b"]
)
def test_names_that_lead_elsewhere(name):
    data = rezip({**content(seal()), name.replace("\0", "#"): b"x"})
    assert reason(data.replace(b"a#b", b"a\0b")) == "name"


def test_a_name_that_comes_twice():
    out = io.BytesIO(seal())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(out, "a") as archive:
        archive.writestr("a.txt", b"two")
    assert reason(out.getvalue()) == "duplicate"


def test_bombs():
    assert reason(rezip({**content(seal()), "zeros": bytes(10_000_000)}, compression=zipfile.ZIP_DEFLATED)) == "compressed"
    assert reason(rezip({**content(seal()), **{f"m{i}": b"" for i in range(64)}})) == "oversized"
    assert reason(bytes(sealed.MAX_BYTES + 1)) == "oversized"
    data = rezip({**content(seal()), "zeros": b"z"})  # one member that claims to be huge, in the directory
    at = data.rindex(b"PK\x01\x02")
    claim = struct.pack("<II", 2**31, 2**31)
    assert reason(data[: at + 20] + claim + data[at + 28 :]) == "oversized"


def test_members_and_manifest_must_agree():
    members = content(seal())
    assert reason(rezip({**members, "more": b"x"})) == "extra"
    assert reason(rezip({name: value for name, value in members.items() if name != "a.txt"})) == "missing"
    assert reason(rezip({name: value for name, value in members.items() if name != "manifest.sig"})) == "missing"
    assert reason(rezip({**members, "a.txt": b"ones"})) == "member-size"
    assert reason(rezip({**members, "a.txt": b"eno"})) == "digest"


def test_who_signed():
    assert reason(seal(key=OTHER)) == "key"
    assert reason(seal(), keys={}) == "key"
    mine, other = content(seal()), content(seal(key=OTHER))
    assert reason(rezip({**mine, "manifest.sig": mine["manifest.sig"][:32] + other["manifest.sig"][32:]})) == "signature"
    assert reason(rezip({**mine, "manifest.sig": mine["manifest.sig"][:32]})) == "signature"
    undomained = mine["manifest.sig"][:32] + KEY.sign(mine["manifest.json"])
    assert reason(rezip({**mine, "manifest.sig": undomained})) == "signature"
    assert sealed.unseal(seal(key=OTHER), None).members == MEMBERS  # for showing only


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format="gatewayd-bundle/2"),
        lambda m: m.update(more=1),
        lambda m: m.pop("counter"),
        lambda m: m.update(counter=-1),
        lambda m: m.update(counter="1"),
        lambda m: m.update(cascade="../c"),
        lambda m: m.update(key_hash="0" * 64),
        lambda m: m["members"]["a.txt"].update(sha256="0"),
        lambda m: m["members"]["a.txt"].update(size_bytes=-1),
        lambda m: m.update(created_by="x" * 100_000),
    ],
)
def test_a_manifest_that_is_none(change):
    assert reason(rezip(with_manifest(seal(), change))) == "manifest"


def test_what_could_not_be_opened_is_not_sealed():
    with pytest.raises(RefusedError, match="name"):
        seal({"../evil": b"x"})


# ---- a cascade's


def test_a_bundle_holds_all_that_a_cascade_needs(tmp_path):
    file = tmp_path / "v.bundle"
    file.write_bytes(made())
    opened = bundle.open_bundle(file, KEYS)
    assert set(opened.members) == {
        "CARD.md", "LICENSE", "cascade.toml", "gateway.npz", "node.img", "normalisation.bin", "selftest.cbor"
    }  # fmt: skip
    assert opened.cascade == FOLDER.cascade
    assert opened.members["node.img"] == bundle.node_image(FOLDER, counter=3, key=KEY)
    assert (opened.manifest.cascade, opened.manifest.version, opened.manifest.counter) == ("vibration", "1.0.0", 3)
    unpacked = bundle.unpack(opened, tmp_path / "stored")
    assert bundle.read(tmp_path / "stored") == unpacked
    assert (tmp_path / "stored" / "gateway.npz").read_bytes() == (CASCADES / "vibration" / "gateway.npz").read_bytes()
    with pytest.raises(CascadeError):
        bundle.unpack(opened, tmp_path / "stored")  # what is there is not changed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stored", "v.bundle"]


def test_wakeword_too():
    opened = bundle.parse_bundle(bundle.build(bundle.read(CASCADES / "wakeword"), counter=1, key=KEY), KEYS)
    assert "head.npz" in opened.members
    assert opened.image.self_test is not None
    assert len(set(opened.image.self_test.outputs)) > 8  # not saturated


def test_an_audio_front_end_of_its_own_travels_in_the_image(tmp_path, libnode):
    shutil.copytree(CASCADES / "wakeword", tmp_path / "own")
    toml = tmp_path / "own" / "cascade.toml"
    text = (
        toml.read_text()
        .replace("step = 10", "step = 20")
        .replace("[node.decision]", "[node.front_end.tuning]\nenable_pcan = false\n\n[node.decision]")
    )
    toml.write_text(text)
    opened = bundle.parse_bundle(bundle.build(bundle.read(tmp_path / "own"), counter=1, key=KEY), KEYS)
    wanted = microfrontend.encode(microfrontend.Parameters(step_ms=20, tuning=microfrontend.Tuning(enable_pcan=False)))
    assert cbor2.loads(opened.image.front_end)[7] == wanted
    node = Node(libnode, KEY.public_key(), "wakeword", 1, 1 << 17, 1 << 17, 1 << 17)
    assert node.judge(opened.members["node.img"]) is None
    members = {name: data for name, data in opened.members.items() if not name.startswith("manifest.")}
    members["cascade.toml"] = text.replace("enable_pcan = false", "enable_pcan = true").encode()
    assert reason_of_bundle(seal(members, cascade="wakeword", counter=1)) == "mismatch"


def test_building_twice_gives_the_same_file():
    selftest.make.cache_clear()
    assert bundle.build(FOLDER, counter=3, key=KEY) == made()


def test_a_bundle_of_parts_that_do_not_belong_together():
    toml = content(made())["cascade.toml"].decode()
    assert reason_of_bundle(resealed(toml=toml.replace('name = "vibration"', 'name = "other"').encode())) == "mismatch"
    assert reason_of_bundle(resealed(toml=toml.replace("hold_off_ms = 10_000", "hold_off_ms = 1").encode())) == "mismatch"
    assert reason_of_bundle(resealed(toml=toml.replace("high_hz = 3900", "high_hz = 3901").encode())) == "mismatch"
    assert reason_of_bundle(resealed(toml=toml.replace("channels = 32", "channels = 31").encode())) == "mismatch"
    assert reason_of_bundle(resealed(toml=b"name = ")) == "cascade"
    assert reason_of_bundle(resealed(toml=b"\xff")) == "cascade"
    assert reason_of_bundle(resealed(image=bundle.node_image(FOLDER, counter=4, key=KEY))) == "mismatch"
    assert reason_of_bundle(resealed(image=bundle.node_image(FOLDER, counter=3))) == "key"
    assert reason_of_bundle(resealed(image=bundle.node_image(FOLDER, counter=3, key=OTHER))) == "key"
    assert reason_of_bundle(resealed(image=content(made())["node.img"][:-1] + b"\0")) == "signature"
    assert reason_of_bundle(resealed(image=b"no image")) == "size"
    assert reason_of_bundle(resealed(selftest=b"\xa0")) == "mismatch"
    for missing in ("toml", "image", "selftest", "card"):
        assert reason_of_bundle(resealed(**{missing: None})) == "missing"
    assert reason_of_bundle(seal({"CARD.md": b""})) == "missing"


def test_the_same_gateway_model_is_known_by_its_digest(tmp_path):
    def digest(change=lambda _path: None, old="", new="") -> bytes:
        path = tmp_path / "cascade"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(CASCADES / "vibration", path)
        file = path / "cascade.toml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        change(path)
        return bundle.gateway_digest(bundle.read(path))

    same = bundle.gateway_digest(FOLDER)
    others = {
        digest(old='[gateway]\nkind = "vibration"', new='[gateway]\nkind = "fake"'),
        digest(old="contact_deg = 0.0", new="contact_deg = 0.1"),
        digest(lambda path: (path / "gateway.npz").write_bytes(b"others")),
        digest(old="[policy.actions]", new='[[policy.commands]]\nname = "a"\nphrase = "b"\naction = "c"\n[policy.actions]'),
    }
    assert same not in others
    assert len(others) == 4
    assert digest(old="deadline_s = 2.0", new="deadline_s = 3.0") == same
    assert digest(old='version = "1.0.0"', new='version = "1.0.1"') == same
    assert digest(old="ttl_ms = 30_000", new="ttl_ms = 1") == same
    assert digest(lambda path: (path / "node.tflite").write_bytes(b"others")) == same
    with pytest.raises(CascadeError, match=r"gateway\.npz"):
        digest(lambda path: (path / "gateway.npz").unlink())


def test_the_image_is_signed_by_who_signed_the_manifest():
    both = {**KEYS, image.key_hash(OTHER.public_key()): OTHER.public_key()}
    data = resealed(image=bundle.node_image(FOLDER, counter=3, key=OTHER))
    with pytest.raises(RefusedError, match="mismatch: key"):
        bundle.parse_bundle(data, both)


def test_a_self_test_is_checked_where_it_can_be(monkeypatch):
    monkeypatch.setattr(selftest.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingPackageError, match=r"gatewayd\[build\]"):
        selftest.check(b"", 0, image.SelfTest(b"", b""))
    assert bundle.parse_bundle(made(), KEYS).cascade.name == "vibration"  # the node's own run decides


def test_folders_that_make_no_bundle(tmp_path):
    def broken(change) -> bundle.Folder:
        path = tmp_path / "cascade"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(CASCADES / "vibration", path)
        change(path)
        return bundle.read(path)

    def edit(old: str, new: str):
        def change(path: Path) -> None:
            file = path / "cascade.toml"
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))

        return change

    for change, says in (
        (lambda path: (path / "CARD.md").unlink(), "CARD.md"),
        (lambda path: (path / "gateway.npz").unlink(), "gateway.npz"),
        (lambda path: (path / "node.tflite").write_bytes(b"nothing"), "model"),
        (edit('license = "Apache-2.0"', ""), "LICENSE"),
        (edit('version = "1.0.0"', 'version = "one"'), "image"),
        (edit('reference = "gateway.npz"', 'reference = "../gateway.npz"\nother = "deep/er.npz"'), "deep/er.npz"),
    ):
        with pytest.raises(CascadeError, match=says):
            bundle.build(broken(change), counter=1, key=KEY)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CascadeError, match=r"no\.bundle"):
        bundle.open_bundle(tmp_path / "no.bundle", KEYS)


def test_opening_needs_none_of_what_making_needs():
    """Only the core's dependencies are imported: a gateway verifies without the extra `build`."""
    code = (
        "import sys; from pathlib import Path; from gatewayd import bundle\n"
        "absent = ('imgtool', 'ai_edge_litert', 'flatbuffers', 'tflite_micro')\n"
        "sys.modules.update(dict.fromkeys(absent))\n"  # importing one of them raises from now on
        "bundle.importlib.util.find_spec = lambda name: None\n"
        "print(bundle.parse_bundle(sys.stdin.buffer.read(), None).cascade.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=made(), capture_output=True, check=False, timeout=60)
    assert done.stdout == b"vibration\n", done.stderr.decode()


# ---- keys and commands


def test_keys(tmp_path):
    file = tmp_path / "key.pem"
    beside = signing.make(file)
    assert (file.stat().st_mode & 0o777, beside.name) == (0o600, "key.pem.pub")
    public = signing.load_public(beside)
    assert signing.load_private(file).public_key() == public == signing.load_public(file)
    assert signing.keyring([beside]) == {image.key_hash(public): public}
    with pytest.raises(ConfigError, match="exists"):
        signing.make(file)
    for wrong in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError):
            signing.load_public(wrong)
    (tmp_path / "junk").write_bytes(b"\xff")
    for load in (signing.load_private, signing.load_public):
        with pytest.raises(ConfigError):
            load(tmp_path / "junk")


def test_a_key_with_a_passphrase(tmp_path):
    file = tmp_path / "key.pem"
    signing.make(file, "open sesame")
    assert signing.encrypted(file)
    assert signing.load_private(file, "open sesame").public_key() == signing.load_public(tmp_path / "key.pem.pub")
    for wrong in ("", "sesame"):
        with pytest.raises(ConfigError, match="passphrase"):
            signing.load_private(file, wrong)


def test_other_kinds_of_keys_are_refused(tmp_path):
    for kind in ("X25519", "EC -pkeyopt ec_paramgen_curve:P-256"):
        file = tmp_path / "k.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", *kind.split(), "-out", file], check=True, capture_output=True)
        with pytest.raises(ConfigError, match="not an Ed25519 key"):
            signing.load_private(file)


def ctl(*arguments, said: str = "") -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], input=said)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_the_commands(tmp_path):
    key, public, file = tmp_path / "key.pem", tmp_path / "key.pem.pub", tmp_path / "v.bundle"
    assert f"{public} verifies" in ctl("keys", "make", key, "--passphrase", said="sesame\nsesame\n")
    shown = json.loads(ctl("keys", "show", public, "--json"))
    assert shown["key_hash"] in ctl("keys", "show", key, said="sesame\n")
    assert bytes.fromhex(shown["public_key"]) == signing.raw(signing.load_public(public))
    assert "the node's model 3,896 -> " in ctl("cascade", "build", CASCADES / "vibration", "--key", key, "-o", file, said="sesame\n")
    facts = json.loads(ctl("cascade", "inspect", file, "--key", public, "--json"))
    assert facts["bundle"]["signature"] == "verified"
    assert facts["bundle"]["key_hash"] == shown["key_hash"]
    assert facts["members"]["node.img"]["size_bytes"] == facts["node image"]["size_bytes"]
    assert facts["node image"]["operators"] == [9]
    assert facts["node image"]["decision"]["labels"] == ["anomaly"]
    assert facts["policy"]["action"] == "inspect"
    assert "NOT CHECKED" in ctl("cascade", "inspect", file)
    table = ctl("cascade", "inspect", file, "--key", public)
    assert "verified" in table
    assert "gateway.npz" in table
    image_file = tmp_path / "v.img"
    ctl("cascade", "image", CASCADES / "vibration", image_file, "--key", key, said="sesame\n")
    image.verify(image.parse(image_file.read_bytes()), signing.keyring([public]))


def test_a_command_that_refuses_says_why(tmp_path):
    file = tmp_path / "v.bundle"
    file.write_bytes(made()[:-10])
    signing.make(tmp_path / "key.pem")
    done = CliRunner().invoke(app, ["cascade", "inspect", str(file), "--key", str(tmp_path / "key.pem.pub")])
    assert isinstance(done.exception, RefusedError)
    assert done.exception.reason == "truncated"
