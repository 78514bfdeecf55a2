"""Every synthetic picture that leaves says so, in the file itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipstill.core.synthetic_mark import PARTLY_SYNTHETIC, SYNTHETIC, save_marked
from clipstill.report.data import picture_uri
from clipstill.surrogate.preview import write_grid

DOCS = Path(__file__).parents[2] / "docs"
# Of those that show no synthetic image, none shall be called so.
REAL = ("plan.png", "pictures/report.png", "ladder.png", "browser.png")
PICTURES = sorted(path for path in DOCS.rglob("*") if path.suffix in (".png", ".jpg"))


def mark_of(image: Image.Image) -> str:
    """The term as an XMP reader finds it, by the names of the standard and not by a search in the bytes."""
    pytest.importorskip("defusedxml")
    description = image.getxmp()["xmpmeta"]["RDF"]["Description"]
    return str(description["DigitalSourceType"])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("term", [SYNTHETIC, PARTLY_SYNTHETIC])
def test_mark_is_read_back_from_every_kind_of_file(kind: str, term: str) -> None:
    stream = io.BytesIO()
    save_marked(Image.new("RGB", (9, 7), "red"), stream, kind, term)
    assert mark_of(Image.open(stream)) == term


def test_equal_pictures_give_equal_bytes() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    for stream in (first, second):
        save_marked(Image.new("RGB", (9, 7), "red"), stream, "PNG")
    assert first.getvalue() == second.getvalue()


def test_options_of_the_writer_still_count() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    coarse, fine = io.BytesIO(), io.BytesIO()
    save_marked(noise, coarse, "JPEG", quality=20)
    save_marked(noise, fine, "JPEG", quality=95)
    assert len(coarse.getvalue()) < len(fine.getvalue()) / 2


def test_preview_of_a_run_is_marked(tmp_path: Path) -> None:
    write_grid(tmp_path / "preview.png", np.zeros((3, 8, 8, 3), np.uint8))
    assert mark_of(Image.open(tmp_path / "preview.png")) == SYNTHETIC


def test_pictures_in_a_report_are_marked() -> None:
    head, data = picture_uri(np.zeros((8, 8, 3), np.uint8)).split(",")
    assert head == "data:image/webp;base64"
    assert mark_of(Image.open(io.BytesIO(base64.b64decode(data)))) == SYNTHETIC


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_pictures_of_the_docs_are_marked_where_they_show_synthetic_images(path: Path) -> None:
    pytest.importorskip("defusedxml")
    marked = "DigitalSourceType" in str(Image.open(path).getxmp())
    assert marked != path.as_posix().endswith(REAL)
    if marked:
        assert mark_of(Image.open(path)) in (SYNTHETIC, PARTLY_SYNTHETIC)
