"""What a stage of a run is: its name, what its result depends on, and the function that makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipstill.workflow.cohorts import Cohort
    from clipstill.workflow.photos import Photos
    from clipstill.workflow.run import Run
    from clipstill.workflow.settings import Settings

STAGES_FOLDER = "stages"


@dataclass(frozen=True)
class Stage:
    """One unit of work of a run. Its key follows from these values, see ``clipstill.workflow.keys``."""

    name: str  # Name of its folder, and how other stages refer to it.
    version: int  # Raised by one where the code makes something else from equal settings.
    title: str  # What it does, in a few words for users.
    # Writes the result of one step into its folder and returns the names of the files to commit; None where it has
    # committed the folder by itself.
    make: Callable[[Run, Step, Path], Sequence[str] | None]
    # Sections or single settings (``"examples.text_count"``) that the result depends on. A setting that names files
    # counts by their content; ``"task"`` stands for the class names and descriptions.
    settings: tuple[str, ...] = ()
    # Names of the stages whose results it reads; those that a run does not have are ignored.
    inputs: tuple[str, ...] = ()
    # Whether a run with these settings and photos has this stage.
    needed: Callable[[Settings, Photos], bool] = lambda settings, photos: True
    per_cohort: bool = False  # Whether each cohort of classes has a folder of its own.
    folder: str = ""  # Its place in the run folder; empty for ``stages/NAME``.


@dataclass(frozen=True)
class Step:
    """A stage in one run."""

    stage: Stage
    key: str  # Equal keys mean that the work is done already.
    cohort: Cohort  # The classes that it is done for; all classes of the run where the stage is not per cohort.

    @property
    def name(self) -> str:
        """``surrogate`` for the first cohort, ``surrogate-2`` for the second."""
        number = self.cohort.number if self.stage.per_cohort else 1
        return self.stage.name if number == 1 else f"{self.stage.name}-{number}"

    @property
    def folder(self) -> str:
        """The place of its result, relative to the run folder."""
        return self.stage.folder or f"{STAGES_FOLDER}/{self.name}"

    @property
    def is_kept(self) -> bool:
        """Whether work of other keys is moved aside and comes back; what ships is replaced in place."""
        return not self.stage.folder
