"""gatewayctl's groups of commands, a file each: what they take, and whom they call."""

from gatewayd.cli.menu import cascade, keys, node, nodes, rollout, token

GROUPS = {"nodes": nodes.app, "node": node.app, "cascade": cascade.app, "keys": keys.app, "rollout": rollout.app, "token": token.app}
