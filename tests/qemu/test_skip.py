"""Where there is no QEMU, the tests on boards say so, and what to install."""

import os
import subprocess
import sys
from pathlib import Path


def test_without_qemu_the_reason_is_printed(tmp_path):
    for program in ("mosquitto", "mosquitto_pub", "espeak-ng"):  # all but QEMU
        (tmp_path / program).symlink_to("/bin/true")
    command = [sys.executable, "-m", "pytest", Path(__file__).with_name("test_crash.py"), "-p", "no:cacheprovider"]
    done = subprocess.run(command, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "qemu-system-arm is not installed (Debian: qemu-system-arm)" in done.stdout
    assert "passed" not in done.stdout
