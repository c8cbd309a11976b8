"""Makes build/deb/gatewayd_VERSION_ARCH.deb, and gatewayd-speech beside it: `build.py [--arch arm64] [--python python3.13]`.

The package has its own virtual environment in /opt/gatewayd, for the Python of the Debian that it is made for. That Python must be
here, since it also compiles; the processor need not be. The same input makes the same file (SOURCE_DATE_EPOCH).
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import wheels
from typer._completion_shared import get_completion_script

sys.path.insert(0, str(wheels.ROOT))
import gatewayd

ROOT, HERE = wheels.ROOT, Path(__file__).parent
BUILD = ROOT / "build" / "deb"
OPT = Path("opt/gatewayd")
FILES = {  # in the source: folder in the package
    "systemd/*.service": "usr/lib/systemd/system",
    "systemd/*.catalog": "usr/lib/systemd/catalog",
    "systemd/sysusers.d/*": "usr/lib/sysusers.d",
    "systemd/tmpfiles.d/*": "usr/lib/tmpfiles.d",
    "deploy/mosquitto/*/*.conf": "etc/gatewayd/mosquitto",
    "deploy/mosquitto/site/acl": "etc/mosquitto/gatewayd",
    "deploy/prometheus/*.yml": "usr/share/gatewayd/prometheus",
    "deploy/prometheus/rules/*.yml": "usr/share/gatewayd/prometheus/rules",
    "deploy/grafana/*.json": "usr/share/gatewayd/grafana",
    "CHANGELOG.md": "usr/share/doc/gatewayd",
    "docs/*.md": "usr/share/doc/gatewayd/docs",
}
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/gatewayctl",
    "zsh": "usr/share/zsh/vendor-completions/_gatewayctl",
    "fish": "usr/share/fish/vendor_completions.d/gatewayctl.fish",
}
LOCAL = ("RECORD", "direct_url.json")  # of what pip notes: what names this machine, or what is not there
PACKAGES = "gatewayd", "cascades"
# Nobody writes there, so nobody need look whether what is compiled is current.
COMPILE = "-I", "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash"
ENTRY = """#!/opt/gatewayd/bin/python3 -I
import sys

from gatewayd.cli import main

if __name__ == "__main__":  # the workers' processes import it
    sys.exit(main())
"""


def main() -> None:
    """Make both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=wheels.PROCESSORS, default=_run("dpkg", "--print-architecture").strip())
    parser.add_argument("--python", default="/usr/bin/python3", help="Python of the Debian it is for; default: this machine's")
    options = parser.parse_args()
    for path in build(options.python, options.arch, BUILD):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def build(python: str, arch: str, output: Path) -> list[Path]:
    """Both packages, in `output`, which also keeps what is of PyPI. Raises RuntimeError with what a program said."""
    minor = _run(python, "-c", "import sys; print('{}.{}'.format(*sys.version_info))").strip()
    site = OPT / "lib" / f"python{minor}" / "site-packages"
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as name:
        folder = Path(name)
        main, speech = folder / "gatewayd", folder / "gatewayd-speech"
        for root, locks in ((main, (wheels.GATEWAY, wheels.SOURCE)), (speech, (wheels.SPEECH,))):
            shutil.copytree(_pypi(locks, python, minor, arch, output), root / site, copy_function=os.link)
        wheels.project(folder)
        _unpack(folder, main / site)
        _run(python, *COMPILE, "-s", main, "-p", "/", *(main / site / package for package in PACKAGES))
        _environment(main / OPT, minor)
        _files(main)
        return [_pack(root, root / site, arch, minor, output) for root in (main, speech)]


def _pypi(locks: tuple[Path, ...], python: str, minor: str, arch: str, output: Path) -> Path:
    """site-packages with what the lock files name, compiled; made once."""
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()
    kept = output / f"{locks[0].stem}-py{minor}-{arch}-{digest[:12]}"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=output) as name:
            site, made = Path(name) / "site", Path(name) / "made"
            wheels.install(site, minor, arch, locks[0])
            for lock in locks[1:]:
                wheels.make(made, lock)
            _unpack(made, site)
            shutil.rmtree(site / "bin", ignore_errors=True)
            for folder in [*site.rglob("tests"), *site.rglob("__pycache__")]:
                shutil.rmtree(folder)
            _run(python, *COMPILE, "-s", site, "-p", f"/{OPT}/lib/python{minor}/site-packages", site)
            site.rename(kept)
    return kept


