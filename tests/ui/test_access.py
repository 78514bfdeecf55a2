"""Who gets through to the page: asked of the guard by the ASGI protocol, without a server."""

import asyncio
import errno
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipstill.cli.main import main
from clipstill.ui.access import Guard

TOKEN = "s3cret-token"
PORT = 7999
HOST = f"127.0.0.1:{PORT}"
NAME = f"clipstill-{PORT}"


# Of the versions that are known; the test asks for those that it finds as well.
GRADIO_PATHS = (
    "/gradio_api/queue/join",
    "/gradio_api/queue/data",
    "/gradio_api/upload",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/info",
    "/gradio_api/run/predict",
    "/gradio_api/call/start",
    "/gradio_api/heartbeat/x",
    "/gradio_api/startup-events",
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """What is guarded: says that it was reached."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"reached"})


def ask(
    guarded: Any, path: str = "/", *, query: str = "", method: str = "GET", kind: str = "http", **headers: str
) -> Any:
    """Status and headers of the answer; of a websocket the first message's type."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    raw = [(name.encode(), value.encode()) for name, value in {"host": HOST, **headers}.items()]
    scope = {"type": kind, "path": path, "raw_path": path.encode(), "query_string": query.encode(), "headers": raw}
    scope |= {
        "method": method,
        "scheme": "http",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", PORT),
    }
    scope |= {"http_version": "1.1", "asgi": {"version": "3.0"}, "app": None, "extensions": {}, "state": {}}
    asyncio.run(guarded(scope, receive, send))
    if kind == "websocket":
        return sent[0]["type"]
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def paths_of(router: Any) -> set[str]:
    """Every path of an app, those of what is mounted in it included."""
    found: set[str] = set()
    for route in getattr(router, "routes", []):
        found.add(getattr(route, "path", None) or "/")
        for name in ("app", "original_router"):
            found |= paths_of(getattr(route, name, None))
    return found


def session_of(guarded: Any) -> str:
    """The value of the cookie that the printed address sets."""
    cookie: str = ask(guarded, query=f"token={TOKEN}")[1]["set-cookie"]
    return cookie.split(";")[0].removeprefix(f"{NAME}=")


def cookie_of(guarded: Any) -> str:
    return f"{NAME}={session_of(guarded)}"


@pytest.fixture
def guard() -> Guard:
    return Guard(app, TOKEN, PORT)


def test_the_cookie_opens_everything(guard: Guard) -> None:
    cookie = cookie_of(guard)
    assert ask(guard, kind="websocket") == "websocket.close"
    assert ask(guard, cookie=cookie)[0] == 200
    assert ask(guard, cookie=f"a=b; {cookie}", method="POST")[0] == 200
    assert ask(guard, cookie=cookie, kind="websocket") == "websocket.accept"


def test_no_cookie_holds_a_token(guard: Guard, tmp_path: Path) -> None:
    with guard.redirect_file(tmp_path) as file:
        once = token_in(file)
        assert len({TOKEN, once, session_of(guard), session_of(Guard(app, TOKEN, PORT))}) == 4


def test_the_redirect_file_opens_the_page_once_and_is_its_owners_alone(guard: Guard, tmp_path: Path) -> None:
    with guard.redirect_file(tmp_path / ".ui") as file:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        once = token_in(file)
        status, headers = ask(guard, query=f"token={once}")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"].split(";")[0]
        assert ask(guard, cookie=cookie)[0] == 200
        assert ask(guard, query=f"token={once}")[0] == 403
        assert ask(guard, query=f"token={once}", cookie=cookie)[0] == 303  # The file again, in the same browser.
    assert not file.exists()
    assert ask(guard, query=f"token={TOKEN}")[0] == 303


def token_in(file: Path) -> str:
    found = re.search(rf"url=http://{HOST}/\?token=([\w-]+)\"", file.read_text())
    assert found is not None
    return found[1]


def test_the_printed_address_sets_the_cookie_and_hides_the_token(guard: Guard) -> None:
    status, headers = ask(guard, "/", query=f"a=1&token={TOKEN}")
    assert (status, headers["location"]) == (303, "/")
    assert headers["set-cookie"].startswith(f"{NAME}=")
    assert TOKEN not in headers["set-cookie"]
    assert "HttpOnly" in headers["set-cookie"]
    assert ask(guard, cookie=headers["set-cookie"].split(";")[0])[0] == 200


def test_another_page_of_the_browser_can_neither_read_nor_act(guard: Guard) -> None:
    for origin in ("http://evil.example", "http://127.0.0.1:8080", "null"):
        for method in ("GET", "HEAD", "POST"):
            assert ask(guard, method=method, cookie=cookie_of(guard), origin=origin)[0] == 403
        assert ask(guard, kind="websocket", cookie=cookie_of(guard), origin=origin) == "websocket.close"
    for method in ("GET", "POST"):
        assert ask(guard, method=method, cookie=cookie_of(guard), origin=f"http://{HOST}")[0] == 200


def test_pages_may_fetch_nothing_from_elsewhere(guard: Guard) -> None:
    policy = ask(guard, cookie=cookie_of(guard))[1]["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy.replace("http-equiv", "")


@pytest.fixture(scope="module")
def calls_abroad() -> list[str]:
    """Every attempt to reach another machine while the page is built."""
    return []


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, calls_abroad: list[str]) -> Any:
    """The real app, without the guard, built with sockets blocked."""
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    from clipstill.ui.app import make_app
    from clipstill.ui.jobs import Jobs

    def blocked(*address: object, **_: object) -> None:
        calls_abroad.append(repr(address))
        raise OSError(errno.ENETUNREACH, "sockets are blocked")

    workspace = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, blocked)
        patch.setattr(socket, "getaddrinfo", blocked)
        return make_app(Jobs(workspace), workspace)


