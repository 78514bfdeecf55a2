"""The page of a bundle: one HTML file that runs the model in a browser, and what it needs beside it.

Any server of static files will do. The page is the same for every bundle: it reads labels, preprocessing, temperature
and threshold from the bundle's own files, checks them against the manifest, and asks nothing of any other place.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from clipstill.core.errors import ArtifactError
from clipstill.core.files import write_bytes
from clipstill.core.protocols import Provenance

PAGE = "index.html"
OWN_FILES = (PAGE, "clipstill-page.css", "clipstill-page.js", "clipstill-preprocess.js")

# Of onnxruntime-web, in this version; `python -m tools.weights web-runtime` makes them. The program stays compressed:
# the page unpacks it, which saves ten megabytes in every bundle and on every visit.
RUNTIME_VERSION = "1.30.0"
SCRIPT = "ort.wasm.bundle.min.mjs"
WEB_ASSEMBLY = "ort-wasm-simd-threaded.wasm.gz"
NOTICES = "ort-notices.txt.gz"
RUNTIME_LEDGER = "LICENCES-web-runtime.md"
RUNTIME_FILES = (SCRIPT, WEB_ASSEMBLY, NOTICES, RUNTIME_LEDGER)


def write_page(folder: Path) -> list[str]:
    """Lay the page and its runtime beside a model.

    Args:
        folder: of the bundle; flat, and the page's own names must be free in it.

    Returns:
        The names of the files.

    Raises:
        ArtifactError: the installed package lacks a file.
        ResourceError: the folder cannot be written.
    """
    package = resources.files("clipstill")
    sources = {name: package / "export" / "browser" / name for name in OWN_FILES}
    sources |= {name: package / "assets" / name for name in RUNTIME_FILES}
    for name, source in sources.items():
        write_bytes(folder / name, _read(source))
    return list(sources)


def software() -> tuple[Provenance, ...]:
    """What of other projects comes with a page, for the licence ledger of its bundle.

    Raises:
        ArtifactError: as ``write_page``.
    """
    assets, origin = resources.files("clipstill") / "assets", f"npm package onnxruntime-web {RUNTIME_VERSION}"
    return tuple(
        Provenance(f"ONNX Runtime Web ({name})", "MIT", origin, hashlib.sha256(_read(assets / name)).hexdigest())
        for name in (SCRIPT, WEB_ASSEMBLY)
    )


def _read(source: Traversable) -> bytes:
    try:
        return source.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(
            f"the installed clipstill lacks {source.name}, which a bundle's page needs. Install it again, or make "
            f"bundles without a page: --set export.page=false"
        ) from None
