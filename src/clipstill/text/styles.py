"""Style words. Synthetic images are spread over them, and held-out validation images have their own."""

from __future__ import annotations

from pathlib import Path

from clipstill.core.errors import ConfigError

# 16 as in Wei et al., ICLR 2025. Illustration, pattern and photorealism are theirs; the others are our choice.
_STYLES = (
    "photorealism, illustration, pattern, sketch, oil painting, watercolor, cartoon, 3D render, vintage photo, "
    "black-and-white photo, close-up, low light, overexposed, mosaic, poster, clay model"
)
STYLES = tuple(_STYLES.split(", "))


def load_styles(path: Path) -> tuple[str, ...]:
    """Read styles from a text file, one per line; blank lines and lines that start with ``#`` are skipped.

    Raises:
        ConfigError: The file cannot be read, holds no style, or holds one twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the file of styles {path} cannot be read ({error}). Check the path; save it as UTF-8."
        ) from None
    first_line: dict[str, int] = {}
    styles: list[str] = []
    for number, line in enumerate(lines, 1):
        style = " ".join(line.split())
        if not style or style.startswith("#"):
            continue
        first = first_line.setdefault(style.casefold(), number)
        if first != number:
            raise ConfigError(f"style '{style}' appears twice (lines {first} and {number} of {path}). Remove one.")
        styles.append(style)
    if not styles:
        raise ConfigError(f"the file of styles {path} holds no style. Write one per line.")
    return tuple(styles)
