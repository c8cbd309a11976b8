"""What every test may ask for: the node's C core as a shared library, an empty database of each kind, gatewayctl."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa

from gatewayd import cli

BUSY = (hypothesis.HealthCheck.too_slow,)
hypothesis.settings.register_profile("gatewayd", deadline=None, suppress_health_check=BUSY)  # a machine that is busy fails no test
hypothesis.settings.load_profile("gatewayd")
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


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'g.db'}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """The URL of a private server."""
    path = os.pathsep.join([os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
    initdb, pg_ctl = shutil.which("initdb", path=path), shutil.which("pg_ctl", path=path)
    if not initdb or not pg_ctl or not importlib.util.find_spec("psycopg"):
        pytest.skip("needs Debian's postgresql and gatewayd[postgres]")
    folder = tmp_path_factory.mktemp("postgres")
    user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}  # the server refuses root
    if user:
        for above in folder.parents:
            if above.name.startswith("pytest-"):
                above.chmod(0o755)
        shutil.chown(folder, "nobody", "nogroup")

    def run(*command):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)

    run(initdb, "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8")
    run(pg_ctl, "-D", "data", "-w", "-l", "log", "-o", f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off", "start")
    yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    run(pg_ctl, "-D", "data", "-w", "-m", "immediate", "stop")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request):
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url")
    url = request.getfixturevalue("postgres")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return url


@pytest.fixture
def ctl(monkeypatch, capsys, tmp_path):
    """Run gatewayctl in this process. Returns exit status, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setenv("GATEWAYD_CONFIG", str(tmp_path / "gatewayd.toml"))
    (tmp_path / "gatewayd.toml").write_text(f'[gateway]\nstate_dir = "{tmp_path}"\n')

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gatewayctl", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as ended:
            status = ended.code
        return (status, *capsys.readouterr())

    return run
