"""support-bundle: what is in it, and that no secret is, wherever it was planted."""

import asyncio
import json
import os
import tarfile

import pytest

from gatewayd import config
from gatewayd.cli.support import _About, plain
from gatewayd.store import Store

PASSWORD, URL_PASSWORD, ENVIRONMENT_PASSWORD = "hunter2-of-the-file", "hunter2-of-the-url", "hunter2-of-the-environment"
PSK, WIFI, PASSPHRASE, PASSKEY = "00c0ffee" * 8, "the wifi of the barn", "correct-horse-battery", "294117"
TOKEN, COOKIE = "gwd_Zm9vYmFyYmF6cXV4cXV1eGNvcmdlZ3JhdWx0Z2Fy", "c2Vzc2lvbi1vZi1hbi1vcGVyYXRvcg"
SECRETS = (PASSWORD, URL_PASSWORD, ENVIRONMENT_PASSWORD, PSK, WIFI, PASSPHRASE, PASSKEY, TOKEN, COOKIE)
LOG = f"""
2026-11-26T22:00:00+0000 pi gatewayd[1]: MQTT broker: refused: username gatewayd password={PASSWORD}
2026-11-26T22:00:00+0000 pi gatewayd[1]: postgresql+psycopg://gatewayd:{URL_PASSWORD}@db.example/gatewayd is not there
2026-11-26T22:00:00+0000 pi gatewayd[1]: the broker says {ENVIRONMENT_PASSWORD} is wrong
2026-11-26T22:00:00+0000 pi gatewayd[1]: kitchen-1:{PSK}
2026-11-26T22:00:00+0000 pi gatewayd[1]: provision(ssid="barn", wifi_password="{WIFI}", passkey={PASSKEY})
2026-11-26T22:00:00+0000 pi gatewayd[1]: {{"passphrase": "{PASSPHRASE}", "x": 1}}
2026-11-26T22:00:00+0000 pi gatewayd[1]: GET /api/v1/nodes Authorization: Bearer {TOKEN}
2026-11-26T22:00:00+0000 pi gatewayd[1]: GET /?at={TOKEN} Cookie: session={COOKIE}
2026-11-26T22:00:00+0000 pi gatewayd[1]: kitchen-1 is lost
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A gateway with a secret in every place that can have one, and a journalctl that shows LOG."""
    (tmp_path / "programs").mkdir()
    program = tmp_path / "programs" / "journalctl"
    program.write_text(f"#!/bin/sh\ncat <<'EOF'\n{LOG}\nEOF\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "psk").write_text(f"kitchen-1:{PSK}\n")
    (tmp_path / "broker-password").write_text(f"{PASSWORD}\n")
    (tmp_path / "site.toml").write_text(
        f'[gateway]\nstate_dir = "{tmp_path}"\n[mqtt]\nport = 1\nusername = "gatewayd"\npassword_file = "{tmp_path / "broker-password"}"\n'
        f'[http]\nport = 1\n[cascades]\nfolders = ["{tmp_path / "none"}"]\n'
    )
    monkeypatch.setenv("GATEWAYD_MQTT__PASSWORD", ENVIRONMENT_PASSWORD)
    asyncio.run(make_store(f"sqlite:///{tmp_path / 'gatewayd.db'}"))
    return tmp_path


async def make_store(url):
    async with Store(config.Store(), url) as store:
        store.enroll("kitchen-1", enrolled=True, now_s=1.0)


def parts(file):
    with tarfile.open(file) as tar:
        return {about.name.removeprefix("gatewayd-support/"): tar.extractfile(about).read().decode() for about in tar}


@pytest.mark.parametrize(
    "more", [(), ("--set", f"store.url=postgresql+psycopg://gatewayd:{URL_PASSWORD}@127.0.0.1:1/x?password={PASSWORD}")]
)
def test_no_secret_is_in_it(site, ctl, more):
    file = site / "bundle.tar.gz"
    status, out, err = ctl("support-bundle", file, "-c", site / "site.toml", *more)
    assert (status, err) == (0, "")
    assert "look through it before" in out
    found = parts(file)
    for name, text in found.items():
        assert [secret for secret in SECRETS if secret in text] == [], name
    assert "kitchen-1 is lost" in found["journal.txt"]
    assert len(found["journal.txt"].splitlines()) >= len(LOG.splitlines()) - 1  # lines are kept, only secrets go
    assert "db.example/gatewayd is not there" in found["journal.txt"]


def test_what_is_in_it(site, ctl):
    file = site / "bundle.tar.gz"
    assert ctl("support-bundle", file, "-c", site / "site.toml")[0] == 0
    assert file.stat().st_mode & 0o777 == 0o600
    found = parts(file)
    assert json.loads(found["versions.json"])["packages"]["SQLAlchemy"]
    settings = json.loads(found["configuration.json"])
    assert (settings["mqtt"]["username"], settings["mqtt"]["port"]) == ("gatewayd", 1)
    assert "BAD MQTT broker 127.0.0.1:1" in found["doctor.txt"]
    assert found["metrics.txt"].startswith("cannot be seen: URLError")
    assert json.loads(found["store.json"])["counts"]["nodes"] == 1
    assert json.loads(found["nodes.jsonl"])["id"] == "kitchen-1"
    assert found["rollouts.jsonl"] == ""
    assert str(site / "gatewayd.db") in found["folders.txt"]


def test_it_does_not_overwrite(site, ctl):
    file = site / "bundle.tar.gz"
    file.write_text("something else")
    status, _, err = ctl("support-bundle", file, "-c", site / "site.toml")
    assert (status, "File exists" in err, file.read_text()) == (os.EX_CONFIG, True, "something else")


def test_a_gateway_that_cannot_even_read_its_configuration(tmp_path, ctl):
    (tmp_path / "bad.toml").write_text(f'[mqtt]\npassword = "{PASSWORD}"\nhots = "x"\n')
    file = tmp_path / "bundle.tar.gz"
    assert ctl("support-bundle", file, "-c", tmp_path / "bad.toml")[0] == 0
    found = parts(file)
    assert "did you mean 'mqtt.host'" in found["configuration.json"]
    assert not any(PASSWORD in text for text in found.values())


def test_a_digest_keeps_its_beginning(tmp_path):
    about = _About(None, [f"gateway.state_dir={tmp_path}"])
    assert about.without_secrets("bundle 0123456789abcdef0123456789abcdef is refused") == "bundle 01234567… is refused"
    assert about.without_secrets("mqtt.password_file: [Errno 2]") == "mqtt.password_file: [left out] 2]"  # too much rather than too little


def test_every_secret_of_the_configuration_is_left_out():
    settings = config.load(None, {"mqtt.password": PASSWORD, "store.url": f"postgresql://u:{URL_PASSWORD}@h/d"}, {})
    text = json.dumps(plain(settings.model_dump()))
    assert PASSWORD not in text
    assert URL_PASSWORD not in text
    assert "postgresql://u:***@h/d" in text
