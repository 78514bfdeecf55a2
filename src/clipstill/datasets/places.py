"""Where the data sets of published tables lie, by the name that their tables call them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from clipstill.core.errors import ConfigError, DataError
from clipstill.core.paths import user_path
from clipstill.core.seeds import generator_for
from clipstill.datasets import open_dataset
from clipstill.datasets.coop import LAYOUTS
from clipstill.datasets.own import open_folders
from clipstill.datasets.published import PUBLISHED
from clipstill.datasets.split import SPLITS, Dataset

_SPLITS = 10  # Random splits of the classes of ImageNet, by Wei et al., ICLR 2025; their seed is not known, ours is 0.
_SPLIT = re.compile(r"(imagenet)-(\d+)")


def layout_of(name: str) -> str | None:
    """Published layout whose own settings a data set takes; None where it has none."""
    name = _SPLIT.sub(r"\1", name)
    if name in PUBLISHED:
        return "imagenet" if PUBLISHED[name][0].of_imagenet else None
    return name if name in LAYOUTS else None


class Places:
    """Opens data sets by name, each once.

    Args:
        places: Folders that hold data sets in their published layouts, or a folder NAME with train and test of the
            user's own; and ``NAME=PLACE`` with a place as ``open_dataset`` takes it.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self._named: dict[str, str] = {}
        self._roots: list[Path] = []
        self._opened: dict[str, Dataset] = {}
        for place in places:
            name, equals, where = place.partition("=")
            if not equals:
                self._roots.append(user_path(place))
            elif name in LAYOUTS or name in PUBLISHED:
                self._named[name] = where
            else:
                raise ConfigError(f"--data '{place}' names no published data set. They are: {', '.join(self._names)}.")

    @cached_property
    def _names(self) -> list[str]:
        return [*LAYOUTS, *PUBLISHED]

    def open(self, name: str) -> Dataset:
        """The data set of a name, or one of the ten random splits ``imagenet-1`` to ``imagenet-10`` of its classes.

        Raises:
            DataError: It is not there.
        """
        split = _SPLIT.fullmatch(name)
        if split is not None:
            import torch

            whole = self.open(split[1])
            order = torch.randperm(len(whole.classes), generator=generator_for(0, "splits", split[1]))
            labels = order.tensor_split(_SPLITS)[int(split[2]) - 1].sort().values.tolist()
            return replace(whole.only(labels), name=name)
        if name not in self._opened:
            self._opened[name] = replace(self._found(name), name=name, layout=layout_of(name))
        return self._opened[name]

    def _found(self, name: str) -> Dataset:
        if name in self._named:
            return open_dataset(self._named[name])
        missing: DataError | None = None
        for root in self._roots:
            if all((root / name / split).is_dir() for split in SPLITS):
                return open_folders(root / name)
            try:
                return open_dataset(f"{name}:{root}")
            except DataError as error:
                missing = missing or error
        raise missing or DataError(f"data set {name}: no place is given. Name its folder: --data {name}=FOLDER.")
