"""Names of files that several rooms read and write, and names that are not the user's.

Files of a bundle lie in the stages of a run too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

STUDENT_FILE = "student.safetensors"
VECTORS_FILE = "class_vectors.safetensors"
VECTORS_NAME = "class_vectors"
METRICS_FILE = "metrics.json"
PARITY_FILE = "parity.json"
PLAN_FILE = "plan.json"
ADVICE_FILE = "advice.json"
# Of a run, beside the bundle of its student: the small teacher's.
BUNDLE_FOLDER, ZERO_SHOT_FOLDER = "bundle", "zero-shot"
# Of files of weights that the user may name.
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# What file managers and network drives leave behind, beside names that begin with a dot.
SYSTEM = re.compile(
    r"(__MACOSX|@(eaDir|Recycle|Recently-Snapshot|__thumb|tmp|Syno\w+)|[#~]snapshot|#recycle|\$RECYCLE\.BIN|RECYCLER"
    r"|System Volume Information|Network Trash Folder|Temporary Items|iPod Photo Cache|.+\.lrdata|_gsdata_|DfsrPrivate"
    r"|FOUND\.\d{3}|lost\+found|(eh)?Thumbs\.db|desktop\.ini)$",
    re.I,
)


def is_of_the_system(name: str) -> bool:
    """Whether file managers, cameras and tools made a file or folder of this name, not the user."""
    return name.startswith(".") or SYSTEM.match(name) is not None


def visible(paths: Iterable[Path]) -> list[Path]:
    """Paths in order, without those that are of the system."""
    return sorted(path for path in paths if not is_of_the_system(path.name))
