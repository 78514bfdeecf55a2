"""Opens zips that may come from anybody."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipstill.core.errors import DataError, reason_of

# Damaged or cut short; RuntimeError includes an unknown way of packing, ValueError a name that is not UTF-8.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip to read from.

    Raises:
        DataError: It cannot be opened, it is locked, or the block cannot read it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.flag_bits & 1 for entry in archive.infolist()):
                raise DataError(f"{path.name} is locked with a password. Make the zip again without one.")
            yield archive
    except _DAMAGE as error:
        raise DataError(f"{path.name} cannot be unpacked ({reason_of(error)}). Make the zip again.") from None
