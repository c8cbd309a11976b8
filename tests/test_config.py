"""gatewayd.config."""

import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from gatewayd import config
from gatewayd.errors import ConfigError

EXAMPLE = Path(__file__).parents[1] / "deploy" / "gatewayd.toml"


@pytest.fixture
def load(tmp_path):
    def load(text="", flags=None, environ=None):
        path = tmp_path / "g.toml"
        path.write_text(text)
        return config.load(path, flags, environ or {})

    return load


def test_defaults(load):
    got = load()
    assert got == config.Config()
    assert got.store_url == "sqlite:////var/lib/gatewayd/gatewayd.db"


def test_the_file_is_overridden_by_the_environment_and_that_by_flags(load):
    text = "[mqtt]\nhost = 'file'\nport = 1\nusername = 'file'"
    environ = {"GATEWAYD_MQTT__PORT": "2", "GATEWAYD_MQTT__USERNAME": "12", "PATH": "/bin"}
    got = load(text, {"mqtt.username": "flag"}, environ).mqtt
    assert (got.host, got.port, got.username) == ("file", 2, "flag")


def test_text_from_outside_becomes_what_its_field_wants(load):
    environ = {"GATEWAYD_GATEWAY__ENROLL": '["a-*", "b"]', "GATEWAYD_STORE__COMMIT_MS": "2.5", "GATEWAYD_MQTT__PASSWORD": "[not json"}
    got = load("", {"gateway.state_dir": "/srv", "mqtt.username": "007", "http.port": 0}, environ)
    assert got.gateway.enroll == ("a-*", "b")
    assert got.gateway.state_dir == Path("/srv")
    assert got.store.commit_ms == 2.5
    assert got.mqtt.username == "007"
    assert got.mqtt.secret() == "[not json"


@pytest.mark.parametrize(
    ("text", "flags", "environ", "message"),
    [
        ("[mqtt]\nhots = 'x'", {}, {}, "g.toml: unknown key 'mqtt.hots'; did you mean 'mqtt.host'?"),
        ("[mqt]\nhost = 'x'", {}, {}, "g.toml: unknown key 'mqt'; did you mean 'mqtt'?"),
        ("", {}, {"GATEWAYD_MQTT__HOTS": "x"}, "GATEWAYD_MQTT__HOTS: unknown key 'mqtt.hots'; did you mean 'mqtt.host'?"),
        ("", {}, {"GATEWAYD_HTPP": "x"}, "GATEWAYD_HTPP: unknown key 'htpp'; did you mean 'http'?"),
        ("", {"store.ulr": "x"}, {}, "command line: unknown key 'store.ulr'; did you mean 'store.url'?"),
        ("[mqtt]\nport = '1883'", {}, {}, "g.toml: mqtt.port: input should be a valid integer"),
        ("[mqtt]\nport = 70000", {}, {}, "g.toml: mqtt.port: input should be less than or equal to 65535"),
        ("[mqtt]\nport = 1", {"mqtt.port": "no"}, {}, "command line: mqtt.port: input should be a valid integer"),
        ("[store]\nclips_days = true", {}, {}, "g.toml: store.clips_days: input should be a valid integer"),
        ("mqtt = 3", {}, {}, "g.toml: 'mqtt' is a section, not a value"),
        ("mqtt = 3", {}, {"GATEWAYD_MQTT__PORT": "1"}, "g.toml: 'mqtt' is a section, not a value"),
        ("[gateway]\nid = 'Not OK'", {}, {}, "g.toml: gateway.id: string should match pattern"),
        ("[mqtt", {}, {}, "g.toml: Expected ']'"),
        ("\ufeff\0", {}, {}, "g.toml: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(load, text, flags, environ, message):
    with pytest.raises(ConfigError) as caught:
        load(text, flags, environ)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_everything_that_is_wrong_is_said_at_once(load):
    with pytest.raises(ConfigError) as caught:
        load("[mqtt]\nport = 0\nhots = ''", {"http.port": -1})
    assert len(str(caught.value).splitlines()) == 3


def test_a_secret_is_never_shown(load):
    assert "hunter2" not in repr(load("[mqtt]\npassword = 'hunter2'"))
    with pytest.raises(ConfigError) as caught:
        load("[mqtt]\npassword = ['hunter2']\nport = 'x'")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_password_in_a_file(load, tmp_path):
    (tmp_path / "secret").write_text("hunter2\n")
    assert load("", {"mqtt.password_file": str(tmp_path / "secret")}).mqtt.secret() == "hunter2"
    with pytest.raises(ConfigError, match=r"mqtt\.password_file"):
        load("", {"mqtt.password_file": str(tmp_path / "nothing")}).mqtt.secret()
    assert load().mqtt.secret() is None


def test_which_file(tmp_path):
    here = tmp_path / "other.toml"
    here.write_text("[mqtt]\nport = 5")
    assert config.load(None, None, {"GATEWAYD_CONFIG": str(here)}).mqtt.port == 5
    with pytest.raises(ConfigError, match="there is no such file"):
        config.load(tmp_path / "nothing.toml", None, {})
    with pytest.raises(ConfigError, match="there is no such file"):
        config.load(None, None, {"GATEWAYD_CONFIG": str(tmp_path / "nothing.toml")})
    with pytest.raises(ConfigError, match="directory"):
        config.load(tmp_path, None, {})


def test_frozen():
    with pytest.raises(ValidationError):
        config.Config().mqtt.port = 1


def test_enrolment_by_pattern(load):
    gateway = load("[gateway]\nenroll = ['kitchen-*', 'door']").gateway
    assert [gateway.enrolls(node) for node in ("kitchen-1", "door", "doors", "cellar")] == [True, True, False, False]
    assert not load().gateway.enrolls("kitchen-1")


def test_assignment():
    assert config.assignment("mqtt.host=a=b") == ("mqtt.host", "a=b")
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        config.assignment("mqtt.host")


def fields(section=config.Config, above=""):
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{above}{name}.")
        else:
            yield above + name, field


def test_the_example_is_the_defaults_and_says_what_every_key_is_for():
    text = EXAMPLE.read_text()
    assert config.load(EXAMPLE, None, {}) == config.Config()
    for key, field in fields():
        name = key.split(".")[-1]
        assert field.description, key
        assert f"# {field.description}\n{name} =" in text or f"# {field.description}\n# {name} =" in text, key
    # Uncommenting what has no default must give a configuration too.
    every = "\n".join(line.removeprefix("# ") if " = " in line and line.startswith("# ") else line for line in text.splitlines())
    assert {f"{section}.{name}" for section, keys in tomllib.loads(every).items() for name in keys} == {key for key, _ in fields()}
