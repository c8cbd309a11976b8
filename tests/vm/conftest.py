"""The site: a guest with the real BlueZ, D-Bus and systemd, and three nodes on the air. Whatever fails shows the guest's console."""

import image
import pytest
import pytest_asyncio
from site_ble import Site

CONSOLE = pytest.StashKey()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def site(request, tmp_path_factory, host_build):
    image.build()
    here = Site(tmp_path_factory.mktemp("vm"), host_build)
    request.config.stash[CONSOLE] = here.guest.console
    async with here.up():
        yield here


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    console = item.config.stash.get(CONSOLE, None)
    if report.failed and console is not None and console.exists():
        report.sections.append((f"the guest's console, {console}", console.read_text(errors="replace")[-60_000:]))
    return report
