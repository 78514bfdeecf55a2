"""Marks synthetic pictures by IPTC's digital source type, as XMP inside the file.

``trainedAlgorithmicMedia`` means made by a model that was derived from sampled content. That holds for images that are
optimised by a teacher that learned from photos, also with example photos, of which no pixel is copied. Pictures that
show such images beside other things are ``compositeWithTrainedAlgorithmicMedia``.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

_TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SYNTHETIC = f"{_TERMS}trainedAlgorithmicMedia"
PARTLY_SYNTHETIC = f"{_TERMS}compositeWithTrainedAlgorithmicMedia"


def save_marked(
    image: Image.Image, target: Path | IO[bytes], kind: str, source_type: str = SYNTHETIC, **options: Any
) -> None:
    """Write a picture of the ``kind`` ``PNG``, ``WEBP`` or ``JPEG`` with the mark; ``options`` are those of Pillow.

    Equal pictures give equal bytes.
    """
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{source_type}"/></rdf:RDF></x:xmpmeta>'
    )
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        marks = PngInfo()
        # Also as plain text, for people who read the chunks of a PNG.
        marks.add_text("DigitalSourceType", source_type)
        marks.add_text("Software", "clipstill")
        marks.add_itxt("XML:com.adobe.xmp", xmp)
        options["pnginfo"] = marks
    else:
        options["xmp"] = xmp.encode()
    image.save(target, kind, **options)
