"""Two processes teach the student that one process teaches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import clipstill
from clipstill.distillation.trainer import WEIGHTS
from tests.distillation.test_trainer import MODES, train

CASES = (("backbone", "none"), ("backbone", "exact"), ("bn", "exact"))
# As torchrun starts it: the group comes from the environment.
PROCESS = """
import sys
from pathlib import Path
import torch
torch.distributed.init_process_group("gloo")
from clipstill.distillation import parallel
from tests.distillation.test_parallel import CASES
from tests.distillation.test_trainer import MODES, train
with parallel.together():
    for mode, meta in CASES:
        train(Path(sys.argv[1]) / f"{mode}-{meta}", MODES[mode].changed(meta=meta))
torch.distributed.destroy_process_group()
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def taught_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case, in which two processes taught."""
    out = tmp_path_factory.mktemp("two")
    folders = [str(Path(clipstill.__file__).parents[1]), str(Path(__file__).parents[2]), *sys.path]
    shared = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
    shared |= {"MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(out)], env={**shared, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert [one.wait(timeout=300) for one in started] == [0, 0]
    return out


@pytest.mark.parametrize(("mode", "meta"), CASES)
@pytest.mark.slow
def test_two_processes_equal_one(mode: str, meta: str, taught_by_two: Path, tmp_path: Path) -> None:
    alone, _ = train(tmp_path / "alone", MODES[mode].changed(meta=meta))
    together = load_file(taught_by_two / f"{mode}-{meta}" / WEIGHTS)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together[name], value, atol=2e-5, rtol=1e-4, msg=name)
