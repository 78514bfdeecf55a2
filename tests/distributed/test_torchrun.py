"""The same surrogate set and student from one process and from two ranks of torchrun, one of which may be lost.

The torchrun, the ranks and their deaths are real; the images are as small as they get.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipstill.cli.main import main
from clipstill.core.cores import usable_cores
from clipstill.core.file_names import STUDENT_FILE
from clipstill.distributed import torchrun as ranks
from clipstill.students import load_student
from distributed_fixtures import GROUPS, arguments, environment, shards_of, workers_of
from run_fixtures import stopped_before

pytestmark = pytest.mark.usefixtures("own_torch_settings")


def torchrun(*command: str, more: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *more]
    return subprocess.run([*launcher, *command], capture_output=True, text=True, env=environment(), timeout=250)


# Statistics of BatchNorm as they are: those of half a batch are others than those of the whole.
SETTINGS = ("--set", "distillation.freeze=bn", "--set", "distillation.ema=0")
# Rank 1 dies in its second group, once.
LOST_RANK = """
import os, signal, sys
from pathlib import Path
from clipstill.cli.main import main
from clipstill.distributed.work import Worker

marker, original = Path(sys.argv[1]), Worker.make

def make(self, number, watch=None):
    if number == 3 and os.environ["RANK"] == "1" and not marker.exists():
        marker.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, number, watch)

Worker.make = make
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, until its student is taught."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with stopped_before("calibration"):
        assert main(arguments(out, *SETTINGS)) == 130
    return out


@pytest.fixture(scope="module")
def after_a_loss(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, str, subprocess.CompletedProcess[str]]":
    """A run of two ranks one of which was lost: its folder, the number of the lost process, and how torchrun ended."""
    folder = tmp_path_factory.mktemp("ranks")
    script, marker, out = folder / "lost.py", folder / "killed", folder / "run"
    script.write_text(LOST_RANK)
    done = torchrun(str(script), str(marker), *arguments(out, *SETTINGS), more=("--max-restarts", "1"))
    return out, marker.read_text(), done


def test_a_rank_that_is_lost_changes_no_image(
    after_a_loss: "tuple[Path, str, subprocess.CompletedProcess[str]]", alone: Path
) -> None:
    out, killed, done = after_a_loss
    assert done.returncode == 0, done.stderr
    assert shards_of(out) == shards_of(alone)
    makers = workers_of(out)
    assert not makers[3].endswith(f":{killed}")
    assert not set(makers[0::2]) & set(makers[1::2])  # Every second group each.
    assert done.stdout.count("report.html") == 1


def test_two_ranks_make_a_damaged_set_again_and_neither_waits_for_what_was_there(
    after_a_loss: "tuple[Path, str, subprocess.CompletedProcess[str]]", alone: Path
) -> None:
    out, _, _ = after_a_loss
    tar = out / "stages" / "surrogate" / "shard-00001.tar"
    tar.write_bytes(b"x" * tar.stat().st_size)
    done = torchrun("-m", "clipstill", *arguments(out, *SETTINGS))
    assert done.returncode == 0, done.stderr
    assert shards_of(out) == shards_of(alone)
    first, second = workers_of(out)[:2]
    assert first != second
    assert workers_of(out) == [first, second] * (GROUPS // 2)
    assert done.stdout.count("report.html") == 1
    assert done.stderr.count("surrogate: running") == 1


def test_two_ranks_teach_the_student_that_one_process_teaches(
    after_a_loss: "tuple[Path, str, subprocess.CompletedProcess[str]]", alone: Path
) -> None:
    expected, together = (load_file(run / "stages" / "student" / STUDENT_FILE) for run in (alone, after_a_loss[0]))
    for name, value in expected.items():
        torch.testing.assert_close(together[name], value, atol=2e-5, rtol=1e-4, msg=name)
    untaught = load_student("timm:test_efficientnet", 2, "scratch", 32, seed=3).state_dict()
    moved = [name for name, value in untaught.items() if not torch.equal(value, expected[name])]
    assert "head.weight" in moved
    assert len(moved) > 10


# Each rank does two runs; in the first one, the first rank fails while the others wait for it.
FAILED_LEADER = """
import sys
from clipstill.core.errors import ResourceError
from clipstill.distributed import torchrun as ranks

try:
    with ranks.rank_group():
        if ranks.rank() == 0:
            raise OSError("the disk is full")
        list(ranks.offers())
except OSError:
    pass
except ResourceError as error:
    print(f"told: {error}")
with ranks.rank_group():
    plan = ranks.broadcast("a plan" if ranks.rank() == 0 else None)
    print(f"plan: {plan}")  # One string: unbuffered prints of two processes may mix between arguments.
    for offer in ranks.offers() if ranks.rank() else ():
        print("offer:", offer.stage, offer.groups)
    if ranks.rank() == 0:
        ranks.broadcast(ranks.Offer("surrogate", "key", groups=[1, 2], threads=1))
"""


@pytest.mark.slow
def test_ranks_are_told_that_the_first_one_failed_and_can_begin_again(tmp_path: Path) -> None:
    script = tmp_path / "failed.py"
    script.write_text(FAILED_LEADER)
    done = torchrun(str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("told: rank 1 ends because another rank did") == 1
    assert done.stdout.count("plan: a plan") == 2
    assert done.stdout.count("offer: surrogate [1, 2]") == 1


def test_variables_of_another_launcher_make_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (ranks.rank(), ranks.world(), ranks.share(range(4))) == (0, 1, [0, 1, 2, 3])


def test_ranks_share_all_groups_and_the_cores_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(usable_cores()))
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(ranks.share([0, 1, 2, 4, 5, 9]))
        assert ranks.threads_of_this_process() == 1
    assert shares == [[0, 9], [1, 4], [2, 5]]
