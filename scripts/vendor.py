"""Brings the fleet page's libraries (docs/adr/0021): `vendor.py`, or `vendor.py NAME VERSION` for another version. Needs npm.

What is in lock.json is fetched, compared and unpacked; with a version, the lock is written anew.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).parents[1] / "gatewayd" / "page" / "vendor"
LOCK = VENDOR / "lock.json"


def integrity(data: bytes, algorithm: str) -> str:
    """As npm and browsers write it."""
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def bring(name: str, wanted: dict[str, str | dict[str, str]], *, renew: bool) -> None:
    """One library. Raises SystemExit where it is not what the lock says."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{wanted['version']}", "--pack-destination", folder], check=True, stdout=subprocess.DEVNULL
        )
        package = next(Path(folder).iterdir())
        found = integrity(package.read_bytes(), "sha512")
        if not renew and found != wanted["integrity"]:
            sys.exit(f"{name} {wanted['version']}: its integrity is {found}")
        wanted["integrity"] = found
        with tarfile.open(package) as archive:
            for file in wanted["files"]:
                data = archive.extractfile(f"package/{file}").read()
                wanted["files"][file] = integrity(data, "sha256")
                (VENDOR / name / file).parent.mkdir(parents=True, exist_ok=True)
                (VENDOR / name / file).write_bytes(data)


def main() -> None:
    """Bring all, or renew one."""
    lock = json.loads(LOCK.read_text())
    if sys.argv[1:]:
        name, version = sys.argv[1:]
        lock[name]["version"] = version
        bring(name, lock[name], renew=True)
        LOCK.write_text(json.dumps(lock, indent=1) + "\n")
    else:
        for name, wanted in lock.items():
            bring(name, wanted, renew=False)


if __name__ == "__main__":
    main()
