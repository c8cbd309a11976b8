"""What every test may ask for: the node's C core as a shared library."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "host"


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}", pytrace=False)


@pytest.fixture(scope="session")
def host_build() -> Path:
    """`build/host`, up to date: libnode.so and the posix ports."""
    if not shutil.which("cmake") or not shutil.which("ninja"):
        pytest.skip("cmake and ninja are not installed")
    if not (BUILD / "build.ninja").is_file():
        _run("cmake", "-S", "node_firmware", "--preset", "host")
    _run("flock", BUILD, "ninja", "-C", BUILD)
    return BUILD


@pytest.fixture(scope="session")
def libnode(host_build: Path) -> ctypes.CDLL:
    """The node's core; tests declare the argument types of what they call."""
    return ctypes.CDLL(str(host_build / "libnode.so"))
