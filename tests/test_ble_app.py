"""The gateway as a process with Bluetooth only: events are judged and kept without a broker, and after kill -9 the node is found again."""

import asyncio
import signal

from ble_site import BleNode
from live import Live, event, until

from gatewayd.core.types import Verdict
from gatewayd.demo import site
from gatewayd.demo.air import Air, Controller, plugged


async def test_a_site_without_a_broker(tmp_path) -> None:
    air = Air(interval_ms=15)
    async with plugged(Controller("gateway", air)) as port:
        live = Live(tmp_path, settings=f'[ble]\nhci = "tcp-client:127.0.0.1:{port}"\nidle_s = 1.0\n')
        node = BleNode(air, "kitchen-1", address="F0:00:00:00:00:01")
        await node.start()
        adapter = f'{{adapter="tcp-client:127.0.0.1:{port}"}}'
        async with live.start() as gateway:
            await until(lambda: live.series('gatewayd_node_up{node="kitchen-1"}') == 1, live.said)
            assert live.series(f"gatewayd_ble_connections_total{adapter}") == 1
            node.say(4, event(0))
            await until(lambda: Verdict in map(type, node.said), live.said)
            assert live.keys() == {("kitchen-1", 1, 0)}
            await asyncio.sleep(2)
            assert live.series(f"gatewayd_ble_links{adapter}") == 0
            await site.end(gateway, signal.SIGKILL)
        node.events[1] = event(1)
        node.said.clear()
        async with live.start() as gateway:
            await until(lambda: Verdict in map(type, node.said), live.said)
            assert live.keys() == {("kitchen-1", 1, 0), ("kitchen-1", 1, 1)}
            assert await site.end(gateway) == 0


async def test_doctor_says_what_is_wrong_with_an_adapter(tmp_path) -> None:
    live = Live(tmp_path, settings='[ble]\nadapters = ["hci77"]\n')
    _, said = await live.ctl("doctor", "-c", live.config)
    assert "BAD  Bluetooth adapter hci77: Bluetooth: there is no adapter hci77" in said
    assert "systemctl status bluetooth" in said
    async with plugged(Controller("gateway", Air())) as port:
        _, said = await live.ctl("doctor", "-c", live.config, env={"GATEWAYD_BLE__HCI": f"tcp-client:127.0.0.1:{port}"})
        assert f"ok   Bluetooth adapter tcp-client:127.0.0.1:{port} scans" in said
