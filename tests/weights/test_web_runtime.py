"""The recipe of the browser's runtime, on packages that stand for the real ones."""

import gzip
import hashlib
from pathlib import Path

import pytest

from clipstill.core.errors import DataError
from clipstill.export.page import NOTICES, RUNTIME_FILES, RUNTIME_LEDGER, SCRIPT, WEB_ASSEMBLY
from tools.weights.web_runtime import build_web_runtime

PROGRAM = b"\0asm" + bytes(1000)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Unpacked packages with the files that the recipe takes."""
    folder = tmp_path / "cache"
    web, python = folder / "onnxruntime-web" / "package" / "dist", folder / "onnxruntime" / "onnxruntime"
    for place in (web, python):
        place.mkdir(parents=True)
    for name in ("onnxruntime-web", "onnxruntime"):
        (folder / name / ".complete").touch()
    (web / SCRIPT).write_text("export {};")
    (web / "ort-wasm-simd-threaded.wasm").write_bytes(PROGRAM)
    (python / "ThirdPartyNotices.txt").write_text("notices of third parties")
    (python / "LICENSE").write_text("MIT License\n\nCopyright (c) Somebody\n")
    return folder


def test_runtime_is_compressed_and_told_with_its_licence(cache: Path, tmp_path: Path) -> None:
    written = build_web_runtime(tmp_path / "out", cache)
    assert sorted(path.name for path in written) == sorted(RUNTIME_FILES)
    assert gzip.decompress((tmp_path / "out" / WEB_ASSEMBLY).read_bytes()) == PROGRAM
    assert gzip.decompress((tmp_path / "out" / NOTICES).read_bytes()) == b"notices of third parties"
    ledger = (tmp_path / "out" / RUNTIME_LEDGER).read_text()
    assert "Copyright (c) Somebody" in ledger
    assert hashlib.sha256(PROGRAM).hexdigest() in ledger


def test_equal_packages_give_equal_files(cache: Path, tmp_path: Path) -> None:
    build_web_runtime(tmp_path / "a", cache)
    build_web_runtime(tmp_path / "b", cache)
    # The time in the header of a gzip file.
    assert (tmp_path / "a" / WEB_ASSEMBLY).read_bytes()[4:8] == bytes(4)
    for name in RUNTIME_FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_package_without_a_file_is_refused(cache: Path, tmp_path: Path) -> None:
    (cache / "onnxruntime-web" / "package" / "dist" / SCRIPT).unlink()
    with pytest.raises(DataError, match="ort.wasm.bundle.min.mjs is not in its package"):
        build_web_runtime(tmp_path / "out", cache)
