"""The guest's kernel and its root file system, which is its initial RAM disk: there is no disk, and nothing outlives its power.

Archives, one behind the other: Debian from the mirrors of this machine and the files in `root/`; then either what gatewayd needs of PyPI
and gatewayd as it is installed, or its Debian package, in two versions. Each is made again when what it is made of has changed.
"""

import hashlib
import json
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "vm"
KERNEL = BUILD / "vmlinux"
OLD, NEW, INSTALL = "/root/old.deb", "/root/new.deb", "/root/install.sh"  # in the guest
PROMETHEUS = "/root/prometheus"  # there: its package, with what it depends on
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "mmdebstrap": "mmdebstrap", "bsdtar": "libarchive-tools"}
PYTHON = "/usr/bin/python3"  # this machine's, which is the guest's
DEBIAN = "linux-image-amd64", "systemd-sysv", "dbus", "udev", "bluez", "python3", "mosquitto", "qemu-guest-agent"
MODULES = (  # with what they depend on
    *("crypto/*", "lib/*", "net/bluetooth/*", "net/rfkill/*", "drivers/bluetooth/hci_vhci.ko*", "drivers/hid/uhid.ko*"),
    *("drivers/block/loop.ko*", "fs/ext4/*", "fs/jbd2/*", "fs/mbcache.ko*"),
    *("drivers/virtio/*", "drivers/char/virtio_console.ko*", "drivers/char/hw_random/*"),
    *("drivers/net/virtio_net.ko*", "drivers/net/net_failover.ko*", "net/core/failover.ko*"),
)
UNUSED = (  # and not small
    *("boot/*", "usr/lib/*/perl", "usr/lib/udev/hwdb*", "usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/perl"),
    "usr/share/zoneinfo",
)
PROJECT = "gatewayd", "cascades", "systemd", "deploy", "pyproject.toml", "README.md", "LICENSE"
INSTALLED = {  # by hand, after the wheel
    "systemd/gatewayd.service": "usr/lib/systemd/system",
    "systemd/sysusers.d/gatewayd.conf": "usr/lib/sysusers.d",
    "deploy/mosquitto/shared/10-gatewayd.conf": "etc/mosquitto/conf.d",
    "tests/vm/gatewayd.toml": "etc/gatewayd",
}


def installed() -> Path:
    """A guest with gatewayd; its RAM disk, made where it is missing or old. Raises RuntimeError with what a program said."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*about["dependencies"], *about["optional-dependencies"]["ble"]]
    pins = ROOT / "constraints.txt"
    pypi = _stage("pypi", [requirements, pins.read_text()], lambda to: _pip(to, "-c", pins, *requirements))
    project = [_digest(ROOT / name for name in PROJECT), _digest([Path(__file__).parent / "gatewayd.toml"])]
    return _whole("installed", *_system(), pypi, _stage("project", project, _project))


def bare() -> Path:
    """A guest without gatewayd, whose package is in /root, as is Prometheus'; its RAM disk, as above."""
    system = [*_system()]
    package = _stage("package", [_digest(ROOT / name for name in (*PROJECT, "docs", "CHANGELOG.md"))], _package)
    return _whole("bare", *system, package, _stage("prometheus", [system[0].stat().st_mtime], lambda to: _prometheus(system[0], to)))


def _system():
    missing = {package for program, package in PROGRAMS.items() if not shutil.which(program)}
    if missing:
        raise RuntimeError(f"not installed: {', '.join(sorted(missing))} (scripts/setup.sh vm)")
    yield _stage("debian", [platform.freedesktop_os_release()["VERSION_CODENAME"], DEBIAN, MODULES, UNUSED], _debian)
    yield _stage("root", [_digest([Path(__file__).parent / "root"])], lambda to: _pack(Path(__file__).parent / "root", to))


def _whole(name, *parts):
    initrd = BUILD / f"{name}.initrd"
    if not initrd.exists() or initrd.stat().st_mtime < max(part.stat().st_mtime for part in parts):
        with initrd.open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole, 1 << 20)
    return initrd


def _stage(name, inputs, make):
    """`make` an archive in the format of initial RAM disks, unless it was made of the same."""
    BUILD.mkdir(parents=True, exist_ok=True)
    archive, stamp = BUILD / f"{name}.cpio", BUILD / f"{name}.json"
    wanted = json.dumps(inputs)
    if not archive.exists() or not stamp.exists() or stamp.read_text() != wanted:
        began = time.monotonic()
        stamp.unlink(missing_ok=True)
        make(archive)
        stamp.write_text(wanted)
        print(f"{archive.name}: {archive.stat().st_size >> 20} MiB in {time.monotonic() - began:.0f} s")
    return archive