def test_the_page_asks_nobody_while_it_is_built(guarded: Any, calls_abroad: list[str]) -> None:
    assert guarded.routes
    assert calls_abroad == []


def test_every_route_of_gradio_and_of_the_files_is_behind_the_guard(guarded: Any) -> None:
    paths = paths_of(guarded) | set(GRADIO_PATHS)
    assert len(paths) > 30
    guard = Guard(guarded, TOKEN, PORT)
    for path in paths:
        for method in ("GET", "POST"):
            assert ask(guard, path or "/", method=method)[0] == 401, path
    assert ask(guard, "/files/none/bundle.zip", cookie=cookie_of(guard))[0] == 404
    assert ask(guard, "/files/../bundle.zip", cookie=cookie_of(guard))[0] == 404


ENDED = """
import os, signal, sys, webbrowser
from types import SimpleNamespace
from clipstill.cli.main import main

known = []

async def app(scope, receive, send):
    for answer in ("startup", "shutdown"):
        await receive()
        await send({{"type": f"lifespan.{{answer}}.complete"}})

def make_app(jobs, uploads):
    known.append(jobs)
    return app

def ready(address):
    print(address)
    os.environ["PYTHONPATH"] = sys.argv[2]
    known[0].start("zoo", ["run"])
    print(known[0]._process.pid, flush=True)
    os.kill(os.getpid(), signal.{name})

webbrowser.open = ready
sys.modules["clipstill.ui.app"] = SimpleNamespace(make_app=make_app)
sys.exit(main(["ui", "--workspace", sys.argv[1]]))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_run_ends_with_the_page_that_started_it(tmp_path: Path, name: str) -> None:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    sleeper = tmp_path / "sleeper"
    (sleeper / "clipstill").mkdir(parents=True)
    (sleeper / "clipstill" / "__init__.py").touch()
    (sleeper / "clipstill" / "__main__.py").write_text("import time\ntime.sleep(600)\n", encoding="ascii")
    code = ENDED.format(name=name)
    done = subprocess.run([sys.executable, "-c", code, tmp_path, sleeper], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "'zoo' is stopped" in done.stderr
    # What the browser is started with says where the file is, and no secret.
    file = next(line for line in done.stdout.splitlines() if line.startswith("file:"))
    assert re.fullmatch(rf"{tmp_path.as_uri()}/\.ui/open-\d+\.html", file)
    assert list((tmp_path / ".ui").glob("open-*")) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout.splitlines()[-1]), 0)


def test_a_missing_extra_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "clipstill.ui.app", raising=False)
    assert main(["ui", "--workspace", str(tmp_path), "--no-browser"]) == 2
    assert capsys.readouterr().err.splitlines() == ["error: gradio is not installed. Run: pip install 'clipstill[ui]'"]


def test_a_taken_port_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", "--workspace", str(tmp_path), "--port", str(port), "--no-browser"]) == 2
    assert f"cannot listen on port {port} of 127.0.0.1: Address already in use." in capsys.readouterr().err


def test_no_other_host_is_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--workspace", str(tmp_path), "--host", "0.0.0.0"]) == 2
    assert "--host" in capsys.readouterr().err
