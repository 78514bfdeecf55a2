"""Tables of parts by name; a part is imported when it is first used.

A third-party package adds a part by an entry point of its name in the group ``clipstill.<kind>s``, such as
``clipstill.teachers``.
"""

from __future__ import annotations

import functools
import importlib
from importlib import metadata
from typing import Any, NamedTuple

from clipstill.core.errors import ConfigError, UnknownNameError, did_you_mean


class Part(NamedTuple):
    """Where a part is, and what ``clipstill list`` says of it."""

    path: str  # As in ``"package.module:attribute"``.
    take_it_when: str
    size: str = ""  # Of the file that ships, or of the download; empty where a part has none.
    licence: str = ""  # Of its weights; empty where a part has none.


class Registry:
    """Maps names to parts.

    Args:
        kind: Singular noun for messages and the entry-point group, such as ``"teacher"``.
        table: Part of each name.
        prefixes: Part of each family, whose names continue after a colon, as in ``openclip:ViT-B-32/openai``.
    """

    def __init__(self, kind: str, table: dict[str, Part], prefixes: dict[str, Part] | None = None) -> None:
        self.kind = kind
        self._own = dict(table)
        self._prefixes = dict(prefixes or {})

    def parts(self) -> dict[str, Part]:
        """All parts by name, families as ``prefix:...``; the order is that of the table."""
        return self._table | {f"{prefix}:...": part for prefix, part in self._prefixes.items()}

    def names(self) -> list[str]:
        """All names, families as ``prefix:...``."""
        return list(self.parts())

    def split(self, names: str) -> list[str]:
        """Names that are joined by ``+``, which may also stand in the path of a family's name."""
        parts: list[str] = []
        for part in names.split("+"):
            known = part.strip() in self._table or part.strip().partition(":")[0] in self._prefixes
            if parts and ":" in parts[-1] and not known:
                parts[-1] += f"+{part}"
            else:
                parts.append(part)
        return [part.strip() for part in parts]

    def resolve(self, name: str) -> tuple[Any, str]:
        """Load the object of a name; also returns what follows the prefix of a family, else an empty string.

        Raises:
            UnknownNameError: There is no such name.
        """
        path, rest = self._find(name)
        module, _, attribute = path.partition(":")
        return getattr(importlib.import_module(module), attribute), rest

    def check(self, *names: str) -> None:
        """Raise an ``UnknownNameError`` for a name that there is not; loads nothing."""
        for name in names:
            self._find(name)

    def _find(self, name: str) -> tuple[str, str]:
        prefix, colon, rest = name.partition(":")
        if name in self._table:
            return self._table[name].path, ""
        if colon and prefix in self._prefixes and rest:
            return self._prefixes[prefix].path, rest
        hint = did_you_mean(name, [*self._table, *self._prefixes])
        raise UnknownNameError(f"no {self.kind} named '{name}'.{hint} All of them: clipstill list {self.kind}s")

    @functools.cached_property
    def _table(self) -> dict[str, Part]:
        """Parts of all names, with those of third-party packages."""
        table, origins = dict(self._own), dict.fromkeys([*self._own, *self._prefixes], "clipstill")
        for point in metadata.entry_points(group=f"clipstill.{self.kind}s"):
            origin = point.dist.name if point.dist is not None else point.value
            if point.name in origins:
                raise ConfigError(
                    f"two {self.kind}s are named '{point.name}': one from {origins[point.name]}, one from {origin}. "
                    f"Uninstall one of the packages."
                )
            origins[point.name] = origin
            table[point.name] = Part(point.value, f"you want what {origin} installed")
        return table
