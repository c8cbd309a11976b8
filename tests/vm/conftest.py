"""The site: a guest with the real BlueZ, D-Bus and systemd, and three nodes on the air; another for each module, since what goes wrong in a
kernel stays. Whatever fails shows the guest's console."""

import image
import pytest
import pytest_asyncio
from guest import CONSOLE, Guest
from site_ble import Site


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(request, tmp_path_factory, host_build):
    folder = tmp_path_factory.mktemp("vm")
    here = Site(folder, host_build, Guest(folder, image.installed()))
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
