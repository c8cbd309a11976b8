"""`gatewayctl nodes`."""

from typing import Annotated

import typer

from gatewayd.cli import complete
from gatewayd.cli.options import ConfigFile, Json, NodeNames, Set, load_config

app = typer.Typer(no_args_is_help=True, help="The nodes that were heard.")


@app.command("list")
def nodes_list(config: ConfigFile = None, set_: Set = None, json: Json = False) -> None:
    """Every node that was ever heard."""
    from gatewayd.cli.records import show_nodes  # noqa: PLC0415

    show_nodes(load_config(config, set_), as_json=json)


@app.command("enroll")
def nodes_enroll(nodes: NodeNames, config: ConfigFile = None, set_: Set = None) -> None:
    """Trust nodes: their events are judged and answered from now on."""
    from gatewayd.cli.records import enroll  # noqa: PLC0415

    enroll(load_config(config, set_), nodes, enrolled=True)


@app.command("dismiss")
def nodes_dismiss(nodes: NodeNames, config: ConfigFile = None, set_: Set = None) -> None:
    """Take trust back: their events are still recorded, and no more."""
    from gatewayd.cli.records import enroll  # noqa: PLC0415

    enroll(load_config(config, set_), nodes, enrolled=False)


@app.command("label")
def nodes_label(
    nodes: NodeNames,
    add: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="Give this label; may be given several times.", autocompletion=complete.labels)
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Take this label away.", autocompletion=complete.labels)] = None,
    config: ConfigFile = None,
    set_: Set = None,
) -> None:
    """Give nodes labels by which a rollout can choose them."""
    from gatewayd.cli.records import label  # noqa: PLC0415

    label(load_config(config, set_), nodes, add or [], remove or [])
