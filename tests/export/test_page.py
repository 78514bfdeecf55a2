"""The page of a bundle, in a real browser, against the Python runtime and Pillow."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
import itertools
import json
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipstill.core.files import MANIFEST, commit_manifest, read_json, read_manifest, verify_files, write_json
from clipstill.core.images import fit, load_rgb
from clipstill.core.protocols import INTERPOLATIONS, RESIZE_MODES, Preprocess, ResizeMode
from clipstill.export.bundle import preprocess_json
from clipstill.export.page import OWN_FILES, RUNTIME_FILES, RUNTIME_LEDGER
from clipstill.runtime.bundle import load_bundle

PHOTOS = {"chelsea.png": "skimage/data", "rocket.jpg": "skimage/data", "flower.jpg": "sklearn/datasets/images"}
PACKAGE = importlib.resources.files("clipstill")


# --- The folder


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def relabel(folder: Path, **changed: object) -> None:
    """Change ``labels.json`` so that the bundle stays valid."""
    write_json(folder / "labels.json", {**read_json(folder / "labels.json"), **changed})
    names = [path.name for path in folder.iterdir() if path.name != MANIFEST]
    commit_manifest(folder, "", names, {"kind": "bundle"})


def test_manifest_lists_the_page(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    assert manifest is not None
    assert {*OWN_FILES, *RUNTIME_FILES} <= set(manifest.files)
    verify_files(tiny_bundle, manifest)


def test_runtime_is_the_one_that_its_ledger_tells(tiny_bundle: Path) -> None:
    told = re.findall(r"^\| (\S+) \|.*`([0-9a-f]{64})` \|$", (tiny_bundle / RUNTIME_LEDGER).read_text(), re.MULTILINE)
    assert len(told) == 3
    for name, digest in told:
        raw = (tiny_bundle / name).read_bytes()
        assert hashlib.sha256(gzip.decompress(raw) if name.endswith(".gz") else raw).hexdigest() == digest


def test_page_has_no_script_or_style_in_its_markup(tiny_bundle: Path) -> None:
    page = (tiny_bundle / "index.html").read_text()
    assert "script-src 'self' 'wasm-unsafe-eval'" in page
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", page)


# --- Pixels


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth colours under noise, so that both the weights and the rounding of a resize show."""
    random = np.random.default_rng([width, height])
    channels = len(Image.new(mode, (1, 1)).getbands())
    coarse = random.integers(0, 256, (height // 9 + 2, width // 9 + 2, channels), dtype=np.uint8)
    parts = [Image.fromarray(np.ascontiguousarray(coarse[..., c])).resize((width, height)) for c in range(channels)]
    smooth = np.stack([np.asarray(part) for part in parts], axis=-1).astype(int)
    noisy = (smooth + random.integers(-30, 31, smooth.shape)).clip(0, 255).astype(np.uint8)
    return Image.merge(mode, [Image.fromarray(np.ascontiguousarray(noisy[..., c])) for c in range(channels)])


@pytest.fixture(scope="module")
def preprocess_page(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    page.add_script_tag(content=(PACKAGE / "export" / "browser" / "clipstill-preprocess.js").read_text())
    yield page
    page.close()


FIT = """async ([file, how]) => {
  const blob = new Blob([Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0))]);
  const { bitmapSource, decode, fit } = clipstillPreprocess;
  return Array.from(fit(bitmapSource(await decode(blob)), how));
}"""


CROPPED = Preprocess(32, crop_fraction=0.875)
SHAPES = ((45, 45), (32, 45), (45, 32))


def difference(page: Any, path: Path, preprocess: Preprocess = CROPPED) -> int:
    """Largest difference of a level between the browser's pixels and Python's."""
    how = {name: value for name, value in preprocess_json(preprocess).items() if name != "steps"}
    found = page.evaluate(FIT, [base64.b64encode(path.read_bytes()).decode(), how])
    expected = fit(load_rgb(path), preprocess).astype(int)
    largest = int(np.abs(np.array(found).reshape(expected.shape) - expected).max())
    print(f"{path.suffix}, {preprocess}: largest difference {largest}")
    return largest


SIZES = ((1, 1), (3, 5), (31, 33), (32, 32), (37, 37), (40, 37), (37, 64), (101, 77), (640, 481), (1001, 333))
STRIPS = ((900, 100), (100, 900), (3000, 7))


@pytest.mark.parametrize(("width", "height"), [*SIZES, *STRIPS])
def test_pixels_of_a_png_are_those_of_pillow(preprocess_page: Any, tmp_path: Path, width: int, height: int) -> None:
    picture(width, height).save(tmp_path / "photo.png")
    # 0.875 rounds 36.57 to 37, so that corners of crops fall on halves; 32 / 0.9846 is 32.5, which goes to the even 32.
    for size, crop in ((32, 0.875), (32, 1.0), (32, 32 / 32.5), (45, 0.96)):
        assert difference(preprocess_page, tmp_path / "photo.png", Preprocess(size, crop_fraction=crop)) == 0


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize(("width", "height"), [(3, 5), (45, 32), (64, 36), (101, 77), (640, 481), (3000, 7)])
def test_every_resize_mode_gives_pillows_pixels(
    preprocess_page: Any, tmp_path: Path, width: int, height: int, mode: ResizeMode
) -> None:
    picture(width, height).save(tmp_path / "photo.png")
    for size, kernel in itertools.product(SHAPES, INTERPOLATIONS):
        preprocess = Preprocess(size, interpolation=kernel, resize_mode=mode, fill=100)
        assert difference(preprocess_page, tmp_path / "photo.png", preprocess) == 0


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_pixels_of_grey_and_palettes_are_those_of_pillow(preprocess_page: Any, tmp_path: Path, mode: str) -> None:
    grey = picture(211, 133, "L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = picture(211, 133).quantize(60) if mode == "P" else grey.convert(mode)
    image.save(tmp_path / "photo.png")
    assert Image.open(tmp_path / "photo.png").mode == mode
    assert difference(preprocess_page, tmp_path / "photo.png") == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_white_as_in_python(preprocess_page: Any, tmp_path: Path, mode: str) -> None:
    picture(64, 64, mode).save(tmp_path / "photo.png")
    # Unresized, so that no average hides a level. Another browser may round its blending otherwise.
    assert difference(preprocess_page, tmp_path / "photo.png", Preprocess(64)) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_turned_as_its_exif_says(preprocess_page: Any, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(107, 61).save(tmp_path / "photo.jpg", exif=exif, quality=90)
    # Decoders of JPEG may differ by a level or two; another orientation differs by a hundred.
    assert difference(preprocess_page, tmp_path / "photo.jpg") <= 2


@pytest.mark.parametrize("settings", [{"quality": 30}, {"quality": 95, "subsampling": 0}, {"progressive": True}])
def test_pixels_of_a_jpeg_are_nearly_those_of_pillow(
    preprocess_page: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    picture(407, 301).save(tmp_path / "photo.jpg", **settings)
    assert difference(preprocess_page, tmp_path / "photo.jpg") <= 2


# --- The page


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def origin(bundle: Path) -> Iterator[str]:
    """The bundle behind the server that Python brings."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(bundle))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def photo(name: str) -> Path:
    spec = find_spec(PHOTOS[name].partition("/")[0])
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("scikit-image and scikit-learn, which carry the photos, are not installed")
    return Path(next(iter(spec.submodule_search_locations))).parent / PHOTOS[name] / name


def opened(page: Any, origin: str) -> Any:
    page.goto(origin + "/index.html")
    page.wait_for_selector("body[data-ready]")
    return page


def wait_for_answer(page: Any, name: str) -> None:
    page.wait_for_function("name => document.getElementById('photo-name').textContent === name", arg=name)
    page.wait_for_selector("#answer[aria-busy=false]")


def shown_scores(page: Any) -> dict[str, float]:
    rows = page.locator("#scores li").all()
    texts = [(row.locator(".cls").inner_text(), row.locator(".num").inner_text()) for row in rows]
    return {name: float(number.removesuffix(" %")) / 100 for name, number in texts}


def test_page_answers_as_python_does(browser_page: Any, origin: str, bundle: Path) -> None:
    relabel(bundle, temperature=5.0)
    page = opened(browser_page, origin)
    runtime = load_bundle(bundle)
    highest = []
    for name in PHOTOS:
        page.set_input_files("#file", photo(name))
        wait_for_answer(page, name)
        expected = {each.label: each.score for each in runtime.predict(photo(name))}
        assert page.inner_text("#verdict") == next(iter(expected))
        assert list(shown_scores(page)) == list(expected)
        assert shown_scores(page) == pytest.approx(expected, abs=0.01)
        highest.append(max(expected.values()))
    # Else equal scores would prove little.
    assert min(highest) < 0.95


def test_refusal_is_shown(browser_page: Any, origin: str, bundle: Path) -> None:
    relabel(bundle, temperature=5.0, refusal_threshold=0.999)
    page = opened(browser_page, origin)
    page.set_input_files("#file", photo("rocket.jpg"))
    wait_for_answer(page, "rocket.jpg")
    assert load_bundle(bundle).answer([photo("rocket.jpg")])[0].refused
    assert page.inner_text("#verdict") == "None of these"
    assert "99.9 %" in page.inner_text("#explanation")
    assert page.inner_text("#spoken").startswith("None of these.")


def test_a_slider_shows_the_answer_under_another_threshold(browser_page: Any, origin: str, bundle: Path) -> None:
    relabel(bundle, temperature=5.0, refusal_threshold=0.999)
    page = opened(browser_page, origin)
    page.set_input_files("#file", photo("rocket.jpg"))
    wait_for_answer(page, "rocket.jpg")
    page.fill("#threshold", "0.01")
    assert page.inner_text("#verdict") == load_bundle(bundle).answer([photo("rocket.jpg")])[0].predictions[0].label
    assert "1.0 % (the bundle: 99.9 %)" in page.inner_text("#threshold-row")
    page.fill("#threshold", "1")
    assert page.inner_text("#verdict") == "None of these"


def test_bad_files_are_told_in_one_line_and_the_page_lives_on(browser_page: Any, origin: str, tmp_path: Path) -> None:
    good = photo("chelsea.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    Image.new("1", (9000, 8000)).save(tmp_path / "huge.png")
    page = opened(browser_page, origin)
    told = {
        "cut.png": "cut.png cannot be read as an image",
        "notes.png": "notes.png cannot be read as an image",
        "empty.jpg": "empty.jpg cannot be read as an image",
        "huge.png": "huge.png is too large (9000 x 8000 pixels; the limit is 64 million). Scale it down first.",
    }
    for name, line in told.items():
        page.set_input_files("#file", tmp_path / name)
        page.wait_for_function("name => document.getElementById('photo-error').textContent.startsWith(name)", arg=name)
        assert page.inner_text("#photo-error").startswith(line)
        assert page.locator("#shown").is_hidden()
    page.set_input_files("#file", photo("chelsea.png"))
    wait_for_answer(page, "chelsea.png")
    assert page.locator("#photo-error").is_hidden()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.onnx", "missing"),
        ("model.onnx", "altered"),
        ("labels.json", "altered"),
        ("ort-wasm-simd-threaded.wasm.gz", "missing"),
        ("ort-wasm-simd-threaded.wasm.gz", "altered"),
    ],
)
def test_missing_or_altered_file_is_named(browser_page: Any, origin: str, bundle: Path, name: str, what: str) -> None:
    if what == "missing":
        (bundle / name).unlink()
    else:
        raw = bytearray((bundle / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (bundle / name).write_bytes(raw)
    browser_page.goto(origin)
    browser_page.wait_for_selector("#error:not([hidden])")
    assert browser_page.inner_text("#error").startswith(f"{name} {'is' if what == 'missing' else 'was'} {what}")
    assert browser_page.locator("#work").is_hidden()


def test_model_that_cannot_run_is_named(browser_page: Any, origin: str, bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"no model")
    relabel(bundle)
    browser_page.goto(origin)
    browser_page.wait_for_selector("#error:not([hidden])")
    assert browser_page.inner_text("#error").startswith("model.onnx cannot be run")


def test_labels_of_another_model_are_told(browser_page: Any, origin: str, bundle: Path) -> None:
    relabel(bundle, labels=["dog", "cat"])
    page = opened(browser_page, origin)
    page.set_input_files("#file", photo("chelsea.png"))
    page.wait_for_selector("#photo-error:not([hidden])")
    assert page.inner_text("#photo-error").startswith("model.onnx answers for 3 classes, but labels.json has 2.")


def test_no_request_leaves_the_origin(browser_page: Any, origin: str) -> None:
    asked: list[str] = []
    complaints: list[str] = []
    browser_page.context.on("request", lambda request: asked.append(request.url))
    # Chromium says on the console what the page's own policy forbids.
    browser_page.on("console", lambda message: complaints.append(message.text))
    browser_page.on("pageerror", lambda error: complaints.append(str(error)))
    page = opened(browser_page, origin)
    page.set_input_files("#file", photo("rocket.jpg"))
    wait_for_answer(page, "rocket.jpg")
    assert f"{origin}/model.onnx" in asked
    assert [url for url in asked if not url.startswith((origin + "/", f"blob:{origin}/", "data:"))] == []
    assert complaints == []


def test_page_that_was_opened_as_a_file_says_what_to_run(browser_page: Any, bundle: Path) -> None:
    browser_page.goto(f"file://{bundle}/index.html")
    browser_page.wait_for_selector("#file-note:not([hidden])")
    command = browser_page.inner_text("#file-command")
    assert command == f'python3 -m http.server 8000 --bind localhost --directory "{bundle}"'


def test_name_that_looks_like_markup_stays_text(browser_page: Any, origin: str, bundle: Path) -> None:
    names = ["<b>dog</b>", "<img src=x onerror=alert(1)>", "guitar"]
    relabel(bundle, labels=names)
    page = opened(browser_page, origin)
    page.set_input_files("#file", photo("chelsea.png"))
    wait_for_answer(page, "chelsea.png")
    assert sorted(shown_scores(page)) == sorted(names)
    assert page.locator("#answer img, #answer b").count() == 0


def test_keyboard_alone_is_enough(browser_page: Any, origin: str) -> None:
    page = opened(browser_page, origin)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    chosen: list[Any] = []
    page.on("filechooser", lambda chooser: chosen.append(chooser))
    # A browser forgets after seconds that a key was pressed, and then opens nothing: a busy machine needs another try.
    for _ in range(5):
        page.keyboard.press("Enter")
        page.wait_for_timeout(2_000)
        if chosen:
            break
    chosen[0].set_files(photo("chelsea.png"))
    wait_for_answer(page, "chelsea.png")
    assert page.inner_text("#spoken").startswith(page.inner_text("#verdict"))


def test_dropped_photo_is_answered(browser_page: Any, origin: str) -> None:
    page = opened(browser_page, origin)
    dropped = page.evaluate_handle(
        """file => {
          const data = new DataTransfer();
          data.items.add(new File([Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0))], "dropped.png"));
          return data;
        }""",
        base64.b64encode(photo("chelsea.png").read_bytes()).decode(),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    wait_for_answer(page, "dropped.png")


def test_camera_shoots_a_photo(browser_page: Any, origin: str) -> None:
    page = opened(browser_page, origin)
    page.click("#take")
    page.wait_for_selector("#camera:not([hidden])")
    page.click("#shoot")
    wait_for_answer(page, "camera.png")
    assert page.evaluate("document.getElementById('video').srcObject") is None
    assert page.evaluate("document.getElementById('photo').naturalWidth") > 1


def test_origin_of_the_model_is_told(browser_page: Any, origin: str, bundle: Path) -> None:
    info = {"kind": "bundle", "teacher": "a-teacher", "student": "a-student", "images_per_class": 16}
    manifest = json.loads((bundle / MANIFEST).read_text())
    commit_manifest(bundle, "", list(manifest["files"]), info)
    told = opened(browser_page, origin).inner_text("#origin")
    for word in ("SYNTHETIC", "trainedAlgorithmicMedia", "a-teacher", "a-student", "CC-BY-SA-4.0", "not measured"):
        assert word in told
