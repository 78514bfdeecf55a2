"""The page and the files that its panels link to, as one ASGI app."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response

from clipstill.core.errors import ArtifactError, ClipstillError
from clipstill.core.files import MANIFEST, read_manifest, verify_files
from clipstill.ui.jobs import Jobs
from clipstill.ui.layout import build
from clipstill.ui.page import Page
from clipstill.ui.panels import FILES
from clipstill.ui.pictures import images_of, picture_bytes
from clipstill.ui.runs import Run, open_run
from clipstill.web.server import LOOPBACK

# The report is one file without scripts; so it is shown as one, whatever else may stand in it.
_REPORT_POLICY = (
    "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)


def make_app(jobs: Jobs, uploads: Path) -> Any:
    """The page and the files of the runs as one ASGI app, without the guard; Gradio puts uploads into ``uploads``."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_files(app, jobs.workspace)
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
        max_file_size="2gb",
        **look,
    )


def _add_files(app: FastAPI, workspace: Path) -> None:
    """What the panels link to: pictures, report and bundle of the runs in the workspace, and nothing else."""

    @app.exception_handler(ClipstillError)
    def not_there(_: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{error}\n", status_code=404)

    @app.get(f"{FILES}/{{name}}/preview.png", response_class=Response)
    def preview(name: str) -> Response:
        return _answer(open_run(workspace, name).preview)

    @app.get(f"{FILES}/{{name}}/pictures/{{number}}.png", response_class=Response)
    def picture(name: str, number: int) -> Response:
        run = open_run(workspace, name)
        images = images_of(run.path, run.task)
        if not 0 <= number < len(images):
            raise ArtifactError(f"'{name}' has no image {number}.")
        # The address changes with the image.
        headers = {"cache-control": "private, max-age=86400"}
        return Response(picture_bytes(images[number]), media_type="image/png", headers=headers)

    @app.get(f"{FILES}/{{name}}/report.html", response_class=Response)
    def report(name: str) -> Response:
        return _answer(open_run(workspace, name).report, {"content-security-policy": _REPORT_POLICY})

    @app.get(f"{FILES}/{{name}}/{{kind}}.zip", response_class=Response)
    def bundle(name: str, kind: str) -> Response:
        return Response(_zip_bundle(open_run(workspace, name), kind), media_type="application/zip")


def _answer(path: Path | None, headers: dict[str, str] | None = None) -> Response:
    if path is None:
        raise ArtifactError("this run has no such file yet.")
    return FileResponse(path, headers={"cache-control": "no-cache", **(headers or {})})


def _zip_bundle(run: Run, kind: str) -> memoryview:
    """A bundle of a run as a zip; its files are checked first."""
    manifest = read_manifest(run.path / kind) if kind in run.bundles else None
    if manifest is None:
        raise ArtifactError(f"'{run.name}' has no such bundle yet.")
    folder = run.path / kind
    verify_files(folder, manifest)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in [MANIFEST, *sorted(manifest.files)]:
            archive.write(folder / file, f"{run.name}-{kind}/{file}")
    return packed.getbuffer()
