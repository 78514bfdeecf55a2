"""Requests to the service and to the page, as careless and hostile clients send them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from clipstill.core.files import commit_manifest, read_manifest
from clipstill.runtime import load_bundle
from clipstill.serving.app import create_app
from clipstill.serving.uploads import Limits
from clipstill.ui.access import Guard
from input_tables import copied, table
from tests.inputs.test_photos import claiming, stored, with_gap
from tests.ui.test_access import HOST, NAME, PORT, TOKEN, app, ask, cookie_of

PNG = stored("PNG")
PICTURE = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service of a bundle, in which a link took a listed file's place, beside a secret that nobody may see."""
    folder = copied(tiny_bundle, tmp_path_factory.mktemp("run") / "bundle")
    (folder / "link.html").write_text("a page")
    manifest = read_manifest(folder)
    assert manifest is not None
    commit_manifest(folder, "", [*manifest.files, "link.html"])
    bundle = load_bundle(folder, threads=1)
    (folder / "unlisted.txt").write_text("secret")
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "link.html").unlink()
    (folder / "link.html").symlink_to(folder.parent / "secret.txt")
    service = create_app(bundle, limits=Limits(body_bytes=300_000, files=4, waiting=8, seconds=20))
    with TestClient(service, raise_server_exceptions=False) as client:
        yield client


def sent(content: Any, kind: str = "image/png", **more: Any) -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": kind}, **more}


def raw_form(content: bytes, boundary: str = "x") -> dict[str, Any]:
    return sent(content, f"multipart/form-data; boundary={boundary}")


def form(disposition: bytes, body: bytes = PNG, more: bytes = b"") -> dict[str, Any]:
    head = b"--x\r\nContent-Disposition: form-data; " + disposition + b"\r\n" + more
    return raw_form(head + b"\r\n" + body + b"\r\n--x--\r\n")


def with_top(value: str) -> dict[str, Any]:
    return sent(PNG, params={"top": value})


def encoded_as(encoding: str) -> dict[str, Any]:
    return {"content": PNG, "headers": {**PICTURE, "content-encoding": encoding}}


