"""The service in this process: what it answers, and what it refuses without harm."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from clipstill.core.files import commit_manifest, read_manifest
from clipstill.runtime import Bundle, load_bundle
from clipstill.serving.app import create_app
from clipstill.serving.batching import PixelRoom
from clipstill.serving.hosts import Hosts
from clipstill.serving.uploads import Limits
from export_fixtures import LABELS

LIMITS = Limits(body_bytes=300_000, files=4, waiting=8, seconds=20)
PNG = {"content-type": "image/png"}


def png(seed: int = 0, width: int = 50, height: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "PNG")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a page of its own."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("run") / "bundle"))
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "runtime.wasm").write_bytes(b"\0asm")
    (folder / "runtime.mjs").write_text("export default 1")
    manifest = read_manifest(folder)
    assert manifest is not None
    commit_manifest(folder, "", [*manifest.files, "index.html", "runtime.wasm", "runtime.mjs"])
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder, threads=1)


def client_of(bundle: Bundle, **options: Any) -> TestClient:
    app = create_app(bundle, **{"limits": LIMITS, **options})
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[TestClient]:
    with client_of(bundle) as client:
        yield client


def assert_well(client: TestClient) -> None:
    assert client.get("/health").json()["ready"] is True
    assert client.post("/predict", content=png(), headers=PNG).status_code == 200


def test_answer_equals_the_runtime(client: TestClient, bundle: Bundle) -> None:
    (expected,) = bundle.answer([Image.open(io.BytesIO(png(3)))])
    found = client.post("/predict?top=2", content=png(3), headers=PNG).json()
    assert found.pop("milliseconds") > 0
    assert found == {
        "label": expected.predictions[0].label,
        "score": expected.predictions[0].score,
        "refused": False,
        "predictions": [{"label": each.label, "score": each.score} for each in expected.predictions[:2]],
    }


def test_a_form_of_several_photos_answers_each_in_its_order(client: TestClient) -> None:
    files = [("photo", (f"{seed}.png", png(seed), "image/png")) for seed in range(4)]
    found = client.post("/predict", files=files).json()["answers"]
    assert [each["name"] for each in found] == ["0.png", "1.png", "2.png", "3.png"]
    for seed, each in enumerate(found):
        alone = client.post("/predict", content=png(seed), headers=PNG).json()
        assert each["label"] == alone["label"]
        assert each["score"] == pytest.approx(alone["score"], abs=1e-6)


def test_a_bad_photo_among_good_ones_is_named_and_the_others_are_answered(client: TestClient) -> None:
    files = [("a", ("good.png", png(), "image/png")), ("a", ("bad.jpg", b"no picture", "image/jpeg"))]
    response = client.post("/predict", files=files)
    good, bad = response.json()["answers"]
    assert response.status_code == 200
    assert good["label"] in LABELS
    assert bad == {"name": "bad.jpg", "error": bad["error"]}
    assert "bad.jpg cannot be read as an image" in bad["error"]


def test_page_and_listed_files_come_with_types_and_headers(client: TestClient) -> None:
    types = {
        "/": "text/html; charset=utf-8",
        "/index.html": "text/html; charset=utf-8",
        "/runtime.wasm": "application/wasm",
        "/runtime.mjs": "text/javascript; charset=utf-8",
        "/labels.json": "application/json",
        "/MANIFEST.json": "application/json",
        "/model.onnx": "application/octet-stream",
    }
    for path, kind in types.items():
        response = client.get(path)
        assert (response.status_code, response.headers["content-type"]) == (200, kind), path
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert response.headers["cross-origin-embedder-policy"] == "require-corp"


def test_labels_health_and_metrics(bundle: Bundle) -> None:
    with client_of(bundle) as client:
        assert client.get("/labels").json() == {"labels": list(LABELS), "refuses": False}
        client.post("/predict", content=png(), headers=PNG)
        client.post("/predict", content=b"no", headers=PNG)
        client.get("/a/path/nobody/knows")
        health = client.get("/health").json()
        assert len(health["sha256"]) == 64
        assert health["classes"] == 3
        lines = client.get("/metrics").text.splitlines()
        assert 'clipstill_requests_total{endpoint="predict",status="200"} 1.0' in lines
        assert 'clipstill_requests_total{endpoint="predict",status="422"} 1.0' in lines
        assert 'clipstill_requests_total{endpoint="other",status="404"} 1.0' in lines
        assert "clipstill_photos_total 1.0" in lines
        assert "clipstill_batch_photos_count 1.0" in lines
        assert not any("nobody" in line for line in lines)


def test_token_is_needed_for_all_but_health(bundle: Bundle) -> None:
    with client_of(bundle, token="correct horse") as client:
        for path in ("/", "/labels", "/metrics", "/labels.json"):
            response = client.get(path)
            assert response.status_code == 401
            assert "token" in response.json()["error"]
        assert client.get("/health").status_code == 200
        assert client.post("/health").status_code == 401
        for header in ("Bearer wrong", "correct horse", "Basic correct", "Bearer", "Basic Og==", "Bearer \xe9"):
            assert client.get("/labels", headers={"authorization": header.encode("latin-1")}).status_code == 401
        assert client.get("/labels", headers={"authorization": "Bearer correct horse"}).status_code == 200
        assert client.get("/labels", auth=("anybody", "correct horse")).status_code == 200


class SlowBundle:
    """A bundle whose model waits to be let go, and remembers the sizes of its batches."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.go = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bundle, name)

    def answer_pixels(self, images_NHW3: np.ndarray) -> Any:
        self.sizes.append(len(images_NHW3))
        self.entered.set()
        assert self.go.wait(20)
        return self._bundle.answer_pixels(images_NHW3)


