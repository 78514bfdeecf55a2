"""``clipstill ui``: the same in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipstill.cli import options


def ui(
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder of the run folders; those in it are shown.")
    ] = Path("runs"),
    port: options.Port = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open nothing.")] = False,
) -> None:
    """Use clipstill in the browser: from names to a bundle.

    The page is for this machine alone: it listens on 127.0.0.1, and needs the token in the address that is printed.

    clipstill ui --workspace runs/
    """
    from clipstill.core.progress import say
    from clipstill.ui.serve import serve

    def ready(address: str) -> None:
        print(address, flush=True)
        say("Open this address in a browser on this machine. Ctrl-C ends the page and stops a run that it started.")
        if not no_browser:
            import webbrowser

            webbrowser.open(address)

    serve(workspace, port, on_ready=ready)