FILE = b'name="a"; filename="a.png"'
FORM = form(FILE)["content"]
FIELD = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nv\r\n'
NO_PICTURE = "cannot be read as an image"
# What is sent to /predict; the status, and words of the answer.
PREDICTIONS: dict[str, tuple[dict[str, Any], tuple[int, str]]] = {
    "a picture": (sent(PNG), (200, "label")),
    "a picture of any kind": (sent(PNG, "image/*"), (200, "label")),
    "a top that is escaped": (sent(PNG, params="top=%31"), (200, "label")),
    "a top of a fraction": (with_top("1.0"), (400, "whole number")),
    "a drawing": (sent(b"<svg/>", "image/svg+xml"), (422, f"the body {NO_PICTURE}")),
    "letters of base 64": (sent(b"data:image/png;base64,iVBORw0KGgo="), (422, f"the body {NO_PICTURE}")),
    "a copy that stopped": (sent(with_gap("JPEG")), (422, "it ends in zeros")),
    "another kind of picture": (sent(PNG, "IMAGE/WHATEVER; charset=utf-8"), (200, "label")),
    "its own encoding": (encoded_as("Identity"), (200, "label")),
    "more behind the picture": (sent(PNG + b"x" * 1000), (200, "label")),
    "a form": (form(FILE), (200, '"name":"a.png"')),
    "a form without names of files": (form(b'name="a"; filename=""'), (200, '"name":"file 1"')),
    "a path as a file's name": (form(b'name="a"; filename="../../etc/passwd"'), (200, "../../etc/passwd")),
    "an escape in a file's name": (form(b'name="a"; filename="\x1b[31m"'), (200, r"\u001b[31m")),
    "a file's name that is not UTF-8": (form(b'name="a"; filename="a\xff.png"'), (200, "label")),
    "words behind a form": (raw_form(FORM + b"junk"), (200, "label")),
    "empty": (sent(b""), (400, "the body is empty")),
    "text": (sent(b"no picture"), (422, f"the body {NO_PICTURE}")),
    "half a JPEG": (sent(stored("JPEG", size=(300, 300))[:700]), (422, NO_PICTURE)),
    "a TIFF of no tags": (sent(b"II*\0" + b"\xff" * 100), (422, NO_PICTURE)),
    "billions of pixels": (sent(claiming(60_000, 60_000)), (413, "too large")),
    "72 million pixels": (sent(claiming(9_000, 8_000)), (413, "too large (9000 x 8000 pixels")),
    "no content type": ({"content": PNG}, (415, "content type")),
    "bytes of any kind": (sent(PNG, "application/octet-stream"), (415, "content type")),
    "half a content type": (sent(PNG, "image"), (415, "content type 'image' is not read")),
    "a form of text": ({"data": {"a": "b"}}, (415, "content type")),
    "JSON": ({"json": {"image": "x"}}, (415, "content type")),
    "another form": (sent(PNG, "multipart/mixed; boundary=x"), (415, "content type")),
    "compressed": (encoded_as("gzip"), (415, "compressed")),
    "compressed twice": (encoded_as("gzip, identity"), (415, "compressed")),
    "too long": (sent(bytes(300_001)), (413, "larger than 0.3 MB")),
    "too long, unannounced": (sent(bytes(100_000) for _ in range(9)), (413, "larger than 0.3 MB")),
    "too long a form": ({"files": {"a": ("a", bytes(400_000))}}, (413, "larger than 0.3 MB")),
    "too many files": ({"files": [("a", (f"{n}", b"x")) for n in range(5)]}, (400, "Maximum number of files is 4")),
    "too many fields": (raw_form(FIELD * 20 + b"--x--\r\n"), (400, "Maximum number of fields is 16")),
    "no boundary": (sent(b"x", "multipart/form-data"), (400, "multipart")),
    "an empty boundary": (raw_form(PNG, ""), (400, "multipart")),
    "a boundary without end": (raw_form(PNG, "x" * 5000), (400, "multipart")),
    "no form": (raw_form(b"garbage"), (400, "multipart")),
    "words before a form": (raw_form(b"junk\r\n" + FORM), (400, "multipart")),
    "lines of Unix": (raw_form(FORM.replace(b"\r\n", b"\n")), (400, "multipart")),
    "a header without a colon": (raw_form(b"--x\r\nnocolon\r\n\r\nabc\r\n--x--\r\n"), (400, "multipart")),
    "a part without a header": (raw_form(b"--x\r\n\r\nabc\r\n--x--\r\n"), (400, "must be provided")),
    "a part without a name": (form(b'filename="a.png"'), (400, "must be provided")),
    "a header without end": (form(FILE, more=b"X: " + b"y" * 100_000 + b"\r\n"), (400, "multipart")),
    "headers without end": (form(FILE, more=b"X: y\r\n" * 2000), (400, "multipart")),
    "no file": (raw_form(b"--x--\r\n"), (400, "no file")),
    "a field alone": (form(b'name="a"'), (400, "no file")),
    "cut short": (raw_form(FORM[:70]), (400, "no file")),
    "an empty file": (form(FILE, b""), (422, f"a.png {NO_PICTURE}")),
    "a typing mistake": (sent(PNG, params="tpo=1"), (400, "there is no parameter 'tpo'")),
    "two tops": (sent(PNG, params="top=1&top=2"), (400, "top is given more than once")),
    "a top in the form": ({"files": {"a": ("a.png", PNG)}, "data": {"top": "1"}}, (400, "the field 'top' of the form")),
    "a top of nothing": (with_top("0"), (400, "top is '0'")),
    "a top that is empty": (with_top(""), (400, "top is ''")),
    "a top of a word": (with_top("all\n"), (400, "whole number")),
    "a top with a plus": (with_top("+3"), (400, "whole number")),
    "a top of digits of full width": (with_top("\uff13"), (400, "whole number")),
    "a top of digits without end": (with_top("9" * 5000), (400, "top is")),
    "a top that is not UTF-8": (sent(PNG, params="top=%ff"), (400, "whole number")),
}


