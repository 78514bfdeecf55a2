"""``serve``: the page on the loopback address, behind a token."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import socket
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipstill.core.errors import ArtifactError, ClipstillError, ResourceError
from clipstill.core.files import disk_error, read_manifest, verify_files
from clipstill.core.progress import say
from clipstill.ui import panels
from clipstill.ui.access import TOKEN_PARAMETER, Guard
from clipstill.ui.jobs import Jobs
from clipstill.ui.pictures import images_of, picture_bytes
from clipstill.ui.runs import open_run

ADDRESS = "127.0.0.1"
MOST_UPLOAD = "2gb"
# The report is one file without scripts; so it is shown as one, whatever else may stand in it.
_REPORT_POLICY = (
    "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)


def serve(
    workspace: Path, port: int = 0, token: str | None = None, on_ready: Callable[[str], None] | None = None
) -> None:
    """Serve the page until the process is told to end; a run that it started is stopped then.

    Args:
        workspace: holds the run folders; made where it is absent.
        port: of the loopback address; 0 for any that is free.
        token: that the address carries; a new random one where None.
        on_ready: is told the whole address once the page answers.

    Raises:
        ResourceError: gradio is missing, the port is taken, or the workspace cannot be written.
    """
    # Before gradio is imported: nothing is sent home, and no version is asked for.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if importlib.util.find_spec("gradio") is None:
        raise ResourceError("gradio is not installed; the page is made with it: pip install 'clipstill[ui]'")
    import uvicorn

    try:
        workspace.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, workspace) from error
    token = secrets.token_urlsafe(32) if token is None else token
    jobs = Jobs(workspace.resolve())
    with _listening(port) as listener, tempfile.TemporaryDirectory(prefix="clipstill-ui-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        port = listener.getsockname()[1]
        app = Guard(make_app(jobs, Path(uploads)), token, port)
        # Open pages hold a connection for ever; the end waits for them but a moment.
        config = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, lifespan="on", timeout_graceful_shutdown=1
        )
        server = _server(
            config, lambda: on_ready and on_ready(f"http://{ADDRESS}:{port}/?{TOKEN_PARAMETER}={quote(token)}")
        )
        _end_in_order()
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # The usual end.
        finally:
            stopped = jobs.stop()
            if stopped is not None:
                say(f"'{stopped}' is stopped; started again, it goes on where it was.")


def _end_in_order() -> None:
    """Let the process also end through ``finally`` where it is told to end, or where its terminal is closed.

    The run that it started has a process group of its own, and would go on by itself.
    """
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: sys.exit(0))


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen(64)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(
            f"port {port} cannot be used ({reason}). Choose another --port, or 0 for a free one."
        ) from None
    return listener


def _server(config: Any, ready: Callable[[], Any]) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                ready()

    return Server(config)


def make_app(jobs: Jobs, uploads: Path) -> Any:
    """The page and the files of the runs as one ASGI app, without the guard.

    Args:
        jobs: runs of the workspace.
        uploads: where Gradio puts uploaded files.
    """
    import gradio as gr
    from fastapi import FastAPI

    from clipstill.ui.app import Page, build

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_files(app, jobs)
    blocks, look = build(Page(jobs, uploads))
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=ADDRESS,
        footer_links=[],
        run_history=False,  # It would keep what was typed in the browser.
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=True,
        max_file_size=MOST_UPLOAD,
        **look,
    )


def _add_files(app: Any, jobs: Jobs) -> None:
    """What the panels link to: pictures, report and bundle of the runs in the workspace, and nothing else."""
    from fastapi import Request
    from fastapi.responses import FileResponse, PlainTextResponse, Response
    from starlette.background import BackgroundTask

    def not_there(_: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{error}\n", status_code=404)

    def preview(name: str) -> Response:
        path = open_run(jobs.workspace, name).preview
        if path is None:
            raise ArtifactError(f"'{name}' has no picture yet.")
        return FileResponse(path, headers={"cache-control": "no-cache"})

    def picture(name: str, number: int) -> Response:
        run = open_run(jobs.workspace, name)
        images = images_of(run.path, run.task)
        if not 0 <= number < len(images):
            raise ArtifactError(f"'{name}' has no image {number}.")
        # The address changes with the image.
        headers = {"cache-control": "private, max-age=86400"}
        return Response(picture_bytes(images[number]), media_type="image/png", headers=headers)

    def report(name: str) -> Response:
        path = open_run(jobs.workspace, name).report
        if path is None:
            raise ArtifactError(f"'{name}' has no report yet.")
        headers = {"content-security-policy": _REPORT_POLICY, "cache-control": "no-cache"}
        return FileResponse(path, media_type="text/html", headers=headers)

    def bundle(name: str) -> Response:
        packed = zip_bundle(open_run(jobs.workspace, name).bundle, name)
        task = BackgroundTask(packed.unlink, missing_ok=True)
        return FileResponse(packed, media_type="application/zip", filename=f"{name}-bundle.zip", background=task)

    app.add_exception_handler(ClipstillError, not_there)
    for place, answer in (
        ("preview.png", preview),
        ("pictures/{number}.png", picture),
        ("report.html", report),
        ("bundle.zip", bundle),
    ):
        app.add_api_route(f"{panels.FILES}/{{name}}/{place}", answer, methods=["GET"], response_model=None)


def zip_bundle(bundle: Path, name: str) -> Path:
    """A bundle as one zip, in a temporary file; its files are checked first.

    Args:
        bundle: the folder.
        name: of the folder inside the zip.

    Raises:
        ArtifactError: no bundle, or an altered one.
        ResourceError: the disk is full.
    """
    manifest = read_manifest(bundle)
    if manifest is None:
        raise ArtifactError(f"'{name}' has no bundle yet.")
    verify_files(bundle, manifest)
    handle, path = tempfile.mkstemp(prefix="clipstill-bundle-", suffix=".zip")
    try:
        with (
            os.fdopen(handle, "wb") as stream,
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
        ):
            for file in ["MANIFEST.json", *sorted(manifest.files)]:
                packed.write(bundle / file, f"{name}-bundle/{file}")
    except OSError as error:
        Path(path).unlink(missing_ok=True)
        raise disk_error(error, Path(path)) from error
    return Path(path)
