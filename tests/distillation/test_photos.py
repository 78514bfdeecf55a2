"""Views of photos in files: the law of the crops, the pixels, and that neither workers nor memory change them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from clipstill.core.errors import DataError
from clipstill.core.images import fit
from clipstill.core.protocols import Preprocess
from clipstill.core.seeds import generator_for
from clipstill.distillation.photos import Cut, PhotoSet, is_mirrored, random_crop
from clipstill.distillation.settings import ReadingSettings
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import distil
from clipstill.distillation.training_data import TrainingData
from clipstill.distillation.views import Kernel, Views, crops
from clipstill.students.student import Student
from tests.distillation.test_trainer import MODES, ColourTeacher, assert_same_weights, new_student

CPU = torch.device("cpu")


def smooth(width: int, height: int, *seed: int | str) -> Image.Image:
    """A picture without detail of a pixel's size, which a JPEG keeps."""
    few = torch.rand(3, 7, 9, generator=generator_for("smooth", *seed))
    large = torch.nn.functional.interpolate(few[None], (height, width), mode="bicubic").clamp(0, 1)[0]
    return Image.fromarray((large.permute(1, 2, 0) * 255).byte().numpy())


def photo_files(folder: Path, count: int, side: int = 60, suffix: str = ".jpg") -> list[Path]:
    """Photos of many shapes."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:04d}{suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        smooth(side + number % 5 * 20, side + number % 3 * 30, number).save(path)
    return paths


def opened(paths: Sequence[Path], workers: int = 0, cache_mb: int = 100) -> PhotoSet:
    return PhotoSet.open(paths, ReadingSettings(workers=workers, cache_mb=cache_mb))


def test_crops_follow_the_law_of_torchvision() -> None:
    """Quantiles of area, shape and place over a photo of 3:2, within what 4,000 draws leave open."""
    width, height, crop_min = 300, 200, 0.08

    def facts(crop_N4: np.ndarray) -> np.ndarray:
        left, top, wide, tall = crop_N4.T
        slack = np.maximum(width - wide, 1), np.maximum(height - tall, 1)
        return np.stack([wide * tall / (width * height), np.log(wide / tall), left / slack[0], top / slack[1]])

    ours = np.array([random_crop(width, height, crop_min, "law", number) for number in range(4_000)], float)
    picture = Image.new("RGB", (width, height))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        theirs = [RandomResizedCrop.get_params(picture, [crop_min, 1], [3 / 4, 4 / 3]) for _ in range(4_000)]
    theirs_N4 = np.array([(left, top, wide, tall) for top, left, tall, wide in theirs], float)
    quantiles = np.linspace(0.1, 0.9, 9)
    first, second = (np.quantile(facts(each), quantiles, axis=1) for each in (ours, theirs_N4))
    assert np.abs(first - second).max() < 0.05
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2]).max() == width
    assert (ours[:, 1] + ours[:, 3]).max() == height


def test_half_of_the_views_are_mirrored() -> None:
    assert 900 < sum(is_mirrored("seed", number) for number in range(2_000)) < 1_100


@pytest.mark.parametrize(("width", "height"), [(3, 900), (900, 3), (1, 1)])
def test_a_strip_in_which_no_crop_fits_is_cut_in_its_middle(width: int, height: int) -> None:
    picture = Image.new("RGB", (width, height))
    expected = RandomResizedCrop.get_params(picture, [1, 1], [3 / 4, 4 / 3])
    left, top, wide, tall = random_crop(width, height, 1.0, "strip")
    assert (top, left, tall, wide) == expected


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_a_view_is_the_same_part_as_of_a_picture_in_memory(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    smooth(150, 100, "a view").save(path)
    seed, size = ("a seed", 1), 60
    [view] = opened([path]).read(opened([path]).task(torch.tensor([0]), Cut(size, 0.3, kernel, seed)))
    left, top, wide, tall = random_crop(150, 100, 0.3, *seed, 0)
    x_1CHW = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float()
    first, end = torch.tensor([[left, top]]), torch.tensor([[left + wide, top + tall]])
    expected = crops(x_1CHW, first, end, size, kernel)[0].clamp(0, 255)
    expected = expected.flip(2) if is_mirrored(*seed, 0) else expected
    # Pillow rounds after each direction.
    assert (view.float() - expected).abs().max() <= 1.5


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_large_photo_is_decoded_small_and_looks_the_same(suffix: str, tmp_path: Path) -> None:
    [path] = photo_files(tmp_path / "large", 1, side=800, suffix=suffix)
    photos = opened([path])
    [view] = photos.read(photos.task(torch.tensor([0]), Cut(64, 0.5, "bicubic", ("seed",))))
    [(_, part, _)] = photos._reader.files._kept
    assert part == 8
    left, top, wide, tall = random_crop(800, 800, 0.5, "seed", 0)
    whole = Image.open(path).resize((64, 64), Image.Resampling.BICUBIC, box=(left, top, left + wide, top + tall))
    expected = np.asarray(whole)[:, ::-1] if is_mirrored("seed", 0) else np.asarray(whole)
    assert np.abs(view.permute(1, 2, 0).numpy().astype(int) - expected).mean() < 1.5


def test_a_photo_on_its_side_is_cut_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned to the right by 90 degrees.
    upright = smooth(400, 900, "side")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.jpg", exif=exif, quality=95)
    upright.save(tmp_path / "upright.jpg", quality=95)
    photos = opened([tmp_path / "side.jpg", tmp_path / "upright.jpg"])
    for cut in (Cut(48, 0.2, "bicubic", ("seed",)), Cut(48)):
        task = photos.task(torch.tensor([0, 1]), cut)._replace(numbers=(0, 0))
        side, straight = photos.read(task).int()
        assert (side - straight).abs().float().mean() < 1.5


def test_a_whole_photo_is_cut_as_for_prediction(tmp_path: Path) -> None:
    paths = photo_files(tmp_path / "photos", 4)
    squares = opened(paths).squares(32)
    for square, path in zip(squares, paths, strict=True):
        assert np.array_equal(square.permute(1, 2, 0).numpy(), fit(Image.open(path), Preprocess(32)))


def test_workers_and_memory_change_no_pixel_in_whatever_order_is_asked(tmp_path: Path) -> None:
    paths = photo_files(tmp_path / "photos", 192, side=20)
    seen = []
    for workers, cache_mb in ((0, 100), (0, 0), (1, 100), (2, 0)):
        photos = opened(paths, workers, cache_mb)
        tasks = [photos.task(torch.arange(n, 192, 7), Cut(16, 0.3, "bilinear", ("step", n))) for n in range(7)]
        asked = [(0, tasks[1:]), (1, tasks[2:]), (2, []), (5, tasks[6:]), (6, []), (0, tasks), (3, tasks[4:])]
        seen.append(torch.cat([photos.read(tasks[n], ahead) for n, ahead in asked]))
    assert all(torch.equal(each, seen[0]) for each in seen[1:])


def test_a_photo_that_cannot_be_read_is_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = photo_files(tmp_path / "photos", 5)
    paths[1].write_bytes(paths[1].read_bytes()[:400])
    paths[3].write_text("no picture")
    with caplog.at_level("INFO", "clipstill"):
        photos = opened(paths)
    assert photos.photo_N.tolist() == [0, 2, 4]
    assert "2 of 5 photos are skipped" in caplog.text
    assert paths[1].name in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_goes_or_changes_meanwhile_ends_in_one_line(workers: int, tmp_path: Path) -> None:
    paths = photo_files(tmp_path / "photos", 64, side=20)
    photos = opened(paths, workers)
    paths[3].unlink()
    smooth(33, 44).save(paths[4])
    for row, message in ((3, "there is no image"), (4, "was changed while")):
        with pytest.raises(DataError, match=message):
            photos.read(photos.task(torch.tensor([row]), Cut(16, 0.3)))


def test_a_photo_that_changed_changes_the_digest(tmp_path: Path) -> None:
    paths = photo_files(tmp_path / "photos", 3)
    before = opened(paths)
    data = TrainingData.of_no_class().with_photos(before)
    assert TrainingData.of_no_class().with_photos(opened(paths)).digest == data.digest
    assert data.where(torch.tensor([True, True, False])).digest != data.digest
    status = paths[1].stat()
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert TrainingData.of_no_class().with_photos(opened(paths)).digest != data.digest


def test_memory_keeps_the_first_photos_up_to_its_limit(tmp_path: Path) -> None:
    paths = photo_files(tmp_path / "photos", 60, side=200, suffix=".png")
    photos = opened(paths, cache_mb=1)
    photos.read(photos.task(torch.arange(60), Cut(128, 0.5)))
    kept = photos._reader.files._kept
    assert 1 < len(kept) < 10
    assert sum(4 * image.width * image.height for image in kept.values()) <= 1_000_000
    photos.read(photos.task(torch.arange(60), Cut(128, 0.5)))
    assert photos._reader.files._kept == kept


def test_views_beside_synthetic_images_are_those_of_each_alone(tmp_path: Path) -> None:
    """Rows of both kinds, in any order; a share of them is a part of the whole."""
    pixels = torch.randint(0, 256, (6, 3, 30, 30), generator=generator_for("pixels"), dtype=torch.uint8)
    made, photos = TrainingData.of_no_class(pixels), opened(photo_files(tmp_path / "photos", 5))
    both, draw = made.with_photos(photos), Views(24, 0.3, jitter=0.0)
    rows = torch.tensor([7, 2, 10, 0, 6])
    seen = both.views((rows, ("seed",)), draw, CPU)
    assert torch.equal(seen[[1, 3]], made.views((rows[[1, 3]], ("seed",)), draw, CPU))
    alone = photos.read(photos.task(rows[[0, 2, 4]] - 6, Cut(24, 0.3, "bilinear", ("seed",)))).float() / 255
    assert torch.equal(seen[[0, 2, 4]], alone)
    for own in (slice(0, None, 2), slice(1, None, 2)):
        assert torch.equal(both.views((rows, ("seed",)), draw, CPU, own=own), seen[own])
    plain = torch.cat(list(both.in_order(4, 24, CPU)))
    assert torch.equal(plain[:6], torch.cat(list(made.in_order(6, 24, CPU))))
    assert torch.equal(plain[6:], photos.squares(24).float() / 255)


def train(
    folder: Path, photos: PhotoSet, mode: str, teacher: ColourTeacher | None = None
) -> tuple[Student, list[dict[str, object]]]:
    torch.set_num_threads(1)
    student = new_student()
    data = TrainingData.of_no_class().with_photos(photos)
    labels = SoftLabels(teacher or ColourTeacher(), torch.eye(3))
    result = distil(student, labels, data, settings=MODES[mode], folder=folder)
    return student, result.history


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("workers", [1, 2])
def test_a_student_of_photos_goes_on_after_a_stop_to_the_same_bits(mode: str, workers: int, tmp_path: Path) -> None:
    """The stop is in the middle of an epoch, and another number of workers ends it."""
    paths = photo_files(tmp_path / "photos", 150, side=24)
    teacher = ColourTeacher()
    expected, history = train(tmp_path / "straight", opened(paths), mode, teacher)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", opened(paths, workers), mode, ColourTeacher(teacher.done - 1))
    resumed, again = train(tmp_path / "cut", opened(paths, 2 - workers), mode)
    assert_same_weights(expected, resumed)
    assert history == again


MANY = 50_000
# Prints megabytes before, megabytes at most, and the photos seen.
PASS = """
import resource, sys
from pathlib import Path
import torch
from clipstill.core.image_folder import ImageFolder
from clipstill.distillation.photos import PhotoSet
from clipstill.distillation.settings import ReadingSettings
from clipstill.distillation.training_data import TrainingData
from clipstill.distillation.views import Views

torch.set_num_threads(1)
draw, cpu = Views(32, 0.3, 0.0), torch.device("cpu")
draw(torch.rand(64, 3, 32, 32), 0)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
paths = [path for path, _ in ImageFolder.without_labels(sys.argv[1]).items]
data = TrainingData.of_no_class().with_photos(PhotoSet.open(paths, ReadingSettings(workers=0, cache_mb=50)))
seen = sum(len(view) for view in data.in_order(64, draw, cpu, ("pass",)))
print(before, peak(), seen if data.digest else 0)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_thousand_photos_are_read_in_bounded_memory(tmp_path: Path) -> None:
    """Decoded they take 1,300 MB."""
    originals = photo_files(tmp_path / "originals", 50, side=48)
    for number in range(MANY):
        place = tmp_path / "photos" / str(number % 50)
        place.mkdir(parents=True, exist_ok=True)
        os.link(originals[number % 50], place / f"{number}.jpg")
    command = [sys.executable, "-c", PASS, str(tmp_path / "photos")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, most, seen = map(int, done.stdout.split())
    assert seen == MANY
    assert most - before < 200, "50 MB of them are kept"
