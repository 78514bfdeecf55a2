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

# As torchrun starts it: the group comes from the environment.
PROCESS = """
import os, sys
from pathlib import Path
import torch
torch.distributed.init_process_group("gloo")
from clipstill.distillation import parallel
from tests.distillation.test_trainer import MODES, train
settings = MODES[sys.argv[1]].changed(meta=sys.argv[2])
with parallel.together():
    train(Path(sys.argv[3]), settings)
torch.distributed.destroy_process_group()
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize(("mode", "meta"), [("backbone", "none"), ("backbone", "exact"), ("bn", "exact")])
@pytest.mark.slow
def test_two_processes_equal_one(mode: str, meta: str, tmp_path: Path) -> None:
    settings = MODES[mode].changed(meta=meta)
    alone, _ = train(tmp_path / "alone", settings)
    folders = [str(Path(clipstill.__file__).parents[1]), str(Path(__file__).parents[2])]
    shared = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
    shared |= {"MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", PROCESS, mode, meta, str(tmp_path / "two")]
    started = [subprocess.Popen(arguments, env={**shared, "RANK": str(rank)}) for rank in range(2)]
    assert [one.wait(timeout=300) for one in started] == [0, 0]
    together = load_file(tmp_path / "two" / WEIGHTS)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together[name], value, atol=2e-5, rtol=1e-4, msg=name)
