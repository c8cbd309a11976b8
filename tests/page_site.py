"""A site for the fleet page's tests, benchmark and pictures: nodes of the real core that send events, the daemon, and a browser."""

import contextlib
import os
from pathlib import Path

from fleet_site import FleetSite
from live import info
from playwright.async_api import async_playwright

from gatewayd import config
from gatewayd.core.registry import Node
from gatewayd.store import Store

CHROMIUM = Path("/usr/bin/chromium")
JUDGE = '[gateway]\nkind = "fake"\ndeadline_s = 5.0\n\n[policy]'


class PageSite(FleetSite):
    """Unlike FleetSite's, its gateway has a larger model, which agrees with everything (fake_model.py)."""

    def _cascade(self, version):
        super()._cascade(version)
        file = self.cascade / "cascade.toml"
        file.write_text(file.read_text().replace("[policy]", JUDGE))

    @property
    def address(self):
        return f"http://127.0.0.1:{self.http_port}"

    async def remember(self, count):
        """Nodes of earlier days, which the gateway knows when it starts."""
        settled = config.load(self.config)
        async with Store(settled.store, settled.store_url) as store:
            store.save_nodes(Node(f"old-{n:05}", enrolled=True, info=info(), heard_unix_s=1.7e9 + n) for n in range(count))

    async def token(self, name="anna", scope="operate"):
        status, said = await self.ctl("token", "add", name, "--scope", scope, "-c", self.config)
        assert status == 0, said
        return said.strip()


class Tab:
    """A page of the browser; `complaints` has what its console said, and each request to anywhere but the site."""

    def __init__(self, page, address):
        self.page = page
        self.address = address
        self.complaints = []
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}") if said.type in {"error", "warning"} else None)
        page.on("request", lambda request: None if request.url.startswith(f"{address}/") else self.complaints.append(request.url))

    async def log_in(self, token, path=""):
        await self.page.goto(f"{self.address}/#/{path}")
        await self.page.get_by_label("Token").fill(token)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.get_by_role("navigation", name="Main").wait_for()
        self.complaints[:] = [said for said in self.complaints if "401" not in said]  # the page asked first whether there is a session

    async def go(self, path):
        """To another view, as a link does."""
        await self.page.evaluate("path => { location.hash = `#/${path}`; }", path)
        await self.settled()

    async def settled(self):
        """Its data are there, and are painted."""
        await self.page.locator("main[aria-busy=false] h1").wait_for()
        await self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


@contextlib.asynccontextmanager
async def chromium():
    """Debian's, without a window."""
    more = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own sandbox refuses root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*more, "--autoplay-policy=no-user-gesture-required"])
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def tab(browser, site, *, dark=False, phone=False, **more):
    """A new page, with nothing left of others."""
    size = {"width": 360, "height": 740} if phone else {"width": 1360, "height": 860}
    context = await browser.new_context(
        viewport=size, has_touch=phone, color_scheme="dark" if dark else "light", locale="en-GB", reduced_motion="reduce", **more
    )
    try:
        yield Tab(await context.new_page(), site.address)
    finally:
        await context.close()
