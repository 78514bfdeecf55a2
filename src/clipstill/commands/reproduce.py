"""Published tables, cell by cell: what is missing is skipped, what is done is kept, several processes share the rest.

A cell is a variant of the method on one column of the table with one seed, and one JSON file when it is done. The runs
and learned prompts below it go on where they stopped, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from clipstill.commands.base_to_novel import base_to_novel
from clipstill.commands.comparison import Reproduction
from clipstill.commands.few_shot import few_shot
from clipstill.commands.protocol import ProtocolRequest
from clipstill.commands.tables import TOP1, Table, Variant
from clipstill.commands.transfer import transfer
from clipstill.core.device import versions
from clipstill.core.errors import BusyError, ConfigError, DataError, ResourceError
from clipstill.core.files import make_folder, sha256_json, write_json, write_text
from clipstill.core.hub import cache_alone
from clipstill.core.progress import listed, say
from clipstill.core.records import read_record
from clipstill.core.weights_store import stored_weights
from clipstill.datasets import Dataset, joined
from clipstill.datasets.places import Places, layout_of
from clipstill.datasets.split import SPLITS
from clipstill.distributed import torchrun
from clipstill.evaluation.protocols import Seen
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.settings import Settings
from clipstill.workflow.store import lock

_WAIT_S = 5.0
# Settings that change no result.
_SPEED = ("device", "threads", "launch", "reading")


class CellFile(TypedDict):
    """What the file of a cell holds."""

    measured: dict[str, dict[str, dict[str, float]]]  # Subject -> label -> name of a value -> percent.
    photos: dict[str, list[int]]  # Data set -> classes, training images, test images.
    settings: dict[str, Any]
    seconds: float
    versions: dict[str, Any]


@dataclass(frozen=True)
class ReproduceRequest:
    """What is asked of a table."""

    data: Sequence[str]  # Places of data sets, see ``Places``.
    out: Path
    small: bool = False  # Whether embedded parts do little work, whose numbers compare with nothing.
    columns: Sequence[str] = ()  # Patterns of columns; empty for all.
    cells: Sequence[str] = ()  # Patterns of variants or VARIANT/COLUMN; empty for all.
    seeds: Sequence[int] = ()  # Empty for those of the table.
    overrides: Sequence[str] = ()  # Settings that win over the table's, such as ``device=cuda``.


@dataclass(frozen=True)
class _Cell:
    variant: Variant
    column: str

    @property
    def name(self) -> str:
        return f"{self.variant.name}/{self.column}"


@dataclass
class Work:
    """A table that is reproduced.

    Raises:
        ConfigError: Nothing of the table is chosen, or a setting cannot be used.
    """

    table: Table
    request: ReproduceRequest
    # Name of a data set or of weights -> why it is missing here; empty where it is not.
    _reasons: dict[str, str] = field(default_factory=dict, init=False)
    _settings: dict[tuple[str, str | None], Settings] = field(default_factory=dict, init=False)  # Variant and layout.

    @cached_property
    def cells(self) -> list[_Cell]:
        """The cells that are chosen, whether they can be run or not."""
        cells = [_Cell(variant, column) for column in self.table.columns for variant in self.table.variants]
        cells = self._chosen(cells, self.request.columns, lambda cell: [cell.column])
        return self._chosen(cells, self.request.cells, lambda cell: [cell.variant.name, cell.name])

    def _chosen(self, cells: list[_Cell], patterns: Sequence[str], names: Callable[[_Cell], list[str]]) -> list[_Cell]:
        """The cells of which a name matches one of the patterns; all where there are none."""

        def matching(wanted: Sequence[str]) -> list[_Cell]:
            return [cell for cell in cells if any(fnmatchcase(name, each) for name in names(cell) for each in wanted)]

        for pattern in patterns:
            if not matching([pattern]):
                known = listed(list(dict.fromkeys(names(cell)[0] for cell in cells)), most=40)
                raise ConfigError(f"'{pattern}' is none of the table {self.table.name}. There are: {known}.")
        return matching(patterns) if patterns else cells

    @cached_property
    def _places(self) -> Places:
        return Places(self.request.data)

    @property
    def seeds(self) -> Sequence[int]:
        """Seeds; with the small limit the first one alone, unless others are asked for."""
        return self.request.seeds or self.table.seeds[: 1 if self.request.small else None]

    def settings(self, variant: Variant, name: str) -> Settings:
        """Settings of a variant on a data set."""
        table, small, layout = self.table, self.request.small, layout_of(name)
        if (variant.name, layout) not in self._settings:
            recipe = (table.small.recipe if small else None) or table.recipe
            given = [f"{key}={json.dumps(value)}" for key, value in table.overrides(variant, small).items()]
            found = load_settings(recipe, overrides=[*given, *self.request.overrides], layout=layout)
            self._settings[variant.name, layout] = found
        return self._settings[variant.name, layout]

    def _shots(self, variant: Variant) -> list[int]:
        small = self.table.small.shots if self.request.small else None
        own = variant.shots
        return own if own is not None and (0 in own or small is None) else small or own or self.table.shots

    def sets(self, cell: _Cell) -> list[str]:
        """Names of the data sets of a cell."""
        return [*self.table.columns[cell.column], *([self.table.source] if self.table.source else [])]

    def weights(self, cell: _Cell) -> list[str]:
        """Names of the weights of a cell, each after its kind."""
        settings = self.settings(cell.variant, cell.column)
        student, tower = settings.student, settings.student.tower_of
        names = [f"teacher {part}" for part in settings.teacher.name.split("+")]
        names.append(f"teacher {tower}" if tower else f"student {student.name}")
        if settings.prompts.images_per_class:
            names += [f"generator {part}" for part in settings.generator.name.split("+")]
        return names

    def missing(self, cell: _Cell, *, fetch: bool) -> dict[str, str]:
        """What a cell lacks here, by the name of photos or weights; without ``fetch`` no model hub is asked."""
        if cell.variant.missing:
            return {cell.name: cell.variant.missing}
        settings = self.settings(cell.variant, cell.column)
        checks: dict[str, Callable[[], object]] = {name: partial(self._places.open, name) for name in self.sets(cell)}
        checks |= {name: partial(_check_weights, name, settings) for name in self.weights(cell)}
        with nullcontext() if fetch else cache_alone():
            for name, check in checks.items():
                if name not in self._reasons:
                    try:
                        check()
                        self._reasons[name] = ""
                    except (DataError, ResourceError) as error:
                        self._reasons[name] = str(error)
        return {name: self._reasons[name] for name in checks if self._reasons[name]}

    def place(self, cell: _Cell, seed: int) -> Path:
        """The file of a cell."""
        table, data = self.table, [name if "=" in name else str(Path(name).resolve()) for name in self.request.data]
        facts = [
            [self.settings(cell.variant, name).identity() for name in self.sets(cell)],
            [table.protocol, cell.variant.examples, cell.variant.start, self._shots(cell.variant), self.sets(cell)],
            [self._photos_per_class(cell.variant), table.small.model_dump() if self.request.small else None, data],
        ]
        name = f"{cell.variant.name}-{cell.column}-{seed}-{sha256_json(facts)[:8]}.json"
        return self.request.out / "cells" / table.name / name

    def _photos_per_class(self, variant: Variant) -> int | None:
        return variant.photos_per_class or self.table.photos_per_class

    def _open(self, name: str, seed: int) -> Dataset:
        dataset, small = self._places.open(name), self.table.small
        if not self.request.small:
            return dataset
        count = len(dataset.classes)
        if small.classes is not None and small.classes < count:
            dataset = dataset.only([index * count // small.classes for index in range(small.classes)])
        return dataset.few(small.photos, seed, SPLITS)

    def measure(self, cell: _Cell, seed: int) -> CellFile:
        """Run a cell: what its file holds."""
        start, table, variant = time.monotonic(), self.table, cell.variant
        datasets = [self._open(name, seed) for name in table.columns[cell.column]]
        shots = self._shots(variant)
        wanted = {row.of for row in variant.rows}
        request = ProtocolRequest(
            shots[0],
            [seed],
            self.request.out / "runs",
            baselines=bool(wanted & {"zero-shot teacher", "zero-shot student", "CoOp"}),
            as_examples=variant.examples,
            photos_per_class=self._photos_per_class(variant),
        )
        settings = self.settings(variant, cell.column)
        found: Mapping[str, Mapping[str, Mapping[str, float]]]
        if table.protocol == "few-shot":
            curve = few_shot(settings, joined(datasets), request, counts=shots, start=variant.start)
            found = {"student": {cell.column: {f"{count} photos": top1 for count, top1 in curve.items()}}}
        elif table.protocol == "base-to-novel":
            halves = base_to_novel(settings, datasets[0], request)
            found = {name: {cell.column: {"base": of.base[0], "novel": of.novel[0]}} for name, of in halves.items()}
        else:
            source = self._open(table.source, seed) if table.source else datasets[0] if variant.examples else None
            seen: Seen = "target" if table.protocol == "transfer" else "none"
            rows = transfer(
                lambda dataset: self.settings(variant, dataset.name), source, datasets, request, unlabelled=seen
            )
            found = {
                name: {
                    **{target: {TOP1: values[0]} for target, values in row.top1.items()},
                    cell.column: {TOP1: row.means[0]},
                }
                for name, row in rows.items()
            }
        measured: dict[str, Any] = {_subject(name, settings): values for name, values in found.items()}
        if settings.student.tower_of == settings.teacher.name and "zero-shot student" in measured:
            measured["zero-shot teacher"] = measured["zero-shot student"]
        return {
            "measured": measured,
            "photos": {each.name: [len(each.classes), len(each.train), len(each.test)] for each in datasets},
            "settings": settings.model_dump(mode="json"),
            "seconds": round(time.monotonic() - start, 1),
            "versions": versions(),
        }


def _subject(name: str, settings: Settings) -> str:
    """The subject of a table's line that a row of a protocol is."""
    if name == f"zero-shot {settings.student.tower_of}":
        return "zero-shot student"
    if name.startswith("zero-shot "):
        return "zero-shot teacher"
    return "best validation" if ", best of " in name else name.partition(" ")[0]


