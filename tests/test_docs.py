"""docs/ and README.md: commands in them work or are named below with the reason why not here, and all that they point to is there.

A fence `sh` is run, block after block of a page, at a live site. A fence `console` needs root, systemd or hardware, or is about
somebody else's machine: its commands are looked at, not run.
"""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from live import Live, Node, until

from gatewayd.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN_ELSEWHERE = {  # program: what runs it
    "apt": "the tests of the package",
    "build/host/ports/posix/gateway-node": "test_node_posix",
    "arecord": "who has a microphone",
    "gatewayctl": "the test of each command; its options are checked here",
    ".venv/bin/gatewayctl": "the same",
    "install": "the tests of the package",
    "journalctl": "test_journal",
    "make": "CI; its targets are checked here",
    "scp": "who has two machines",
    "ssh": "who has two machines",
    "sudo": "the tests of the package",
    "systemctl": "the tests of the package, in a guest",
}
needs_mosquitto = pytest.mark.skipif(not shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"), reason="needs mosquitto")


def blocks(page, fence):
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == fence]


def commands(text):
    """Every command of a block, in words, without prompt and comment."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r" && | \|\| | \| ", re.sub(r"^[$#] ", "", line)):
            if words := shlex.split(part, comments=True):
                yield words


def all_commands(fence):
    return [(page.name, words) for page in PAGES for text in blocks(page, fence) for words in commands(text)]


def test_every_command_is_run_or_it_is_said_where():
    programs = {words[0] for _, words in all_commands("console")}
    assert programs == set(RUN_ELSEWHERE)


def test_there_are_no_other_fences():
    kinds = {kind for page in PAGES for kind, _ in FENCE.findall(page.read_text())}
    assert kinds <= {"", "sh", "console", "toml", "json", "text", "http", "yaml", "cddl", "c", "js", "mermaid"}


@pytest.mark.parametrize(
    "words", [words for fence in ("sh", "console") for _, words in all_commands(fence) if words[0].endswith("gatewayctl")]
)
def test_gatewayctl_has_that_command_and_these_options(words):
    command = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        assert rest, words
        assert rest[0] in command.commands, words
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= known | {"--help"}, words


def test_make_has_these_targets():
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {words[1] for fence in ("sh", "console") for _, words in all_commands(fence) if words[0] == "make"}
    named |= {target for page in PAGES for target in re.findall(r"`make (\w[\w-]*)", page.read_text())}
    assert named <= targets


def test_every_alert_has_its_section():
    alerts = {name for file in (ROOT / "deploy/prometheus/rules").glob("*.yml") for name in re.findall(r"- alert: (\w+)", file.read_text())}
    sections = set(re.findall(r"^### (Gatewayd\w+)$", (ROOT / "docs/operations.md").read_text(), flags=re.MULTILINE))
    assert sections == alerts
    assert alerts


def test_every_setting_that_is_named_is_one():
    from gatewayd.config import Config, known_keys  # noqa: PLC0415

    known = set(known_keys(Config))
    sections = {key for key in known if "." not in key}
    named = {
        key for page in PAGES for key in re.findall(r"`([a-z]+\.[a-z_]+)(?: ?=.*?)?`", page.read_text()) if key.split(".")[0] in sections
    }
    assert {key for key in named if not key.endswith((".toml", ".py", ".db"))} <= known


# ---- run


@pytest.fixture
def place(tmp_path):
    """A folder to work in, with what the pages take for granted."""
    for name in ("cascades", "deploy"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gatewayctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m gatewayd.cli "$@"\n')
    (programs / "gatewayctl").chmod(0o755)
    return tmp_path


@needs_mosquitto
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md" and blocks(page, "sh")], ids=lambda page: page.name)
async def test_its_commands_work(page, place):
    live = Live(place)
    env = {**os.environ, **live.env, "GATEWAYD_CONFIG": str(live.config), "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    env["PYTHONPATH"] += f"{os.pathsep}{ROOT}"
    async with live.broker(), live.gateway(), Node(live, "kitchen-1") as node:
        await node.birth()
        await node.event(0)
        await until(lambda: live.known() == ["kitchen-1"], live.said)
        for text in blocks(page, "sh"):
            command = ["bash", "-euo", "pipefail", "-c", text]
            done = await asyncio.to_thread(
                subprocess.run,
                command,
                cwd=place,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
            assert "Traceback" not in done.stderr


# ---- the site


def test_the_site_is_whole_and_needs_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    fetched = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(https?:)?//|<link[^>]*rel=\"?(?:stylesheet|icon|preconnect)[^>]*href=\"?(https?:)?//"
    )
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert fetched.search(page.read_text()) is None, page
