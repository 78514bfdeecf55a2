"""The synthetic images of a run, in the layouts that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from clipstill.core.errors import ArtifactError
from clipstill.core.files import replacing, write_text
from clipstill.report.card import images_card
from clipstill.report.licences import licence_ledger, spdx_of_all
from clipstill.stages import STAGES, images
from clipstill.surrogate.layouts import write_folders, write_webdataset
from clipstill.workflow.photos import Photos
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.run import Run
from clipstill.workflow.store import CONFIG_FILE, read_run_marker

Layout = Literal["folder", "webdataset", "datasets"]


def write_images(path: Path, out: Path, layout: Layout) -> int:
    """Write the synthetic images of a finished run into a new folder, with captions and licences; return their number.

    Args:
        path: The run folder.
        out: A folder that is absent or empty; it appears whole.
        layout: Class folders; shards of WebDataset; or class folders with a card, as ``datasets`` and model hubs read.

    Raises:
        ArtifactError: The folder is no finished run, the run made no images, or ``out`` holds something.
        ResourceError: The disk is full or not writable.
    """
    read_run_marker(path)
    run = Run.open(path, STAGES, load_settings(file=path / CONFIG_FILE), Photos())
    found = images.read_images(run)
    if found is None:
        raise ArtifactError(f"{path} made no images: its student learned from photos or names alone.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"{out} is there already and holds something. Choose another folder for the images.")
    parts, classes = images.provenance_of(run), run.task.names
    write = write_webdataset if layout == "webdataset" else write_folders
    with replacing(out) as partial:
        write(found, partial, classes, spdx_of_all(parts))
        # The name that model hubs look for.
        write_text(partial / "LICENSE.md", licence_ledger(parts))
        if layout == "datasets":
            write_text(partial / "README.md", images_card(classes, len(found), run.settings.teacher.name, parts))
    return len(found)