def _unpack(folder: Path, site: Path) -> None:
    """Install the wheels in `folder`, which are pure Python."""
    for wheel in sorted(folder.glob("*.whl")):
        shutil.unpack_archive(wheel, site, "zip")


def _environment(opt: Path, minor: str) -> None:
    """What makes a folder a virtual environment (PEP 405), and its one program."""
    (opt / "bin").mkdir()
    (opt / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {minor}\n")
    (opt / "bin" / "python3").symlink_to(f"/usr/bin/python{minor}")
    entry = opt / "bin" / "gatewayctl"
    entry.write_text(ENTRY)
    entry.chmod(0o755)


def _files(root: Path) -> None:
    """All outside of /opt."""
    for pattern, place in FILES.items():
        for file in sorted(ROOT.glob(pattern)):
            (root / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / place)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/gatewayctl").symlink_to("/opt/gatewayd/bin/gatewayctl")
    settings = (ROOT / "deploy" / "gatewayd.toml").read_text()
    for line in ('username = "gatewayd"', 'password_file = "/etc/gatewayd/mqtt.password"'):  # postinst sees to these
        settings = settings.replace(f"# {line}\n", f"{line}\n")
    (root / "etc/gatewayd/gatewayd.toml").write_text(settings)
    for shell, place in COMPLETIONS.items():
        (root / place).parent.mkdir(parents=True)
        (root / place).write_text(get_completion_script(prog_name="gatewayctl", complete_var="_GATEWAYCTL_COMPLETE", shell=shell))


def _papers(root: Path, site: Path) -> None:
    """The licence, and the list of what is inside."""
    components = [
        {
            "type": "library",
            "name": one.name,
            "version": one.version,
            "purl": f"pkg:pypi/{one.name.lower().replace('_', '-')}@{one.version}",
            "licenses": [{"license": {"name": one.metadata.get("License-Expression") or one.metadata.get("License", "").split("\n")[0]}}],
        }
        for one in sorted(importlib.metadata.distributions(path=[str(site)]), key=lambda one: one.name.lower())
    ]
    docs = root / "usr/share/doc" / root.name
    docs.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "LICENSE", docs / "copyright")
    sbom = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}
    (docs / "sbom.cdx.json").write_text(json.dumps(sbom, indent=1))


def _pack(root: Path, site: Path, arch: str, minor: str, output: Path) -> Path:
    """A package of all that is in `root`."""
    _papers(root, site)
    for note in (note for name in LOCAL for note in site.glob(f"*.dist-info/{name}")):
        note.unlink()
    meta = root / "DEBIAN"
    meta.mkdir()
    version = f"{gatewayd.__version__}+py{minor}"
    values = {"version": version, "arch": arch, "python": minor, "next_python": f"3.{int(minor.partition('.')[2]) + 1}"}
    size = sum(file.lstat().st_size for file in root.rglob("*") if file.is_file()) // 1024
    text = (HERE / f"{root.name}.control").read_text()
    (meta / "control").write_text(string.Template(text).substitute(values, kilobytes=size))
    for script in ("postinst", "prerm", "postrm"):
        if (source := HERE / f"{root.name}.{script}").exists():
            shutil.copy(source, meta / script)
            (meta / script).chmod(0o755)
    if settings := sorted(file for file in (root / "etc").rglob("*") if file.is_file()):
        (meta / "conffiles").write_text("".join(f"/{file.relative_to(root)}\n" for file in settings))
    for path in (path for path in [root, *root.rglob("*")] if not path.is_symlink()):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    file = output / f"{root.name}_{version}_{arch}.deb"
    _run("dpkg-deb", "--root-owner-group", "-Zzstd", "--build", root, file, env=_epoch())
    return file


def _epoch() -> dict[str, str]:
    """The time that all files get."""
    return {"SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH") or _run("git", "log", "-1", "--format=%ct").strip()}


def _run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | (env or {}))
    if done.returncode:
        raise RuntimeError(f"{command[0]}: status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
