"""A fresh Debian as a folder, in namespaces of its own: nothing but its loopback, and whatever runs in it ends with it."""

import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "deb"
PACKAGES = "systemd,python3,mosquitto,mosquitto-clients,prometheus"
PROGRAMS = "mmdebstrap", "unshare", "nsenter", "dpkg-deb"


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def debian():
    """An archive of it, with what the package depends on: made once, of the mirrors of this machine."""
    archive = BUILD / "debian.tar"
    if not archive.exists():
        sources = run(
            "apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages", "Origin: Debian"
        )
        suite = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines())["VERSION_CODENAME"]
        lean = [f"--dpkgopt=path-exclude=/usr/share/{unused}/*" for unused in ("doc", "locale", "man")]
        options = "--quiet", "--variant=minbase", f"--include={PACKAGES}", "--aptopt=APT::Install-Recommends false"
        partial = archive.with_suffix(".partial.tar")
        run("mmdebstrap", *options, *lean, suite, partial, *sources.splitlines())
        partial.rename(archive)
    return archive


class Machine:
    """A root file system with a process that has its namespaces."""

    def __init__(self, root, pid):
        self.root = root
        self._enter = (
            "nsenter",
            "--target",
            str(pid),
            "--all",
            "--wd=/",
            "chroot",
            root,
            "/usr/bin/env",
            "-i",
            "PATH=/usr/sbin:/usr/bin",
            "HOME=/root",
            "DEBIAN_FRONTEND=noninteractive",
        )

    def command(self, *command):
        return (*self._enter, *command)

    def run(self, *command):
        return run(*self.command(*command))

    def shell(self, script):
        return self.run("sh", "-euc", script)

    def spawn(self, log, *command):
        with (self.root / log).open("ab") as stream:
            return subprocess.Popen(self.command(*command), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)

    def files(self):
        """Every file but what runs on, by path, with its content's hash."""
        listed = self.shell(
            "find / -xdev \\( -path /proc -o -path /dev -o -path /tmp -o -path /run -o -path /var/log -o -path /var/cache"
            " -o -path /var/lib/dpkg -o -path /var/lib/apt \\) -prune -o -type f -exec sha256sum {} + -o -printf '%y%l  %p\\n'"
        )
        return dict(reversed(line.split("  ", 1)) for line in listed.splitlines())


@contextmanager
def machine(folder):
    """A machine in `folder`, that is not there yet."""
    folder.mkdir()
    run("tar", "-xf", debian(), "-C", folder)
    policy = folder / "usr/sbin/policy-rc.d"  # nothing is started by its package
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    mounts = f"ip link set lo up; mount -t proc proc {folder}/proc; mount --rbind /dev {folder}/dev; echo; exec sleep infinity"
    holder = subprocess.Popen(
        ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-euc", mounts], stdout=subprocess.PIPE
    )
    try:
        holder.stdout.readline()
        first = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0]
        yield Machine(folder, first)
    finally:
        holder.kill()
        holder.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)
