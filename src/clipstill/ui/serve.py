"""``serve``: the page on the loopback address, behind a token."""

from __future__ import annotations

import importlib.util
import os
import secrets
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipstill.core.errors import ArtifactError, ClipstillError, ResourceError
from clipstill.core.files import MANIFEST, disk_error, make_folder, read_manifest, verify_files
from clipstill.core.progress import say
from clipstill.ui.jobs import Jobs
from clipstill.ui.pictures import images_of, picture_bytes
from clipstill.ui.runs import open_run

MOST_UPLOAD = "2gb"
# The report is one file without scripts; so it is shown as one, whatever else may stand in it.
_REPORT_POLICY = (
    "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)


def serve(workspace: Path, port: int = 0, on_ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve the page until the process is told to end; a run that it started is stopped then.

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
                say(f"'{stopped}' is stopped; started again, it goes on where it was.")


def make_app(jobs: Jobs, uploads: Path) -> Any:
    """The page and the files of the runs as one ASGI app, without the guard.

    Args:
        jobs: Runs of the workspace.
        uploads: Folder in which Gradio puts uploaded files.
    """
    import gradio as gr
    from fastapi import FastAPI

    from clipstill.ui.layout import build
    from clipstill.ui.page import Page
    from clipstill.web.server import LOOPBACK

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_files(app, jobs)
    blocks, look = build(Page(jobs, uploads))
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=LOOPBACK,
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

    from clipstill.ui.panels import FILES

    def not_there(_: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{error}\n", status_code=404)

    def whole_file(path: Path | None, what: str, **headers: str) -> Response:
        if path is None:
            raise ArtifactError(f"there is no {what} yet.")
        return FileResponse(path, headers={"cache-control": "no-cache", **headers})

    def preview(name: str) -> Response:
        return whole_file(open_run(jobs.workspace, name).preview, "picture")

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
        return whole_file(path, "report", **{"content-security-policy": _REPORT_POLICY})

    def bundle(name: str) -> Response:
        packed = zip_bundle(open_run(jobs.workspace, name).bundle, name)
        task = BackgroundTask(packed.unlink, missing_ok=True)
        return FileResponse(packed, media_type="application/zip", filename=f"{name}-bundle.zip", background=task)

    app.add_exception_handler(ClipstillError, not_there)
    files = {"preview.png": preview, "pictures/{number}.png": picture, "report.html": report, "bundle.zip": bundle}
    for place, answer in files.items():
        app.add_api_route(f"{FILES}/{{name}}/{place}", answer, methods=["GET"], response_model=None)


def zip_bundle(bundle: Path, name: str) -> Path:
    """A bundle as one zip, in a temporary file; its files are checked first.

    Args:
        bundle: Folder of the bundle.
        name: Name of the run, by which the folder inside the zip is named.

    Raises:
        ArtifactError: There is no bundle, or an altered one.
        ResourceError: The disk is full.
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
            for file in [MANIFEST, *sorted(manifest.files)]:
                packed.write(bundle / file, f"{name}-bundle/{file}")
    except OSError as error:
        Path(path).unlink(missing_ok=True)
        raise disk_error(error, Path(path)) from error
    return Path(path)
