"""Brings third-party C into the build tree: fetch.py DESTINATION NAME... (names as in lock.toml).

Downloads go through the machine's own clients (apt's, pip's), so that its mirrors and proxies are used. What is there already,
with the hash of the lock file, is not fetched again: a second configure needs no network.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

HELPER = "/usr/lib/apt/apt-helper"


def from_debian(path: str, folder: Path) -> Path:
    """The file at `path` of the first configured Debian mirror that has it."""
    roots = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], check=True, capture_output=True, text=True
    ).stdout.split()
    target = folder / Path(path).name
    mirrors = [*dict.fromkeys(roots), "http://deb.debian.org/debian/"]
    for root in mirrors:
        if subprocess.run([HELPER, "download-file", root + path, str(target)], check=False, capture_output=True).returncode == 0:
            return target
    sys.exit(f"fetch.py: no mirror has {path}; tried {', '.join(mirrors)}")


def from_pypi(requirement: str, folder: Path) -> Path:
    """The sdist of NAME==VERSION. Only NAME is taken as source: `:all:` would build pip's own build tools."""
    name = requirement.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name, "-d", str(folder), requirement]
    subprocess.run(command, check=True)
    return next(folder.iterdir())


def unpack(archive: Path, keep: list[str], target: Path) -> None:
    """Extract what is kept of `archive` below `target`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            inner = member.name.partition("/")[2]
            if member.isfile() and inner.startswith(tuple(keep)) and ".." not in inner:
                file = target / inner
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]


def fetch(name: str, entry: dict[str, Any], destination: Path) -> None:
    """Make `destination/name` hold what the lock file says."""
    target, stamp = destination / name, destination / name / ".sha256"
    if stamp.is_file() and stamp.read_text() == entry["sha256"]:
        return
    print(f"fetching {name} {entry['version']}")
    with tempfile.TemporaryDirectory() as folder:
        archive = from_debian(entry["debian"], Path(folder)) if "debian" in entry else from_pypi(entry["pypi"], Path(folder))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != entry["sha256"]:
            sys.exit(f"fetch.py: {archive.name} has SHA-256 {found}, the lock file says {entry['sha256']}")
        unpack(archive, entry["keep"], target)
    stamp.write_text(entry["sha256"])  # last: a fetch that was cut short is done again


def main() -> None:
    """Fetch every name of the command line."""
    destination = Path(sys.argv[1])
    lock = tomllib.loads(Path(__file__).with_name("lock.toml").read_text())
    for name in sys.argv[2:]:
        fetch(name, lock[name], destination)


if __name__ == "__main__":
    main()
