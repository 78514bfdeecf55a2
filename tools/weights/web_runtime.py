"""Recipe of the browser's runtime: the files of onnxruntime-web that a bundle's page needs, compressed.

It takes the smallest build, WebAssembly in one script with its glue code: two files, no worker, and none of the HTTP
headers that threads need.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from clipstill.core.errors import DataError
from clipstill.core.files import write_bytes, write_text
from clipstill.export.page import NOTICES, RUNTIME_LEDGER, SCRIPT, WEB_ASSEMBLY
from tools.weights.packages import PACKAGES, fetch

_WEB, _PYTHON = "onnxruntime-web", "onnxruntime"


def build_web_runtime(out: Path, cache: Path) -> list[Path]:
    """Get the packages, compress the program, write it and its licence ledger into ``out``; returns all files.

    Raises:
        ResourceError: A package cannot be fetched.
        DataError: A package differs from the recipe's, or lacks a file.
    """
    web, python = fetch(_WEB, cache) / "package" / "dist", fetch(_PYTHON, cache) / "onnxruntime"
    contents = {
        SCRIPT: _read(web / SCRIPT),
        WEB_ASSEMBLY: _read(web / WEB_ASSEMBLY.removesuffix(".gz")),
        NOTICES: _read(python / "ThirdPartyNotices.txt"),
    }
    for name, data in contents.items():
        # Without the time, so that equal files give equal bytes.
        write_bytes(out / name, gzip.compress(data, compresslevel=9, mtime=0) if name.endswith(".gz") else data)
    write_text(out / RUNTIME_LEDGER, _ledger(contents, _read(python / "LICENSE").decode()))
    return [out / name for name in (*contents, RUNTIME_LEDGER)]


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(
            f"{path} is not in its package. The recipe fits another version; see tools/weights/packages.py."
        )
    return path.read_bytes()


def _ledger(contents: dict[str, bytes], licence: str) -> str:
    lines = [
        "# Licence of the browser's runtime",
        "",
        "Built by `python -m tools.weights web-runtime`; do not edit.",
        "",
        f"`index.html` runs the model with ONNX Runtime Web {PACKAGES[_WEB].version}, which comes with it unchanged.",
        "It is no part of the model. Programs of third parties inside it, with their licences, are named in",
        f"`{NOTICES}` (gzip), as the same release of ONNX Runtime for Python names them; some of them are not in",
        "this build.",
        "",
        "| file | licence | source | sha256 of its content, decompressed |",
        "|---|---|---|---|",
    ]
    for name, data in contents.items():
        package = PACKAGES[_PYTHON if name == NOTICES else _WEB]
        terms = "those that it names" if name == NOTICES else package.licence
        digest = hashlib.sha256(data).hexdigest()
        lines.append(f"| {name} | {terms} | {package.provenance.source} | `{digest}` |")
    return "\n".join([*lines, "", "## MIT", "", licence.strip(), ""])
