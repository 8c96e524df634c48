"""genobj play: a local web page to play with one trained model, or two on the same noise."""

from pathlib import Path
from typing import Annotated

import typer

from genobj.cli.sample import DeviceName, Plugins, Revision, Source, plugins_of
from genobj.plugins import load_plugins

LOOPBACK = "127.0.0.1"


def command(
    run: Source = Path("runs/latest"),
    other: Annotated[Path | None, typer.Argument(help="A second model of the same data, drawn beside it.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; others than this reach the network.")] = LOOPBACK,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; from 7860 the first one free.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: DeviceName = "auto",
    revision: Revision = None,
    plugin: Plugins = None,
) -> None:
    """Play with a model in the browser: sliders for evaluations, guidance and the sampler's settings.

    With a second model both draw from the same noise. Every picture comes with the `genobj sample` command of it.
    --revision is that of the first model. Ctrl-C ends it.
    """
    from genobj import hub
    from genobj.play import page, server
    from genobj.play.players import Player, cloud, fit, titles
    from genobj.training.distributed import device_of, set_threads

    server.gradio()
    where = server.place(host, port)
    names = [run, *([other] if other else [])]
    folders = [hub.find(name, revision if name is run else None) for name in names]
    load_plugins([*(file for name in names for file in plugins_of(name)), *(plugin or [])])
    flags = [*([] if device == "auto" else ["--device", device]), *(w for p in plugin or [] for w in ("--plugin", p))]
    players = []
    shown = titles([str(name) for name in names])
    for name, folder, short in zip(names, folders, shown, strict=True):
        more = ["--revision", revision] if revision and name is run else []
        players.append(Player(str(name), folder, device_of(device), (*more, *flags), short))
    fit(players)
    set_threads(0, max((p.open().model for p in players), key=lambda m: sum(w.numel() for w in m.parameters())))
    blocks = page.Page(players, cloud(players[0])).build()
    if not server.loopback(host):
        typer.echo(f"warning: whoever reaches {host} can draw samples here; there is no password", err=True)
    address = server.serve(blocks, *where)
    typer.echo(f"{address}  (Ctrl-C ends it)")
    server.wait(blocks, address if open_page else None)
