"""The page of a bundle: one HTML file that runs the model in a browser, and its runtime.

Any server of static files will do. The page is the same for every bundle: it reads the bundle's own files, checks them
against the manifest, and makes no other request.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

from clipstill.core.files import write_bytes
from clipstill.core.protocols import Provenance

PAGE = "index.html"
OWN_FILES = (PAGE, "clipstill-page.css", "clipstill-page.js", "clipstill-preprocess.js")

# Files of onnxruntime-web in this version; `python -m tools.weights web-runtime` makes them. The page unpacks the
# WebAssembly, which saves ten megabytes in every bundle and on every visit.
RUNTIME_VERSION = "1.30.0"
SCRIPT = "ort.wasm.bundle.min.mjs"
WEB_ASSEMBLY = "ort-wasm-simd-threaded.wasm.gz"
NOTICES = "ort-notices.txt.gz"
RUNTIME_LEDGER = "LICENCES-web-runtime.md"
RUNTIME_FILES = (SCRIPT, WEB_ASSEMBLY, NOTICES, RUNTIME_LEDGER)


def write_page(folder: Path) -> None:
    """Write the page and its runtime beside a model."""
    for name in (*OWN_FILES, *RUNTIME_FILES):
        write_bytes(folder / name, _read(name))


def software() -> tuple[Provenance, ...]:
    """Files of other projects that come with a page, for the licence ledger of its bundle."""
    origin = f"npm package onnxruntime-web {RUNTIME_VERSION}"
    return tuple(
        Provenance(f"ONNX Runtime Web ({name})", "MIT", origin, hashlib.sha256(_read(name)).hexdigest())
        for name in (SCRIPT, WEB_ASSEMBLY)
    )


def _read(name: str) -> bytes:
    place = "assets" if name in RUNTIME_FILES else "export/browser"
    return resources.files("clipstill").joinpath(place, name).read_bytes()
