"""Style words: the unit that synthetic images are spread over and that held-out validation splits by."""

from __future__ import annotations

from pathlib import Path

from clipstill.core.errors import ConfigError

# 16 as in Wei et al., ICLR 2025. Illustration, pattern and photorealism are attested; the others are our choice.
STYLES = (
    "photorealism",
    "illustration",
    "pattern",
    "sketch",
    "oil painting",
    "watercolor",
    "cartoon",
    "3D render",
    "vintage photo",
    "black-and-white photo",
    "close-up",
    "low light",
    "overexposed",
    "mosaic",
    "poster",
    "clay model",
)

# For classes whose images look alike: techniques, materials and light that the first sixteen do not name. Our choice.
FURTHER_STYLES = (
    "woodcut",
    "pastel drawing",
    "ink wash",
    "stained glass",
    "embroidery",
    "paper cut",
    "pixel art",
    "low-poly model",
    "wood carving",
    "plush toy",
    "graffiti",
    "silhouette",
    "wide shot",
    "fog",
    "golden hour",
    "motion blur",
)


def load_styles(path: Path) -> tuple[str, ...]:
    """Read styles from a text file, one a line; blank lines and lines that start with ``#`` are skipped.

    Raises:
        ConfigError: the file cannot be read, holds no style, or one twice.
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
        key = style.casefold()
        if key in first_line:
            raise ConfigError(
                f"style '{style}' appears twice (lines {first_line[key]} and {number} of {path}). Remove one."
            )
        first_line[key] = number
        styles.append(style)
    if not styles:
        raise ConfigError(f"the file of styles {path} holds no style. Write one a line.")
    return tuple(styles)
