"""``clipstill ui``: the same in the browser."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from clipstill.cli import options


def ui(
    workspace: Annotated[
        Path, options.path("--workspace", "-w", help="Folder of the run folders; those in it are shown.")
    ] = Path("runs"),
    port: options.Port = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open nothing.")] = False,
) -> None:
    """Use clipstill in the browser: from names to a bundle.

    The page is for this machine alone: it listens on 127.0.0.1, and needs the token in the address that is printed.

    clipstill ui --workspace runs/
    """
    # Before gradio is imported: nothing is sent home, and no version is asked for.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with options.extra("ui"):
        from clipstill.ui.access import Guard
        from clipstill.ui.app import make_app
        from clipstill.web.server import LOOPBACK, listen, run
    from clipstill.core.files import make_folder
    from clipstill.core.progress import say
    from clipstill.ui.jobs import KEPT_FOLDER, Jobs

    def ready() -> None:
        print(app.address, flush=True)
        say("Open this address in a browser on this machine. Ctrl-C ends the page and stops a run that it started.")
        if not no_browser:
            import webbrowser

            webbrowser.open(held.enter_context(app.redirect_file(jobs.workspace / KEPT_FOLDER)).as_uri())

    make_folder(workspace)
    jobs, token = Jobs(workspace.resolve()), secrets.token_urlsafe(32)
    with ExitStack() as held:
        listener = held.enter_context(listen(LOOPBACK, port))
        uploads = held.enter_context(tempfile.TemporaryDirectory(prefix="clipstill-ui-"))
        os.environ["GRADIO_TEMP_DIR"] = uploads
        app = Guard(make_app(jobs, Path(uploads)), token, listener.getsockname()[1])
        try:
            # Open pages hold a connection for ever; the end waits for them but a moment.
            run(app, listener, ready, finish_seconds=1, log_level="error")
        finally:
            # It has a process group of its own, and would go on by itself.
            stopped = jobs.stop()
            if stopped is not None:
                say(f"'{stopped}' is stopped. Start it again to continue it.")
