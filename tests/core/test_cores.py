import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipstill.core import cores


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("10000 100000", 1), ("900000 100000", 8), ("", 8)],
)
def test_cores_are_those_of_the_container(
    quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(cores, "_CONTAINER_CORES", tmp_path / "cpu.max")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores.usable_cores() == expected
    (tmp_path / "cpu.max").unlink()
    assert cores.usable_cores() == 8


def test_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    show = "import clipstill, os; print(os.environ['GOMP_SPINCOUNT'], os.environ['KMP_BLOCKTIME'])"
    for given, shown in (({}, "2000 1"), ({"GOMP_SPINCOUNT": "7"}, "7 1")):
        kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
        assert subprocess.check_output([sys.executable, "-c", show], env={**kept, **given}, text=True).strip() == shown
