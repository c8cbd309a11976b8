"""A node that is nobody yet, for whoever speaks Improv: Home Assistant's client is the oracle."""

import contextlib
from functools import partial

import improv_ble_client as improv
import pytest
from ble_site import until
from bleak import BleakClient, BleakScanner
from bleak_retry_connector import BleakClientWithServiceCache
from improv_ble_client.models import DisconnectReason

from gatewayd.demo import radio
from gatewayd.demo import site as processes
from gatewayd.demo.air import Air, Controller, plugged
from gatewayd.transports.bumble import Adapter

PROVISIONING = improv.State.PROVISIONING


class Reads:
    """Whoever reads the passkey on the node."""

    async def passkey(self):
        return 123_456


class Place:
    def __init__(self, folder, adapter):
        self.folder, self.adapter = folder, adapter

    def log(self):
        return (self.folder / "node.log").read_text()

    async def advertised(self, meets=lambda _: True):
        """The device and what it advertises, when a client would offer it."""
        found = []

        def heard(device, data):
            if improv.SERVICE_DATA_UUID in data.service_data and meets(data):
                found.append((device, data))

        async with BleakScanner(heard, backend=self.adapter.scanner):
            await until(lambda: found)
        return found[0]

    async def pair(self, device):
        async with BleakClient(device, backend=self.adapter.client) as client:
            await self.adapter.pair(client, Reads())

    @contextlib.asynccontextmanager
    async def client(self, device, data):
        made = improv.ImprovBLEClient(device, data)
        try:
            yield made
        finally:
            await made._execute_disconnect(DisconnectReason.ERROR)


@pytest.fixture
async def place(tmp_path, host_build, monkeypatch):
    air = Air(interval_ms=7.5)
    controller = Controller("phone", air)
    command = [host_build / "ports" / "posix" / "gateway-node", "--radio", tmp_path / "radio", "--flash", tmp_path / "flash"]
    async with contextlib.AsyncExitStack() as running:
        port = await running.enter_async_context(plugged(controller))
        adapter = await running.enter_async_context(Adapter(f"tcp-client:127.0.0.1:{port}", "phone", bonds=tmp_path / "bonds.json"))
        await running.enter_async_context(radio.cell(air, [tmp_path / "radio"]))
        await running.enter_async_context(processes.process([*command, "--pairing", "123456"], tmp_path / "node.log"))
        monkeypatch.setattr(improv.client, "BleakClientWithServiceCache", partial(BleakClientWithServiceCache, backend=adapter.client))
        yield Place(tmp_path, adapter)


async def test_whoever_has_not_paired_may_look_and_let_it_identify_itself(place):
    device, data = await place.advertised()
    assert improv.device_filter(data)
    async with place.client(device, data) as client:
        assert await client.need_authorization()
        assert client.can_identify
        assert not any((client.can_scan_wifi, client.can_get_device_info, client.can_set_hostname))
        await client.identify()
        await until(lambda: "here I am" in place.log())
        with pytest.raises(improv.errors.ProvisioningFailed, match="NOT_AUTHORIZED"):
            await client.provision("den", "open sesame", None)
    assert "is to use" not in place.log()


async def test_whoever_has_paired_gives_it_a_wifi(place):
    device, data = await place.advertised()
    await place.pair(device)
    device, data = await place.advertised()
    states = []
    async with place.client(device, data) as client:
        assert not await client.need_authorization()
        with pytest.raises(improv.errors.ProvisioningFailed, match="INVALID_RPC_PACKET"):
            await client.provision("", "open sesame", None)
        assert await client.provision("d" * 32, "p" * 64, states.append) is None
        assert states == [PROVISIONING]
    assert f"is to use the Wi-Fi {'d' * 32}" in place.log()
    assert "ppp" not in place.log()
    _, data = await place.advertised(lambda data: data.service_data[improv.SERVICE_DATA_UUID][0] == PROVISIONING)
    assert not improv.device_filter(data)
