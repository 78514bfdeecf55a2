"""Pictures that are in two places."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipstill.core.copies import equal_files, near_copies, tell_two_labels
from clipstill.core.errors import DataError
from clipstill.core.image_folder import ImageFolder
from clipstill.workflow.photos import refuse_overlap


def picture(path: Path, seed: int, **options: object) -> Path:
    """A picture of a few coloured areas."""
    path.parent.mkdir(parents=True, exist_ok=True)
    areas = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(areas).resize((240, 180), Image.Resampling.BICUBIC).save(path, **options)
    return path


def test_equal_files_are_found_whatever_their_names(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in ("a", "b", "c"))
    a.write_bytes(b"x" * 40_000)
    b.write_bytes(b"x" * 40_000)
    c.write_bytes(b"x" * 39_999 + b"y")
    assert equal_files([c, b, a]) == [[b, a]]


def test_a_copy_under_another_name_is_not_learned_from_and_measured_on(tmp_path: Path) -> None:
    shown = picture(tmp_path / "shown" / "cat" / "mine.jpg", 1)
    copy = tmp_path / "test" / "cat" / "other.jpeg"
    picture(tmp_path / "test" / "cat" / "0.jpg", 2)
    learned, measured = (ImageFolder.open(tmp_path / name, ["cat"]) for name in ("shown", "test"))
    refuse_overlap(learned, measured)
    copy.write_bytes(shown.read_bytes())
    with pytest.raises(DataError, match=r"mine\.jpg would be learned from and measured on.*other\.jpeg is a copy"):
        refuse_overlap(learned, ImageFolder.open(tmp_path / "test", ["cat"]))


def test_scaled_and_recompressed_copies_are_found_and_other_pictures_are_not(tmp_path: Path) -> None:
    learned = [picture(tmp_path / f"{seed}.jpg", seed) for seed in range(6)]
    with Image.open(learned[3]) as image:
        image.resize((90, 68)).save(tmp_path / "small.png")
        image.save(tmp_path / "worse.jpg", quality=30)
    plain = tmp_path / "plain.png"
    Image.new("RGB", (50, 50), "white").save(plain)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    measured = [tmp_path / "small.png", tmp_path / "worse.jpg", picture(tmp_path / "other.png", 30), plain, broken]
    assert near_copies([*learned, plain], measured) == [(learned[3], measured[0]), (learned[3], measured[1])]
    assert near_copies([], measured) == near_copies(learned, []) == []


def test_a_picture_in_two_classes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = picture(tmp_path / "cat" / "1.png", 1)
    picture(tmp_path / "dog" / "2.png", 2)
    tell_two_labels(ImageFolder.open(tmp_path, ["cat", "dog"]))
    assert not caplog.records
    (tmp_path / "dog" / "copy.png").write_bytes(one.read_bytes())
    (tmp_path / "cat" / "again.png").write_bytes(one.read_bytes())
    tell_two_labels(ImageFolder.open(tmp_path, ["cat", "dog"]))
    [told] = caplog.records
    assert "cat/1.png and cat/again.png and dog/copy.png are one picture" in told.getMessage().replace(
        "cat/again.png and cat/1.png", "cat/1.png and cat/again.png"
    )
