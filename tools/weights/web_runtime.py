"""Recipe of the browser's runtime: what a bundle's page needs of onnxruntime-web, compressed.

Nothing is trained or changed here. The smallest build is taken: WebAssembly alone, with one script that has its glue
code inside, so that a page needs two files, no worker, and none of the headers that threads ask for.
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
    """Get the packages, compress the program, write it with its licences.

    Args:
        out: folder for the runtime's files and their ledger.
        cache: folder of packages.

    Returns:
        The files that were written.

    Raises:
        ResourceError: a package cannot be had.
        DataError: a package is another than the recipe's, or lacks a file.
    """
    web, python = fetch(_WEB, cache) / "package" / "dist", fetch(_PYTHON, cache) / "onnxruntime"
    script = _read(web / SCRIPT)
    program = _read(web / WEB_ASSEMBLY.removesuffix(".gz"))
    notices = _read(python / "ThirdPartyNotices.txt")
    licence = _read(python / "LICENSE").decode()
    write_bytes(out / SCRIPT, script)
    write_bytes(out / WEB_ASSEMBLY, _compressed(program))
    write_bytes(out / NOTICES, _compressed(notices))
    write_text(out / RUNTIME_LEDGER, _ledger({SCRIPT: script, WEB_ASSEMBLY: program, NOTICES: notices}, licence))
    return [out / name for name in (SCRIPT, WEB_ASSEMBLY, NOTICES, RUNTIME_LEDGER)]


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path} is not in its package. The recipe fits another version; see building/packages.py.")
    return path.read_bytes()


def _compressed(data: bytes) -> bytes:
    # Without the time, so that equal bytes give equal bytes.
    return gzip.compress(data, compresslevel=9, mtime=0)


def _ledger(contents: dict[str, bytes], licence: str) -> str:
    lines = [
        "# Licence of the browser's runtime",
        "",
        "Built by `python -m tools.weights web-runtime`; do not edit.",
        "",
    ]
    lines += [
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
