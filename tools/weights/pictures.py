"""Openly licensed pictures with captions, for the embedded teachers.

Drawings and emoji keep their alpha channel, so that training can put them on any background. An emoji drawn by six
vendors is one caption in six styles.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.errors import ResourceError
from clipstill.core.files import read_json, sha256_json, write_json
from clipstill.core.progress import Progress
from tools.weights.packages import PHOTOGRAPH_FILES, PHOTOGRAPHS, fetch
from tools.weights.wordnet import physical_things

SIZE = 160
# Emoji that say nothing about things, or repeat one with another skin.
_NO_THINGS = ("Flags", "Symbols", "Component")
# Packages of emoji and of icons in the form of Iconify.
_EMOJI = ("noto-v1", "fxemoji", "emojione", "emojione-monotone", "streamline-emojis")
_ICONS = ("game-icons", "hugeicons", "icon-park-outline", "lucide-lab")
# Ends of names that count or describe variants of one picture.
_VARIANT = re.compile(r"-(\d+|one|two|three|four|five)$")
# File names hold numbers and the names of their authors, which are no words of the picture.
_NO_WORDS = re.compile(
    r"\b\d+\w*\b|\b(ganson|jarno|vasamaa|andrea|bianchi|architetto|francesco|rollandin|gerald|mark|01|benji|park)\b",
    re.I,
)
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


@dataclass(frozen=True)
class Picture:
    """One picture before it is decoded."""

    content: Path | str  # File (png, webp or svg), or the text of an SVG.
    name: str  # Shortest name of the content, such as ``"giraffe"``.
    caption: str  # A sentence or keywords; may equal the name.
    source: str  # Name of the collection, one style each.


def captioned_pictures(cache: Path) -> list[Picture]:
    """All captioned pictures of the packages, in a fixed order."""
    readers: tuple[Callable[[Path], Iterator[Picture]], ...] = (_clip_art, _emoji_sets, _outlines, _fluent, _iconify)
    return [picture for reader in readers for picture in reader(cache)]


def decode(picture: Picture) -> np.ndarray:
    """A picture as uint8 RGBA (SIZE, SIZE, 4), in its aspect ratio on a transparent square."""
    if isinstance(picture.content, str):
        data = _render_svg(picture.content)
    elif picture.content.suffix == ".svg":
        data = _render_svg(picture.content.read_text(encoding="utf-8", errors="replace"))
    else:
        data = picture.content.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        rgba = image.convert("RGBA")
    box = rgba.getchannel("A").getbbox()
    if box is not None:
        rgba = rgba.crop(box)
    rgba.thumbnail((SIZE, SIZE), Image.Resampling.BICUBIC)
    if max(rgba.size) < SIZE:
        factor = SIZE / max(rgba.size)
        larger = max(1, round(rgba.width * factor)), max(1, round(rgba.height * factor))
        rgba = rgba.resize(larger, Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (SIZE, SIZE), (255, 255, 255, 0))
    canvas.paste(rgba, ((SIZE - rgba.width) // 2, (SIZE - rgba.height) // 2))
    return np.asarray(canvas)


def decode_all(pictures: list[Picture], target: Path) -> tuple[list[Picture], np.ndarray]:
    """Decode into a memory map in the cache; pictures that cannot be decoded are left out.

    Returns:
        The pictures that could be read, and uint8 (N, SIZE, SIZE, 4).
    """
    kept_file = target.with_suffix(".json")
    key = sha256_json([SIZE, [[picture.name, picture.source] for picture in pictures]])
    stored = read_json(kept_file) if kept_file.exists() else {}
    if stored.get("key") == key:
        return [pictures[i] for i in stored["kept"]], np.load(target, mmap_mode="r")
    kept_file.unlink(missing_ok=True)
    images, indices = [], []
    with Progress("decoding pictures", total=len(pictures), unit="img") as bar:
        for index, picture in enumerate(pictures):
            # A handful of old drawings are not valid any more.
            with contextlib.suppress(OSError, ValueError, Image.DecompressionBombError):
                images.append(decode(picture))
                indices.append(index)
            bar.advance(1)
    np.save(target, np.stack(images))
    write_json(kept_file, {"key": key, "kept": indices})
    return [pictures[i] for i in indices], np.load(target, mmap_mode="r")


def random_square(picture_3HW: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A random square of a picture, scaled down to (3, size, size).

    Args:
        picture_3HW: Picture in [0, 1] with sides of at least ``size``.
        size: Side of the result in pixels.
        generator: Source of the size and the place of the square.
    """

    def below(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    height, width = picture_3HW.shape[1:]
    side = size + below(min(height, width) - size + 1)
    top, left = below(height - side + 1), below(width - side + 1)
    square = picture_3HW[None, :, top : top + side, left : left + side]
    return F.interpolate(square, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def photographs(cache: Path) -> list[Path]:
    """Wallpapers: backgrounds for the drawings, and photographs for the generator."""
    return sorted(path for path in fetch(PHOTOGRAPHS, cache).rglob("*.jpg") if PHOTOGRAPH_FILES.fullmatch(path.name))


def _render_svg(text: str) -> bytes:
    try:
        import resvg_py
    except ImportError:
        raise ResourceError("drawings in SVG need resvg-py. Install it: pip install 'clipstill[build]'") from None
    return bytes(resvg_py.svg_to_bytes(svg_string=text, width=SIZE * 2))


def _words(stem: str) -> str:
    """The words in a file name."""
    return " ".join(_NO_WORDS.sub(" ", re.sub(r"[_\-.+]+", " ", stem)).split()).lower()


def _clip_art(cache: Path) -> Iterator[Picture]:
    titles = {path.stem.lower(): _svg_metadata(path) for path in fetch("openclipart-svg", cache).rglob("*.svg")}
    for path in sorted(fetch("openclipart-png", cache).rglob("*.png")):
        title, subjects = titles.get(path.stem.lower(), ("", []))
        name = _words(path.stem) or title.lower()
        folders = [p for p in path.parts[path.parts.index("png") + 1 : -1] if p not in ("unsorted", "special")]
        extra = [subject for subject in subjects if subject != "unsorted"] + [_words(f) for f in folders[-1:]]
        if not name or "flag" in name or "geography" in folders or "signs_and_symbols" in folders:
            continue  # hundreds of flags, maps and road signs teach nothing about things
        yield Picture(path, name, ", ".join(dict.fromkeys([name, *extra])), "openclipart")


def _svg_metadata(path: Path) -> tuple[str, list[str]]:
    """Title and subjects of a drawing; empty where its XML is broken."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError:
        return "", []
    title = next((e.text for e in root.iter(f"{_DUBLIN_CORE}title") if e.text), "")
    lists = list(root.iter(f"{_DUBLIN_CORE}subject"))
    subjects = [li.text.strip().lower() for e in lists for li in e.iter() if li.tag.endswith("}li") and li.text]
    return title.strip(), subjects


def _emoji_names(cache: Path) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Each emoji of things, with its simplest name and its caption of all names."""
    root = fetch("emoji-datasource-google", cache) / "package"
    for emoji in json.loads((root / "emoji.json").read_text(encoding="utf-8")):
        if emoji["category"] not in _NO_THINGS:
            name = emoji["name"].lower() if emoji["name"] else emoji["short_name"].replace("_", " ")
            shorter = [s.replace("_", " ").replace("-", " ") for s in emoji["short_names"]]
            yield emoji, min([name, *shorter], key=len), ", ".join(dict.fromkeys([name, *shorter]))


def _emoji_sets(cache: Path) -> Iterator[Picture]:
    three_d = fetch("@lobehub/fluent-emoji-3d", cache) / "package" / "assets"
    for vendor in ("google", "twitter"):
        folder = fetch(f"emoji-datasource-{vendor}", cache) / "package" / "img" / vendor / "64"
        yield from (
            Picture(folder / emoji["image"], simplest, caption, vendor)
            for emoji, simplest, caption in _emoji_names(cache)
            if (folder / emoji["image"]).exists()
        )
    for emoji, simplest, caption in _emoji_names(cache):
        path = three_d / f"{emoji['unified'].lower()}.webp"
        if path.exists():
            yield Picture(path, simplest, caption, "fluent-3d")


def _outlines(cache: Path) -> Iterator[Picture]:
    """Emoji as a font of outlines draws them; drawn once, into the cache."""
    package = fetch("@fontsource/noto-emoji", cache) / "package"
    drawn = cache / "outlines"
    drawn.mkdir(exist_ok=True)
    # The font comes in files of a few hundred characters each.
    pattern = r"noto-emoji-\[(\d+)\].*?unicode-range: ([^;]+);"
    fonts = {
        code: package / "files" / f"noto-emoji-{number}-400-normal.woff2"
        for number, ranges in re.findall(pattern, (package / "400.css").read_text(encoding="utf-8"), re.S)
        for code in _codes(ranges)
    }
    for emoji, simplest, caption in _emoji_names(cache):
        code = emoji["unified"].removesuffix("-FE0F")
        path = drawn / f"{code}.png"
        if "-" in code or int(code, 16) not in fonts:
            continue  # joined from several characters
        if not path.exists():
            font = ImageFont.truetype(fonts[int(code, 16)], SIZE)
            image = Image.new("RGBA", (2 * SIZE, 2 * SIZE))
            ImageDraw.Draw(image).text((SIZE, SIZE), chr(int(code, 16)), fill=(0, 0, 0, 255), font=font, anchor="mm")
            image.save(path)
        yield Picture(path, simplest, caption, "outlines")


def _codes(ranges: str) -> Iterator[int]:
    """Characters of a ``unicode-range`` such as ``U+200d,U+1f1e6-1f1ff``."""
    for part in ranges.split(","):
        first, _, last = part.strip().removeprefix("U+").partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


def _fluent(cache: Path) -> Iterator[Picture]:
    icons = fetch("fluentui-emoji", cache) / "package" / "icons"
    tones = re.compile(r"-(dark|light|medium)(-(dark|light))?$|^flag-|-(button|sign|symbol|hand)$|^keycap")
    for folder in ("flat", "high-contrast"):
        for path in sorted((icons / folder).glob("*.svg")):
            if not tones.search(path.stem):
                name = path.stem.removesuffix("-default").replace("-", " ").lower()
                yield Picture(path, name, name, f"fluent-{folder}")


def _iconify(cache: Path) -> Iterator[Picture]:
    known = {_letters(one): (name, caption) for _, name, caption in _emoji_names(cache) for one in caption.split(", ")}
    things = physical_things(cache)
    for source in (*_EMOJI, *_ICONS):
        text = (fetch(f"@iconify-json/{source}", cache) / "package" / "icons.json").read_text(encoding="utf-8")
        yield from icon_pictures(json.loads(text), source, known if source in _EMOJI else {}, things)


def icon_pictures(
    icons: dict[str, Any], source: str, known: Mapping[str, tuple[str, str]], things: Container[str]
) -> Iterator[Picture]:
    """Pictures of a set in the form of Iconify, as far as their names say what they show.

    Args:
        icons: Content of ``icons.json``.
        source: Name of the set.
        known: Letters of a name -> name and caption of that emoji.
        things: Other names that are taken as they are.
    """
    for stem, icon in icons["icons"].items():
        own = _VARIANT.sub("", stem).replace("-", " ")
        names = known.get(_letters(own), (own, own) if own in things else None)
        if names is not None:
            width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
            svg = f'<svg xmlns="{_SVG}" xmlns:xlink="{_XLINK}" viewBox="{box}">{icon["body"]}</svg>'
            yield Picture(svg, *names, source)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
