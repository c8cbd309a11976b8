"""The gateway's transport for Bluetooth LE on Bumble's stack: found, connected when there is something to say, and nobody disturbed."""

from ble_site import BleNode, site, until
from gatewayd.core import wire
from gatewayd.core.types import GatewayState, NodeState, State, Stored, Verdict


async def test_a_node_is_found_and_says_what_it_is(tmp_path) -> None:
    async with site(tmp_path) as here:
        node = await here.node("kitchen-1")
        await until(lambda: here.heard("kitchen-1", "state"))
        assert wire.decode("state", here.heard("kitchen-1", "state")[0].payload) == State(NodeState.READY, 1)
        assert here.heard("kitchen-1", "info")
        assert isinstance(node.said[0], GatewayState)
        assert node.said[0].state == "online"
        assert not here.count("refused")


async def test_an_event_is_stored_and_answered(tmp_path) -> None:
    async with site(tmp_path, idle_s=1.0) as here:
        node = await here.node("kitchen-1")
        await until(lambda: here.heard("kitchen-1", "state"))
        await until(lambda: not node.connected)
        await node.suspect(0)
        await until(lambda: here.heard("kitchen-1", "event"))
        await until(lambda: not node.events)
        assert Stored(1, (0,)) in node.said
        verdict = Verdict(0, 1, True, "yes", 0.5, "", 1_000, "gateway")
        here.transport.send("kitchen-1", "verdict", wire.encode(verdict))
        await until(lambda: verdict in node.said)
        assert node.connections == 2
