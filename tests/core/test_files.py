"""Folders that are replaced while something kills the process, at every change of files that there is."""

import os
import signal
from pathlib import Path

from clipstill.core.files import commit_manifest, put_back, read_manifest, replacing, sweep, write_text
from kill_points import Point, install

FILES = ["one.txt", "other.txt"]


def replace(folder: Path, key: str) -> None:
    with replacing(folder) as partial:
        for name in FILES:
            write_text(partial / name, key)
        commit_manifest(partial, key, FILES)


def replace_until(folder: Path, change: int) -> bool:
    """Replace a folder in a process that is killed before its n-th change of files; return whether there was one."""
    process = os.fork()
    if process == 0:
        try:
            install(Point(str(folder.parent), change))
            replace(folder, "new")
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_a_folder_is_the_old_or_the_new_one_wherever_its_replacement_is_killed(tmp_path: Path) -> None:
    folder, found = tmp_path / "bundle", list[str]()
    replace(folder, "old")
    while replace_until(folder, len(found) + 1):
        manifest = read_manifest(folder)
        assert manifest is not None
        assert {(folder / name).read_text() for name in FILES} == {manifest.key}
        found.append(manifest.key)
        sweep(tmp_path)
        # A copy that was not complete stays until the folder is replaced again.
        left = {path.name for path in tmp_path.iterdir()} - {"bundle"}
        assert left <= ({".bundle.clipstill-partial"} if manifest.key == "old" else set())
        replace(folder, "old")
        assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert found == sorted(found, reverse=True)
    assert min(found.count("old"), found.count("new")) > 3


def test_an_old_folder_is_not_swept_before_the_new_one_has_its_name(tmp_path: Path) -> None:
    for name in (".bundle.clipstill-previous", ".bundle.clipstill-partial"):
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    put_back(tmp_path / "bundle")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bundle.clipstill-partial", "bundle"]