def _debian(archive):
    """A system with the few modules of its kernel that a guest has use for, and that kernel without its wrapping, which costs seconds."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    sources = _run(
        "apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages", "Origin: Debian"
    )
    modules = [f"--dpkgopt=path-include=/lib/modules/*/kernel/{module}" for module in MODULES]
    with tempfile.TemporaryDirectory(dir=BUILD) as boot:
        Path(boot).chmod(0o755)
        system = Path(boot) / "system.tar"
        _run(
            *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(DEBIAN)}", "--aptopt=APT::Install-Recommends false"),
            *(
                "--dpkgopt=path-exclude=/lib/modules/*/kernel/*",
                *modules,
                f"--customize-hook=copy-out /boot {boot}",
                suite,
                system,
                *sources.splitlines(),
            ),
            env=os.environ | {"INITRD": "No"},  # asks Debian's own scripts for none
        )
        packed = next(Path(boot).glob("boot/vmlinuz-*")).read_bytes()
        KERNEL.write_bytes(lzma.LZMADecompressor().decompress(packed[packed.index(b"\xfd7zXZ\0") :]))
        _run("bsdtar", "--format=newc", *(f"--exclude=./{path}" for path in UNUSED), "-cf", archive, f"@{system}")


def _pip(archive, *arguments):
    """Install into an archive, for `PYTHON`."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        Path(folder).chmod(0o755)
        _install(folder, *arguments)
        _pack(folder, archive)


def _pack(folder, archive):
    _run("bsdtar", "--format=newc", "--uid=0", "--gid=0", "-cf", archive, "-C", folder, ".")


def _install(folder, *arguments):
    common = "--quiet", "--root", folder, "--prefix", "/usr", "--ignore-installed", "--no-warn-script-location", "--root-user-action=ignore"
    _run(sys.executable, "-m", "pip", "--python", PYTHON, "install", *common, *arguments)


def _project(archive):
    """The wheel, and what an operator installs by hand."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        root, source = Path(folder) / "root", Path(folder) / "source"
        for name in PROJECT:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            source.mkdir(exist_ok=True)
            copy(ROOT / name, source / name)
        root.mkdir(mode=0o755)
        _install(root, "--no-deps", source)
        for file, place in INSTALLED.items():
            (root / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, root / place)
        (root / "usr/bin").mkdir(exist_ok=True)
        (root / "usr/bin/gatewayctl").symlink_to("/usr/local/bin/gatewayctl")
        _pack(root, archive)


def _package(archive):
    """What `make deb` makes, and the same with a higher version."""
    _run(sys.executable, "deploy/deb/build.py")
    (package,) = (ROOT / "build" / "deb").glob("gatewayd_*.deb")
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        root, opened = Path(folder) / "root", Path(folder) / "opened"
        (root / OLD[1:]).parent.mkdir(parents=True)
        shutil.copy(package, root / OLD[1:])
        shutil.copy(ROOT / "deploy" / "install.sh", root / INSTALL[1:])
        _run("dpkg-deb", "-R", package, opened)
        control = opened / "DEBIAN" / "control"
        control.write_text(re.sub(r"^(Version: .*)$", r"\1.1", control.read_text(), flags=re.MULTILINE))
        _run("dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "-b", opened, root / NEW[1:])
        _pack(root, archive)


def _prometheus(system, archive):
    """Debian's package, and those that are not in `system`."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        Path(folder).chmod(0o755)
        state, packages = Path(folder) / "state", Path(folder) / "root" / PROMETHEUS[1:]
        state.mkdir()
        (state / "status").write_text(_run("bsdtar", "-xOf", system, "./var/lib/dpkg/status"))
        places = f"-oDir::State={state}", f"-oDir::State::status={state}/status", f"-oDir::Cache={state}", "-oDebug::NoLocking=true"
        _run("apt-get", "update", "-qq", *places)
        _run("apt-get", "install", "--download-only", "--no-install-recommends", "-qq", "-y", *places, "prometheus")
        shutil.copytree(state / "archives", packages, ignore=shutil.ignore_patterns("partial", "lock"))
        _pack(Path(folder) / "root", archive)


def _digest(paths):
    """Of the names and contents of all files at and below `paths`."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(f"{file.relative_to(ROOT)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout
