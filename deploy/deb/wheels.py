"""The wheels of the package, each by its hash, for a Python and a processor that need not be this machine's.

`python deploy/deb/wheels.py` writes requirements.txt and requirements-speech.txt anew, of pyproject.toml and constraints.txt.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE, GATEWAY, SPEECH = (Path(__file__).parent / f"requirements{suffix}.txt" for suffix in ("-source", "", "-speech"))
PROCESSORS = {"amd64": "x86_64", "arm64": "aarch64"}  # as Debian and Python call them
_PYTHONS = "3.11", "3.13"  # of Debian 12 and 13
_GLIBC = range(36, 16, -1)  # Debian 12 has 2.36
_EXTRAS = {GATEWAY: "wakeword,ble", SPEECH: "wakeword,ble,speech"}
_PROJECT = "gatewayd", "cascades", "pyproject.toml", "README.md", "LICENSE"
_HEAD = "# By deploy/deb/wheels.py: extras {extras}{beyond} as constraints.txt has them, for Python {pythons} on {processors}.\n"


def install(site: Path, python: str, arch: str, lock: Path) -> None:
    """Install what a lock file names into a folder of site-packages. It names all: nothing is resolved."""
    pip("install", "--no-deps", "--no-compile", "--target", site, *_target(python, arch), "--require-hashes", "-r", lock)


def make(folder: Path, lock: Path) -> None:
    """Make wheels of what a lock file names, in Python only."""
    pip("wheel", "--no-deps", "--no-cache-dir", "-w", folder, "--require-hashes", "-r", lock, env={"CC": "/bin/false"})


def project(folder: Path) -> Path:
    """Make the project's wheel."""
    with tempfile.TemporaryDirectory(dir=folder) as source:  # setuptools leaves its own files beside what it reads
        for name in _PROJECT:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(source) / name)
        pip("wheel", "--no-deps", "-w", folder, source)
    return next(folder.glob("gatewayd-*.whl"))


def pip(*arguments: str | Path, env: dict[str, str] | None = None) -> None:
    """Run it. Raises RuntimeError with what it said."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | (env or {}))
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def _target(python: str, arch: str) -> Iterator[str]:
    yield from ("--ignore-installed", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}")
    for libc in (*(f"manylinux_2_{minor}" for minor in _GLIBC), "manylinux2014"):
        yield f"--platform={libc}_{PROCESSORS[arch]}"


def _lock() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), SOURCE)
        wheel = project(Path(folder))
        ours = {file.name.partition("-")[0] for file in Path(folder).glob("*.whl")}
        done: set[str] = set()
        for lock, extras in _EXTRAS.items():
            found: dict[str, set[str]] = {}
            for python in _PYTHONS:
                for arch in PROCESSORS:
                    options = "--find-links", folder, "--target", f"{folder}/none", *_target(python, arch)
                    for requirement, sha256 in _resolved(Path(folder) / "report.json", *options, f"{wheel}[{extras}]"):
                        found.setdefault(requirement, set()).add(sha256)
            wanted = {name: found[name] for name in sorted(found) if name not in done and name.partition("==")[0] not in ours}
            beyond = f" without those of {_EXTRAS[GATEWAY]}," if done else ""
            head = _HEAD.format(extras=extras, beyond=beyond, pythons=" and ".join(_PYTHONS), processors=" and ".join(PROCESSORS))
            lock.write_text(head + "".join(_entry(*one) for one in wanted.items()))
            done |= set(wanted)


def _resolved(report: Path, *arguments: str | Path) -> Iterator[tuple[str, str]]:
    """Requirement and hash of what pip would install."""
    pip("install", "--dry-run", "-c", "constraints.txt", "--report", report, *arguments)
    for one in json.loads(report.read_text())["install"]:
        name, version = one["metadata"]["name"].lower().replace("_", "-"), one["metadata"]["version"]
        yield f"{name}=={version}", one["download_info"]["archive_info"]["hashes"]["sha256"]


def _entry(requirement: str, hashes: set[str]) -> str:
    return " \\\n".join([requirement, *(f"    --hash=sha256:{sha256}" for sha256 in sorted(hashes))]) + "\n"


if __name__ == "__main__":
    _lock()
