"""gatewayd.api.auth, its sessions, and gatewayctl's tokens: who gets in, and who does not any more."""

import asyncio
import json
import logging
import re

import httpx2
import pytest
from api_site import api_site

from gatewayd import config
from gatewayd.api.auth import COOKIE
from gatewayd.api.sessions import IDLE_S, LONGEST_S, MOST, Sessions
from gatewayd.store import Store
from gatewayd.tokens import Token, Tokens

READS = ("/session", "/health", "/nodes", "/nodes/n1", "/nodes/n1/vitals", "/events", "/events/1", "/events/1/clip.wav", "/events/1/series",
         "/cascades", "/cascades/vibration", "/rollouts", "/rollouts/1", "/stream")  # fmt: skip
CHANGES = (
    ("PUT", "/nodes/n1/enrolment", {"enrolled": True}),
    ("PUT", "/nodes/n1/labels", {"labels": []}),
    ("POST", "/rollouts/1/orders", {"command": "abort"}),
)
TOKEN = Token("ann", bytes(32), "operate", 0.0)


@pytest.fixture
async def site(tmp_path):
    async with api_site(tmp_path) as site:
        yield site


@pytest.fixture
async def browser(site):
    """A client with the cookie of an operator's session, whose X-CSRF-Token it does not send by itself."""
    async with site.client() as client:
        opened = await client.post("/session", json={"token": site.operate})
        client.csrf = {"X-CSRF-Token": opened.json()["csrf"]}
        yield client


# ---- tokens


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer gwd_nonsense", "Basic YTpi", "Bearer \xe4"])
async def test_without_a_token_there_is_nothing(site, header):
    async with site.client() as client:
        headers = {"Authorization": header.encode("latin-1")} if header else {}
        for method, path, body in [*(("GET", path, None) for path in (*READS, "/audit")), *CHANGES]:
            answer = await client.request(method, path, json=body, headers=headers)
            assert answer.status_code in (401, 429), path
            assert answer.json()["title"] in ("Unauthorized", "Too Many Requests")
        assert site.ledger.orders() == []


async def test_every_route_asks_for_a_token(site):
    """So that one that is added cannot be forgotten."""
    async with site.client() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        for path, methods in paths.items():
            for method in methods:
                if (method, path) != ("post", "/api/v1/session"):
                    answer = await client.request(method, re.sub(r"\{\w+\}", "1x", path.removeprefix("/api/v1")))
                    assert answer.status_code == 401, (method, path)


async def test_who_may_read_changes_nothing(site):
    async with site.client(site.read) as client:
        for method, path, body in CHANGES:
            answer = await client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["detail"]) == (403, "token 'reader' may read only")
        assert (await client.get("/audit")).status_code == 403
        assert (await client.get("/session")).json() == {"name": "reader", "scope": "read", "csrf": ""}
    assert site.refused() == {"scope": 4}
    assert site.changes() == []


async def test_a_revoked_token_is_none(site, browser):
    async with site.client(site.operate) as client:
        assert (await client.get("/health")).status_code == 200
        assert site.tokens.revoke("operator")
        assert (await client.get("/health")).status_code == 401
    assert (await browser.get("/health")).status_code == 401
    assert site.tokens.add("operator", "operate") != site.operate
    assert (await browser.get("/health")).status_code == 401  # the name is the same, the token is not


async def test_who_tries_many_tokens_has_to_wait(site):
    async with site.client() as client:
        tried = [(await client.get("/health", headers={"Authorization": f"Bearer {n}"})).status_code for n in range(12)]
        late = await client.post("/session", json={"token": "gwd_something"})
    assert tried == [401] * 10 + [429] * 2
    assert (late.status_code, int(late.headers["retry-after"]) > 0) == (429, True)
    assert site.refused() == {"token": 10, "tokens": 3}


async def test_the_store_knows_no_token_but_its_hash(site, tmp_path):
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("gatewayd.db*"))
    assert b"reader" in stored
    assert site.read.encode() not in stored
    assert len(site.read) == len("gwd_") + 43  # 256 bits