def _check_weights(name: str, settings: Settings) -> None:
    """Look for the weights of ``teacher NAME``, ``student NAME`` or ``generator NAME``, and fetch them where allowed.

    Raises:
        ResourceError: They are missing.
    """
    kind, _, part = name.partition(" ")
    if kind == "teacher" and part.startswith("openclip:"):
        from clipstill.teachers.openclip_source import find_source

        find_source(part.removeprefix("openclip:"))
    elif kind == "student":
        from clipstill.assembly.students import new_student

        new_student(settings.student, 2, settings.student.init, settings.seed)
    elif part.startswith("vqgan"):
        if find_spec("diffusers") is None:
            raise ResourceError("diffusers is not installed. Run: pip install 'clipstill[diffusers]'")
        if part == "vqgan" and not stored_weights("vqgan"):
            raise ResourceError("no VQGAN is imported. Run: clipstill weights import FILE")


def reproduce(table: Table, request: ReproduceRequest) -> Reproduction:
    """Run the chosen cells of a table that are not done, and write TABLE.html and TABLE.csv after each.

    Raises:
        ConfigError: Nothing is chosen, or a setting cannot be used.
    """
    if torchrun.world() > 1:
        # Cells are shared out, so that ranks need not wait for each other.
        own = (f"device={torchrun.local_device('auto')}", f"threads={torchrun.threads_of_this_process()}")
        request = replace(request, overrides=(*own, *request.overrides))
        torchrun.work_alone()
    work = Work(table, request)
    lacks = {cell.name: work.missing(cell, fetch=True) for cell in work.cells}
    skipped = {name: next(iter(lacking.values())) for name, lacking in lacks.items() if lacking}
    todo = [(cell, seed) for seed in work.seeds for cell in work.cells if cell.name not in skipped]
    make_folder(request.out / "cells" / table.name)
    for reason, names in _write(work, skipped).not_run.items():
        say(f"skipped: {names}: {reason}")
    total, told = len(todo), False
    while todo:
        waiting = []
        for cell, seed in todo:
            place = work.place(cell, seed)
            if place.is_file():
                continue
            say(f"{table.name}: cell {cell.name}, seed {seed} ({total} in all)")
            try:
                with lock(place.with_name(f".{place.stem}.lock")):
                    if not place.is_file():
                        write_json(place, work.measure(cell, seed))
                        _write(work, skipped)
            except BusyError:
                waiting.append((cell, seed))
        if len(waiting) == len(todo):
            if not told:
                say(f"{len(waiting)} cells are made by other processes; waiting for them")
            told = True
            time.sleep(_WAIT_S)
        todo = waiting
    return _write(work, skipped)


