"""Openly licensed captioned pictures, as the embedded teachers learn them.

Drawings and emoji are kept with their alpha channel, so that training can put them on any background. An emoji drawn by
six vendors is one caption in six styles: that is what teaches style.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from clipstill.core.errors import ResourceError
from clipstill.core.progress import Progress
from tools.weights.packages import fetch

SIZE = 160
STYLES = (
    "clip art",
    "photo stamp",
    "emoji google",
    "emoji twitter",
    "emoji openmoji",
    "line drawing",
    "emoji fluent",
    "emoji 3d",
)


@dataclass(frozen=True)
class Picture:
    """One picture before it is decoded.

    Attributes:
        path: file (png, webp or svg).
        name: the shortest name of what is shown, such as ``"giraffe"``.
        caption: a sentence or the keywords; may equal the name.
        style: index into ``STYLES``.
    """

    path: Path
    name: str
    caption: str
    style: int


def captioned_pictures(cache: Path) -> list[Picture]:
    """All captioned pictures of the packages, in a fixed order."""
    readers: tuple[Callable[[Path], Iterator[Picture]], ...] = (_clip_art, _stamps, _emoji_sets, _openmoji, _fluent)
    return [picture for reader in readers for picture in reader(cache)]


def decode(picture: Picture) -> np.ndarray:
    """A picture as uint8 RGBA (SIZE, SIZE, 4), its aspect ratio kept, transparent around it."""
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
        rgba = rgba.resize(
            (max(1, round(rgba.width * factor)), max(1, round(rgba.height * factor))), Image.Resampling.BICUBIC
        )
    canvas = Image.new("RGBA", (SIZE, SIZE), (255, 255, 255, 0))
    canvas.paste(rgba, ((SIZE - rgba.width) // 2, (SIZE - rgba.height) // 2))
    return np.asarray(canvas)


def decode_all(pictures: list[Picture], target: Path) -> tuple[list[Picture], np.ndarray]:
    """Decode into a memory map beside the cache; what cannot be decoded is left out.

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
            try:
                images.append(decode(picture))
                indices.append(index)
            except (
                OSError,
                ValueError,
                Image.DecompressionBombError,
            ):  # a handful of old drawings are not valid any more
                pass
            bar.advance(1)
    np.save(target, np.stack(images))
    kept_file.write_text(json.dumps(indices))
    return [pictures[i] for i in indices], np.load(target, mmap_mode="r")


def photographs(cache: Path) -> list[Path]:
    """Wallpaper photographs without captions: backgrounds for the drawings, and texture for the generator."""
    packages = ("gnome-backgrounds", "mate-backgrounds", "plasma-workspace-wallpapers", "ukui-wallpapers")
    found = [p for name in packages for p in fetch(name, cache).rglob("*") if p.suffix in (".jpg", ".png", ".webp")]
    return sorted(p for p in found if p.stat().st_size > 150_000 and "screenshot" not in p.name)


def _render_svg(text: str) -> bytes:
    try:
        import resvg_py
    except ImportError:
        raise ResourceError("drawings in SVG need resvg-py. Install it: pip install 'clipstill[build]'") from None
    return bytes(resvg_py.svg_to_bytes(svg_string=text, width=SIZE * 2))


def _words(stem: str) -> str:
    """A file name as words: separators to spaces, numbers and authors' marks dropped."""
    text = re.sub(r"[_\-.+]+", " ", stem)
    text = re.sub(
        r"\b\d+\w*\b|\b(ganson|jarno|vasamaa|andrea|bianchi|architetto|francesco|rollandin|gerald|mark|01|benji|park)\b",
        " ",
        text,
        flags=re.I,
    )
    return " ".join(text.split()).lower()


def _clip_art(cache: Path) -> Iterator[Picture]:
    titles = {}
    for path in fetch("openclipart-svg", cache).rglob("*.svg"):
        title, subjects = _svg_metadata(path)
        titles[path.stem.lower()] = (title, subjects)
    for path in sorted(fetch("openclipart-png", cache).rglob("*.png")):
        title, subjects = titles.get(path.stem.lower(), ("", []))
        name = _words(path.stem) or title.lower()
        folders = [p for p in path.parts[path.parts.index("png") + 1 : -1] if p not in ("unsorted", "special")]
        extra = [s for s in subjects if s not in ("unsorted",)] + [_words(f) for f in folders[-1:]]
        if not name or "flag" in name or "geography" in folders or "signs_and_symbols" in folders:
            continue  # hundreds of flags, maps and road signs teach nothing about things
        yield Picture(path, name, ", ".join(dict.fromkeys([name, *extra])), 0)


def _svg_metadata(path: Path) -> tuple[str, list[str]]:
    """Title and subjects of a drawing; empty where its XML is broken."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError:
        return "", []
    title = next((e.text for e in root.iter("{http://purl.org/dc/elements/1.1/}title") if e.text), "")
    lists = list(root.iter("{http://purl.org/dc/elements/1.1/}subject"))
    subjects = [li.text.strip().lower() for e in lists for li in e.iter() if li.tag.endswith("}li") and li.text]
    return title.strip(), subjects


def _stamps(cache: Path) -> Iterator[Picture]:
    root = fetch("tuxpaint-stamps-default", cache)
    for text in sorted(root.rglob("*.txt")):
        sentence = text.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
        path = next((p for p in (text.with_suffix(".png"), text.with_suffix(".svg")) if p.exists()), None)
        if path is not None and sentence:
            photo = path.suffix == ".png"
            yield Picture(path, _words(text.stem), sentence.rstrip(".").lower(), 1 if photo else 0)


def _emoji_sets(cache: Path) -> Iterator[Picture]:
    three_d = fetch("@lobehub/fluent-emoji-3d", cache) / "package" / "assets"
    for vendor, style in (("google", 2), ("twitter", 3)):
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
                yield Picture(solid, simplest, caption, 7)


def _openmoji(cache: Path) -> Iterator[Picture]:
    root = fetch("openmoji", cache) / "package"
    for emoji in json.loads((root / "data" / "openmoji.json").read_text(encoding="utf-8")):
        if emoji["skintone"] or emoji["group"] in ("flags", "symbols", "extras-openmoji", "component"):
            continue
        name = emoji["annotation"].lower()
        tags = [tag.strip() for tag in emoji["tags"].split(",") if tag.strip()][:4]
        caption = ", ".join(dict.fromkeys([name, *tags]))
        for folder, style in (("color", 4), ("black", 5)):
            path = root / folder / "svg" / f"{emoji['hexcode']}.svg"
            if path.exists():
                yield Picture(path, name, caption, style)


def _fluent(cache: Path) -> Iterator[Picture]:
    icons = fetch("fluentui-emoji", cache) / "package" / "icons"
    tones = re.compile(r"-(dark|light|medium)(-(dark|light))?$|^flag-|-(button|sign|symbol|hand)$|^keycap")
    for folder, style in (("flat", 6), ("high-contrast", 5)):
        for path in sorted((icons / folder).glob("*.svg")):
            if not tones.search(path.stem):
                name = path.stem.removesuffix("-default").replace("-", " ").lower()
                yield Picture(path, name, name, style)
