"""``serve``: the page on the loopback address, behind a token."""

from __future__ import annotations

import importlib.util
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from clipstill.core.errors import ResourceError
from clipstill.core.files import make_folder
from clipstill.core.progress import say
from clipstill.ui.jobs import Jobs


def serve(workspace: Path, port: int = 0, on_ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve the page of a folder of runs until the process is told to end; a run that it started is stopped then.

    Args:
        workspace: Folder of the run folders; made where it is absent.
        port: Port of the loopback address; 0 takes any that is free.
        on_ready: Called with the whole address once the page answers.

    Raises:
        ResourceError: Gradio is missing, the port is taken, or the workspace cannot be written.
    """
    # Before gradio is imported: nothing is sent home, and no version is asked for.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if importlib.util.find_spec("gradio") is None:
        raise ResourceError("gradio is not installed; the page is made with it: pip install 'clipstill[ui]'")
    from clipstill.ui.access import TOKEN_PARAMETER, Guard
    from clipstill.ui.app import make_app
    from clipstill.web.server import LOOPBACK, listen, run

    make_folder(workspace)
    jobs, token = Jobs(workspace.resolve()), secrets.token_urlsafe(32)
    with listen(LOOPBACK, port) as listener, tempfile.TemporaryDirectory(prefix="clipstill-ui-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        port = listener.getsockname()[1]
        address = f"http://{LOOPBACK}:{port}/?{TOKEN_PARAMETER}={quote(token)}"
        app = Guard(make_app(jobs, Path(uploads)), token, port)
        try:
            # Open pages hold a connection for ever; the end waits for them but a moment.
            run(app, listener, lambda: on_ready(address), finish_seconds=1, log_level="error")
        finally:
            # It has a process group of its own, and would go on by itself.
            stopped = jobs.stop()
            if stopped is not None:
                say(f"'{stopped}' is stopped. Start it again to continue it.")