async def test_no_secret_is_told(site, browser, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "gwd_0123456789-secret-0123456789"
    async with site.client() as client:
        answers = [
            await client.get("/health", headers={"Authorization": f"Bearer {secret}"}),
            await client.post("/session", json={"token": secret}),
            await client.post("/session", json={"token": secret, "tokin": secret}),
            await client.post("/session", json={"token": secret * 9}),
            await client.post("/session", content=f'{{"token": "{secret}'),
            await browser.put("/nodes/n1/enrolment", json={"enrolled": secret}, headers=browser.csrf),
        ]
    assert [answer.status_code for answer in answers] == [401, 401, 422, 422, 422, 422]
    told = caplog.text + "".join(answer.text for answer in answers) + str(site.changes())
    told += site.metrics.exposition([], 0).decode()
    assert not [word for word in (secret, site.operate, browser.csrf["X-CSRF-Token"], browser.cookies[COOKIE]) if word in told]


# ---- sessions


async def test_a_browser_logs_in_and_out(site, browser):
    answer = await browser.post("/session", json={"token": site.read})
    cookie = answer.headers["set-cookie"]
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {"httponly", "path=/", "samesite=strict"}
    browser.csrf = {"X-CSRF-Token": answer.json()["csrf"]}
    assert (await browser.get("/session")).json() == answer.json()
    kept = browser.cookies[COOKIE]
    assert (await browser.delete("/session", headers=browser.csrf)).status_code == 204
    assert COOKIE not in browser.cookies
    assert (await browser.get("/session", headers={"Cookie": f"{COOKIE}={kept}"})).status_code == 401
    assert [what for _, what, *_ in site.changes()] == ["session.close", "session.open", "session.open"]


async def test_a_change_needs_the_sessions_own_word(site, browser):
    site.node(enrolled=False)
    async with site.client() as other:
        theirs = (await other.post("/session", json={"token": site.operate})).json()["csrf"]
    for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": theirs}, {"X-CSRF-Token": "\xe4".encode()}):
        for method, path, body in CHANGES:
            assert (await browser.request(method, path, json=body, headers=headers)).status_code == 403
    assert not site.registry.get("n1").enrolled
    assert site.refused() == {"csrf": 12}
    assert (await browser.put("/nodes/n1/enrolment", json={"enrolled": True}, headers=browser.csrf)).status_code == 204


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_another_site_changes_nothing(site, browser, headers):
    for method, path, body in (*CHANGES, ("POST", "/session", {"token": site.operate}), ("DELETE", "/session", None)):
        answer = await browser.request(method, path, json=body, headers={**browser.csrf, **headers})
        assert (answer.status_code, answer.json()["detail"]) == (403, "another site asks for a change")
    assert site.refused() == {"origin": 5}


async def test_our_own_page_does(site, browser):
    site.node(enrolled=False)
    headers = {**browser.csrf, "Origin": site.url, "Sec-Fetch-Site": "same-origin"}
    assert (await browser.put("/nodes/n1/enrolment", json={"enrolled": True}, headers=headers)).status_code == 204


async def test_a_stolen_session_ends(site, browser):
    async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(local_address="127.0.0.2"), base_url=f"{site.url}/api/v1") as thief:
        answer = await thief.get("/nodes", headers={"Cookie": f"{COOKIE}={browser.cookies[COOKIE]}"})
        assert answer.status_code == 401
    assert (await browser.get("/nodes")).status_code == 401
    assert site.refused() == {"session": 1}
    assert site.changes()[0] == ("operator", "session.refused", "operator", "opened elsewhere")


async def test_a_restart_ends_sessions_and_keeps_tokens(tmp_path):
    async with api_site(tmp_path) as site, site.client() as client:
        await client.post("/session", json={"token": site.read})
        cookie, token = client.cookies[COOKIE], site.read
    async with Store(config.Store(), f"sqlite:///{tmp_path / 'gatewayd.db'}") as store:
        assert Tokens(store).of(token).name == "reader"
        Tokens(store).revoke("reader")
        Tokens(store).revoke("operator")
    async with api_site(tmp_path) as site, site.client() as client:
        assert (await client.get("/nodes", headers={"Cookie": f"{COOKIE}={cookie}"})).status_code == 401


def test_a_session_ends_by_idleness_and_by_age():
    now = [0.0]
    table = Sessions(lambda: now[0])
    idle, _ = table.open(TOKEN, "a")
    now[0] = IDLE_S + 1
    assert table.use(idle) is None
    cookie, opened = table.open(TOKEN, "a")
    for _ in range(int(LONGEST_S // IDLE_S)):
        now[0] += IDLE_S - 1
        assert table.use(cookie).csrf == opened.csrf
    now[0] += IDLE_S - 1
    assert table.use(cookie) is None


def test_of_too_many_sessions_the_idlest_ends():
    table = Sessions(lambda: 0.0)
    cookies = [table.open(TOKEN, "a")[0] for _ in range(MOST)]
    assert table.use(cookies[0]) is not None
    newest, _ = table.open(TOKEN, "a")
    assert table.use(cookies[1]) is None
    assert all(table.use(cookie) for cookie in (cookies[0], cookies[2], newest))


# ---- gatewayctl token


@pytest.fixture
async def store(tmp_path):
    async with Store(config.Store(), f"sqlite:///{tmp_path / 'gatewayd.db'}") as store:
        yield store


async def test_gatewayctl_makes_lists_and_revokes_tokens(ctl, store, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "ann")
    status, out, _ = await asyncio.to_thread(ctl, "token", "add", "wall", "--json")
    assert status == 0
    made = json.loads(out)
    assert Tokens(store).of(made["token"])[0::2] == ("wall", "read")
    token = ctl("token", "add", "phone", "--scope", "operate")[1].strip()
    assert Tokens(store).of(token).scope == "operate"
    assert [json.loads(line)["name"] for line in ctl("token", "list", "--json")[1].splitlines()] == ["phone", "wall"]
    assert made["token"] not in ctl("token", "list")[1]
    assert ctl("token", "revoke", "wall")[0] == 0
    assert Tokens(store).of(made["token"]) is None
    said = [json.loads(line) for line in ctl("audit", "--json")[1].splitlines()]
    assert [(one["who"], one["what"], one["target"], one["detail"]) for one in said] == [
        ("cli:ann", "token.add", "wall", "read"), ("cli:ann", "token.add", "phone", "operate"), ("cli:ann", "token.revoke", "wall", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [("add", "two words"), ("add", "-x"), ("add", ""), ("add", "a", "--scope", "root"), ("revoke", "nobody")]
)
async def test_gatewayctl_refuses_what_is_no_token(ctl, store, arguments):
    assert ctl("token", *arguments)[0] == 2


async def test_a_name_is_given_once(ctl, store):
    assert ctl("token", "add", "wall")[0] == 0
    status, _, err = ctl("token", "add", "wall", "--scope", "operate")
    assert (status, "already" in err) == (2, True)
    assert [token.scope for token in Tokens(store).all()] == ["read"]