@table(PREDICTIONS)
def test_a_prediction(
    given: dict[str, Any], expected: tuple[int, str], client: TestClient, capfd: pytest.CaptureFixture[str]
) -> None:
    status, words = expected
    response = client.post("/predict", **given)
    assert (response.status_code, words in response.text) == (status, True), response.text[:300]
    assert ("error" in response.json()) == (status != 200)
    assert "Traceback" not in response.text
    assert capfd.readouterr().err == ""
    assert client.get("/health").json()["ready"] is True
    assert client.post("/predict", content=PNG, headers=PICTURE).status_code == 200


LABELS = "/labels.json"
# Method, path and headers; the status.
ADDRESSES: dict[str, tuple[tuple[str, str, dict[str, str]], int]] = {
    "one byte of a file": (("GET", LABELS, {"range": "bytes=0-0"}), 206),
    "no part of a file": (("GET", LABELS, {"range": "bytes=999999999-"}), 416),
    "half a file backwards": (("GET", LABELS, {"range": "bytes=5-1"}), 400),
    "thousands of parts": (("GET", LABELS, {"range": "bytes=" + "0-0," * 2000 + "0-"}), 200),
    "a header without end": (("GET", "/labels", {"x": "y" * 100_000}), 200),
    "escaped letters": (("GET", "/%6cabels", {}), 200),
    "a head alone": (("HEAD", LABELS, {}), 200),
    "thousands of headers": (("GET", "/health", {f"x{number}": "y" for number in range(3_000)}), 200),
    "an escaped verb": (("GET", "/%70redict", {}), 405),
    "options": (("OPTIONS", "/predict", {}), 405),
    "a trace": (("TRACE", "/", {}), 405),
    "a change to another protocol": (("GET", "/health", {"upgrade": "h2c", "connection": "Upgrade"}), 200),
    "the wrong method": (("GET", "/predict", {}), 405),
    "a slash too much behind predict": (("POST", "/predict/", {}), 405),
    "another wrong method": (("PUT", "/predict", {}), 405),
    "a file that is put": (("PUT", "/predict/photo.png", {}), 405),
    "a method of nobody": (("FOO", "/labels", {}), 405),
    "a file deleted": (("DELETE", LABELS, {}), 405),
    "a method at labels": (("POST", "/labels", {}), 405),
    "nothing": (("GET", "/nothing", {}), 404),
    "a slash too much": (("GET", "/health/", {}), 404),
    "capitals": (("GET", "/LABELS", {}), 404),
    "not listed": (("GET", "/unlisted.txt", {}), 404),
    "a link": (("GET", "/link.html", {}), 404),
    "above": (("GET", "/../secret.txt", {}), 404),
    "above, escaped": (("GET", "/%2e%2e/secret.txt", {}), 404),
    "above, a slash escaped": (("GET", "/..%2fsecret.txt", {}), 404),
    "above, all escaped": (("GET", "/%2e%2e%2fsecret.txt", {}), 404),
    "above, escaped twice": (("GET", "/%252e%252e%252fsecret.txt", {}), 404),
    "above, as in Windows": (("GET", "/..%5csecret.txt", {}), 404),
    "absolute": (("GET", "//etc/passwd", {}), 404),
    "absolute, escaped": (("GET", "/%2fetc%2fpasswd", {}), 404),
    "above a file": (("GET", f"{LABELS}/../../secret.txt", {}), 404),
    "beside and above": (("GET", "/./../secret.txt", {}), 404),
    "a null byte": (("GET", "/%00", {}), 404),
    "a null byte behind a file": (("GET", f"{LABELS}%00.txt", {}), 404),
    "a new line": (("GET", f"{LABELS}%0aerror", {}), 404),
    "not UTF-8": (("GET", "/%ff%fe", {}), 404),
    "without end": (("GET", "/" + "a" * 5000, {}), 404),
    "folders without end": (("GET", "/" + "a/" * 3000, {}), 404),
}


