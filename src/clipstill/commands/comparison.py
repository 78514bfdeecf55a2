"""What is done of a published table beside what is published, as a page and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from clipstill.commands.tables import AVERAGE, HARMONIC, Line, Table
from clipstill.core.progress import listed
from clipstill.evaluation.metrics import mean_and_spread
from clipstill.evaluation.protocols import harmonic_mean
from clipstill.report.templates import environment

_HEAD = ("table", "row", "data set", "value", "published", "ours", "difference", "comparable")


@dataclass(frozen=True)
class Compared:
    """One row of a table on a data set, a column, or the average. Values are in percent, by name."""

    row: str
    label: str
    published: Mapping[str, float]
    ours: Mapping[str, float]  # Means over the seeds.
    by_seed: Mapping[str, Sequence[float]]

    def texts(self, metric: str) -> tuple[str, str, str]:
        """Published value, ours, and the difference; empty where not known."""
        published, ours, seeds = self.published.get(metric), self.ours.get(metric), self.by_seed.get(metric, ())
        return (
            "" if published is None else f"{published:.2f}",
            "" if ours is None else mean_and_spread(seeds if len(seeds) > 1 else [ours]),
            "" if ours is None or published is None else f"{ours - published:+.2f}",
        )


@dataclass(frozen=True)
class Reproduction:
    """A table as far as it is done."""

    table: Table
    done: Mapping[str, Sequence[Mapping[str, Any]]]  # VARIANT/COLUMN of each chosen cell -> its files, one per seed.
    skipped: Mapping[str, str]  # VARIANT/COLUMN -> why it cannot be run here.
    seeds: Sequence[int]
    small: bool  # Whether the small limit was set, so that nothing compares.
    changed: Sequence[str]  # Settings that differ from the table's.

    @property
    def comparable(self) -> bool:
        """Whether ours may stand beside the published values."""
        return not self.small and not self.changed

    @property
    def not_run(self) -> dict[str, str]:
        """Why cells cannot be run here -> their names."""
        return {
            reason: listed([name for name, each in self.skipped.items() if each == reason], most=4)
            for reason in dict.fromkeys(self.skipped.values())
        }

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells that are done, and that were asked for, each with each seed."""
        return {"done": sum(map(len, self.done.values())), "cells": len(self.done) * len(self.seeds)}

    @cached_property
    def lines(self) -> list[Compared]:
        """The lines of which something is known, in the order of the table."""
        rows = [(variant.name, row) for variant in self.table.variants for row in variant.rows]
        lines = [line for variant, row in rows for line in self._lines(variant, row)]
        return [line for line in lines if line.published or line.ours]

    def _lines(self, variant: str, row: Line) -> Iterator[Compared]:
        """A row on each chosen label, and its average where all columns are chosen."""
        table, means = self.table, {}
        for label, column in table.labels.items():
            cells = self.done.get(f"{variant}/{column}")
            if cells is None:
                continue
            values = [each["measured"].get(row.of, {}).get(label, {}) for each in cells]
            by_seed = {name: [each[name] for each in values if name in each] for name in table.metrics}
            means[label] = _with_harmonic({name: fmean(each) for name, each in by_seed.items() if each})
            yield Compared(row.name, label, self._published(row, label), ours=means[label], by_seed=by_seed)
        columns = [means[column] for column in table.columns if column in means]
        if len(columns) == len(table.columns) > 1:
            known = [name for name in table.metrics if name != HARMONIC and all(name in each for each in columns)]
            average = _with_harmonic({name: fmean(each[name] for each in columns) for name in known})
            yield Compared(row.name, AVERAGE, self._published(row, AVERAGE), ours=average, by_seed={})

    def _published(self, row: Line, label: str) -> dict[str, float]:
        values = {name: row.published(label, place) for place, name in enumerate(self.table.metrics)}
        return {name: value for name, value in values.items() if value is not None}

    @cached_property
    def values(self) -> list[dict[str, str]]:
        """One by one with their names, as texts."""
        rows = [(line, metric, line.texts(metric)) for line in self.lines for metric in self.table.metrics]
        usable = "yes" if self.comparable else "no"
        cells = [
            (self.table.name, line.row, line.label, metric, *texts, usable)
            for line, metric, texts in rows
            if any(texts)
        ]
        return [dict(zip(_HEAD, each, strict=True)) for each in cells]

    def as_csv(self) -> str:
        """A line for each value that is published or measured."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, _HEAD, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.values)
        return stream.getvalue()

    def as_html(self) -> str:
        """The page, without scripts and requests."""
        rows: dict[str, list[Compared]] = {}
        for line in self.lines:
            rows.setdefault(line.row, []).append(line)
        cells = [each for several in self.done.values() for each in several]
        photos = {name: counts for each in cells for name, counts in each["photos"].items()}
        seconds = sum(each["seconds"] for each in cells)
        template = environment().get_template("reproduction.html")
        return template.render(result=self, table=self.table, rows=rows, photos=photos, seconds=seconds)


def _with_harmonic(values: dict[str, float]) -> dict[str, float]:
    """The values, and where there are base and novel the harmonic mean of these."""
    both = {HARMONIC: harmonic_mean(values["base"], values["novel"])} if "base" in values else {}
    return values | both
