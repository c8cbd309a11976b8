"""A running Home Assistant, for tests: python ha_instance.py FOLDER BROKER_PORT HTTP_PORT. Runs with its own Python, not with ours.

It has MQTT as a user sets it up, and no more. For each line on its standard input it prints what it knows, as JSON.
"""

import asyncio
import json
import sys
from pathlib import Path

from homeassistant import bootstrap, runner
from homeassistant.core import HomeAssistant
from homeassistant.helpers import device_registry, entity_registry


def known(hass: HomeAssistant) -> dict:
    devices = device_registry.async_get(hass).devices
    entities = entity_registry.async_get(hass).entities
    return {
        "devices": {
            next(iter(device.identifiers))[1]: {
                "name": device.name,
                "model": device.model,
                "via": devices[device.via_device_id].name if device.via_device_id else None,
            }
            for device in devices.values()
            if device.identifiers
        },
        "entities": {
            entity.unique_id: {"state": state.state, **json.loads(json.dumps(dict(state.attributes), default=str))}
            for entity in entities.values()
            if (state := hass.states.get(entity.entity_id))
        },
    }


async def main(folder: str, broker_port: str, http_port: str) -> None:
    (Path(folder) / "configuration.yaml").write_text(f"http:\n  server_host: 127.0.0.1\n  server_port: {http_port}\n")
    bootstrap.CRITICAL_INTEGRATIONS = set()  # its web pages are a package of their own, which is not here
    hass = await bootstrap.async_setup_hass(runner.RuntimeConfig(config_dir=folder, skip_pip=True))
    await hass.async_start()
    flow = await hass.config_entries.flow.async_init("mqtt", context={"source": "user"})
    done = await hass.config_entries.flow.async_configure(flow["flow_id"], {"broker": "127.0.0.1", "port": int(broker_port)})
    print(json.dumps({"mqtt": str(done["type"])}), flush=True)
    lines = asyncio.StreamReader()
    await hass.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        print(json.dumps(known(hass)), flush=True)
    await hass.async_stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
