"""The mark that every synthetic picture carries on its way out: IPTC's digital source type, as XMP inside the file.

Which term: ``trainedAlgorithmicMedia`` is made by an algorithm with a model that was derived from sampled content. An
image that is optimised until a teacher recognises it is that, whatever draws it: the teacher learned from photos, and
every pixel follows its gradient. ``algorithmicMedia`` is for pictures behind which there is no training data at all,
and ``algorithmicallyEnhanced`` for changed photos; neither is true, also not of images drawn towards example photos,
of which no pixel is taken over. A page or a sheet that shows such images beside other things is
``compositeWithTrainedAlgorithmicMedia``.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

_TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SYNTHETIC = f"{_TERMS}trainedAlgorithmicMedia"
PARTLY_SYNTHETIC = f"{_TERMS}compositeWithTrainedAlgorithmicMedia"


def xmp_packet(source_type: str = SYNTHETIC) -> str:
    """The XMP packet in which image tools look for the term."""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{source_type}"/></rdf:RDF></x:xmpmeta>'
    )


def save_marked(
    image: Image.Image, target: Path | IO[bytes], kind: str, source_type: str = SYNTHETIC, **options: Any
) -> None:
    """Write a picture with the mark; equal pictures give equal bytes.

    Args:
        image: what to write.
        target: a path or an open stream.
        kind: ``PNG``, ``WEBP`` or ``JPEG``.
        source_type: one of the terms above.
        options: of Pillow's writer, such as ``quality``.
    """
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        marks = PngInfo()
        # Once more as plain text, for people who look at a PNG's chunks.
        marks.add_text("DigitalSourceType", source_type)
        marks.add_text("Software", "clipstill")
        marks.add_itxt("XML:com.adobe.xmp", xmp_packet(source_type))
        options["pnginfo"] = marks
    else:
        options["xmp"] = xmp_packet(source_type).encode()
    image.save(target, kind, **options)
