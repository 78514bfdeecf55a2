"""Memory that ``load_rgb`` takes to decode one large picture, by kind of file.

    python benchmarks/decoding.py [--megapixels 62]

Each picture is read in a process of its own: its highest memory less that before, per pixel; for Linux.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipstill.core.images import load_rgb


def pictures(side: int) -> dict[str, Callable[[Path], Any]]:
    """How to write each kind: a gradient, so that the files are small and quickly made."""
    Image.MAX_IMAGE_PIXELS = None
    grey = Image.linear_gradient("L").resize((side, side))
    rgb = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.ROTATE_90), grey])
    clear = rgb.copy()
    clear.putalpha(grey)
    values = np.asarray(grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "rgb.png": lambda path: rgb.save(path, compress_level=1),
        "rgba.png": lambda path: clear.save(path, compress_level=1),
        "palette-with-transparency.png": lambda path: rgb.quantize(64).save(path, transparency=0, compress_level=1),
        "16-bit.png": lambda path: Image.fromarray(values.astype(np.uint16) * 257).save(path, compress_level=1),
        "float.tiff": lambda path: Image.fromarray(values.astype(np.float32) / 255).save(path),
        "lzw.tiff": lambda path: rgb.save(path, compression="tiff_lzw"),
        "plain.jpg": rgb.save,
        "turned.jpg": lambda path: rgb.save(path, exif=turned),
        "progressive.jpg": lambda path: rgb.save(path, progressive=True, subsampling=0),
        "cmyk-progressive.jpg": lambda path: rgb.convert("CMYK").save(path, progressive=True),
        "rgb.webp": lambda path: rgb.save(path, method=0, quality=50),
        "rgba-lossless.webp": lambda path: clear.save(path, lossless=True, method=0, quality=0),
        "palette.gif": lambda path: rgb.quantize(64).save(path),
    }


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=62)
    parser.add_argument("--one", type=Path, help="used for the processes that read one picture")
    given = parser.parse_args()
    if given.one is not None:
        before = peak_bytes()
        image = load_rgb(given.one)
        taken = peak_bytes() - before
        print(f"| {given.one.name} | {taken / 1e6:.0f} | {taken / (image.width * image.height):.1f} |")
        return
    print("| picture | MB | bytes a pixel |\n|---|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, save in pictures(round((1e6 * given.megapixels) ** 0.5)).items():
            path = Path(folder, name)
            save(path)
            subprocess.run([sys.executable, __file__, "--one", str(path)], check=True)
            path.unlink()


if __name__ == "__main__":
    main()