@table(ADDRESSES)
def test_an_address(given: tuple[str, str, dict[str, str]], expected: int, client: TestClient) -> None:
    method, path, headers = given
    response = client.request(method, path, headers=headers)
    assert response.status_code == expected
    assert "secret" not in response.text.replace("secret.txt", "")
    if expected in (404, 405):
        assert response.json()["error"]


OURS = {"cookie": "{cookie}"}
# Headers of a request to the page; the status.
HEADERS: dict[str, tuple[dict[str, str], int]] = {
    "the cookie": (OURS, 200),
    "the cookie behind a neighbour's": ({"cookie": "a=b; {cookie}"}, 200),
    "JSON of a neighbour": ({"cookie": 'state={{"a": [1, "x"]}}; {cookie}'}, 200),
    "an open quote of a neighbour": ({"cookie": 'a="; {cookie}'}, 200),
    "a control character of a neighbour": ({"cookie": "\x7f; {cookie}"}, 200),
    "an empty name of a neighbour": ({"cookie": "=; {cookie}"}, 200),
    "our name of a neighbour": ({"cookie": f"{NAME}=of a neighbour; {{cookie}}"}, 200),
    "letters of a neighbour": ({"cookie": "{cookie}; \u00e9=\u00fc"}, 200),
    "thousands of neighbours": ({"cookie": "a=b; " * 5000 + "{cookie}"}, 200),
    "no cookie": ({}, 401),
    "a wrong cookie": ({"cookie": f"{NAME}=wrong"}, 401),
    "the token as a cookie": ({"cookie": f"{NAME}={TOKEN}"}, 401),
    "the cookie under another name": ({"cookie": "x{cookie}"}, 401),
    "the cookie in quotes": ({"cookie": f'{NAME}="{{value}}"'}, 401),
    "half the cookie": ({"cookie": "{half}"}, 401),
    "a cookie of nothing": ({"cookie": "\x7f;;=;"}, 401),
    "the token as a bearer": ({"authorization": f"Bearer {TOKEN}"}, 401),
    "another host": ({**OURS, "host": "evil.example"}, 403),
    "another host with our port": ({**OURS, "host": f"evil.example:{PORT}"}, 403),
    "another port": ({**OURS, "host": "127.0.0.1:80"}, 403),
    "no port": ({**OURS, "host": "127.0.0.1"}, 403),
    "no host": ({**OURS, "host": ""}, 403),
    "a host that ends as ours": ({**OURS, "host": f"evil.{HOST}"}, 403),
    "a host with a user": ({**OURS, "host": f"user@{HOST}"}, 403),
}


@table(HEADERS)
def test_a_request_to_the_page(given: dict[str, str], expected: int) -> None:
    guard = Guard(app, TOKEN, PORT)
    cookie = cookie_of(guard)
    words = {"cookie": cookie, "half": cookie[:-5], "value": cookie.partition("=")[2]}
    assert ask(guard, **{name: value.format(**words) for name, value in given.items()})[0] == expected


# The query of a request without a cookie; the status.
TOKENS: dict[str, tuple[str, int]] = {
    "the token": (f"token={TOKEN}", 303),
    "the token behind another parameter": (f"a=1&token={TOKEN}", 303),
    "empty": ("token=", 403),
    "wrong": ("token=wrong", 403),
    "cut": (f"token={TOKEN[:-1]}", 403),
    "too long": (f"token={TOKEN}x", 403),
    "another letter": ("token=%C3%A9", 403),
    "a null byte": (f"token={TOKEN}%00", 403),
    "a space before": (f"token=%20{TOKEN}", 403),
    "in capitals": (f"token={TOKEN.upper()}", 403),
    "the name in capitals": (f"TOKEN={TOKEN}", 401),
}


@table(TOKENS)
def test_a_token_of_the_page(given: str, expected: int) -> None:
    status, headers = ask(Guard(app, TOKEN, PORT), query=given)
    assert status == expected
    assert ("set-cookie" in headers) == (expected == 303)
    assert TOKEN not in str(headers)