def _write(work: Work, skipped: Mapping[str, str]) -> Reproduction:
    """Compare what is done with what is published, and write it."""
    table, request, done = work.table, work.request, {}
    for cell in work.cells:
        places = [work.place(cell, seed) for seed in work.seeds] if cell.name not in skipped else []
        done[cell.name] = [read_record(place, CellFile) for place in places if place.is_file()]
    changed = [each for each in request.overrides if not each.startswith(_SPEED)]
    result = Reproduction(table, done, skipped, work.seeds, request.small, changed)
    write_text(request.out / f"{table.name}.csv", result.as_csv())
    write_text(request.out / f"{table.name}.html", result.as_html())
    return result


def needs(table: Table, request: ReproduceRequest) -> dict[str, Any]:
    """What a table needs, and what is missing of it on this machine; no model hub is asked."""
    work = Work(table, request)
    lacks = {cell.name: work.missing(cell, fetch=False) for cell in work.cells}
    return {
        **{name: getattr(table, name) for name in ("title", "paper", "grade", "time")},
        "photos": list(dict.fromkeys(name for cell in work.cells for name in work.sets(cell))),
        "weights": list(dict.fromkeys(name for cell in work.cells for name in work.weights(cell))),
        "missing": {name: reason for lacking in lacks.values() for name, reason in lacking.items()},
        "cells": len(lacks),
        "ready": sum(not lacking for lacking in lacks.values()),
    }