def waiting_photos(client: TestClient, seeds: range) -> Any:
    pool = ThreadPoolExecutor(len(seeds))
    return [pool.submit(client.post, "/predict", content=png(seed), headers=PNG) for seed in seeds]


def test_requests_that_wait_are_one_batch_and_each_gets_its_own_answer(bundle: Bundle) -> None:
    slow: Any = SlowBundle(bundle)
    with client_of(slow) as client:
        first = waiting_photos(client, range(1))
        assert slow.entered.wait(20)
        others = waiting_photos(client, range(1, 7))
        time.sleep(1)
        slow.go.set()
        found = [each.result().json() for each in [*first, *others]]
    assert slow.sizes == [1, 6]
    for seed, each in enumerate(found):
        (expected,) = bundle.answer([Image.open(io.BytesIO(png(seed)))])
        assert each["label"] == expected.predictions[0].label
        assert each["score"] == pytest.approx(expected.predictions[0].score, abs=1e-6)


def test_more_than_may_wait_are_told_to_come_again(bundle: Bundle) -> None:
    slow: Any = SlowBundle(bundle)
    with client_of(slow, limits=Limits(files=2, waiting=2)) as client, ThreadPoolExecutor(1) as pool:
        form = [("a", ("a.png", png(), "image/png"))] * 2
        waiting = pool.submit(client.post, "/predict", files=form)
        assert slow.entered.wait(20)
        response = client.post("/predict", content=png(), headers=PNG)
        slow.go.set()
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert "2 photos are waiting" in response.json()["error"]
        assert waiting.result().status_code == 200
        assert_well(client)


def test_answer_that_does_not_come_in_time_is_given_up(bundle: Bundle) -> None:
    slow: Any = SlowBundle(bundle)
    with client_of(slow, limits=Limits(seconds=0.5)) as client:
        response = client.post("/predict", content=png(), headers=PNG)
        slow.go.set()
        assert response.status_code == 503
        assert "no answer within 0.5 seconds" in response.json()["error"]
        assert_well(client)


def test_photos_are_decoded_in_their_order_within_the_room_for_pixels() -> None:
    room, taken = PixelRoom(10), []

    def decode(name: str, pixels: int, go: threading.Event) -> None:
        with room.take(pixels):
            taken.append(name)
            assert go.wait(20)

    def started(name: str, pixels: int) -> threading.Event:
        go = threading.Event()
        pool.submit(decode, name, pixels, go)
        time.sleep(0.1)
        return go

    with ThreadPoolExecutor(4) as pool:
        first, second = started("first", 4), started("second", 4)
        larger_than_all, small = started("larger than all", 99), started("small", 1)
        assert taken == ["first", "second"]
        first.set()
        time.sleep(0.1)
        assert taken == ["first", "second"]
        second.set()
        time.sleep(0.1)
        assert taken == ["first", "second", "larger than all"]
        larger_than_all.set()
        small.set()
    assert taken[-1] == "small"


def test_service_decodes_with_less_room_than_a_photo_needs(bundle: Bundle) -> None:
    with client_of(bundle, limits=Limits(pixels=1)) as client:
        assert [each.result().status_code for each in waiting_photos(client, range(4))] == [200] * 4


def test_foreign_name_and_foreign_page_are_refused_before_the_token(bundle: Bundle) -> None:
    with client_of(bundle, token="correct horse", hosts=Hosts("127.0.0.1")) as client:
        for path in ("/health", "/labels", "/model.onnx"):
            refused = client.get(path, headers={"host": "evil.example"})
            assert refused.status_code == 403
            assert "--allow-host" in refused.json()["error"]
            local = {"host": "127.0.0.1:8000", "authorization": "Bearer correct horse"}
            assert client.get(path, headers=local).status_code == 200
            assert client.get(path, headers={**local, "origin": "http://evil.example"}).status_code == 403


class BrokenBundle(SlowBundle):
    """A bundle whose model fails until it is mended."""

    mended = False

    def answer_pixels(self, images_NHW3: np.ndarray) -> Any:
        if not self.mended:
            raise ZeroDivisionError("inside\nthe model")
        return self._bundle.answer_pixels(images_NHW3)


def test_failure_of_the_model_is_a_500_without_a_traceback(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    broken: Any = BrokenBundle(bundle)
    with client_of(broken) as client:
        response = client.post("/predict", content=png(), headers=PNG)
        assert response.status_code == 500
        assert json.loads(response.text) == {"error": "the server failed at this request; its log says why."}
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ZeroDivisionError at test_app.py:")
        broken.mended = True
        assert_well(client)


def test_log_line_cannot_be_forged(bundle: Bundle) -> None:
    lines: list[str] = []
    with client_of(bundle, log=lines.append) as client:
        client.get("/x%0a127.0.0.1 GET /admin 200%1b[2J")
    (line,) = lines
    assert line.isprintable()
    assert "%0A" in line
