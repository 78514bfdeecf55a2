"""A model hub on this machine: what the hub's own client asks for to make, fill and read repositories of models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants

TOKEN = "hf_owner"
_LARGE = (".onnx", ".safetensors", ".wasm")  # Uploaded as objects of Git LFS.


@dataclass
class Repository:
    """Its versions by the name of their commit, the oldest first."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})

    def commit_of(self, revision: str) -> str | None:
        newest = list(self.commits)[-1]
        return newest if revision == "main" else revision if revision in self.commits else None


@dataclass
class Hub:
    """The state of the hub, and all that it was asked, as ``GET /path``."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def files(self, name: str) -> dict[str, bytes]:
        """The newest version of a repository."""
        return list(self.repositories[name].commits.values())[-1]


class _Refusal(Exception):
    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            for method, pattern, name in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split("|"):
                    getattr(self, name)(*found.groups())
                    return
            raise _Refusal(404, "", f"the stand-in does not know {self.command} {path}")
        except _Refusal as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            self._send(json.dumps({"error": str(error)}).encode(), error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _owns(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _own(self) -> None:
        if not self._owns():
            raise _Refusal(401, "", "Invalid username or password.")

    def _repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._owns()):
            raise _Refusal(404 if self._owns() else 401, "RepoNotFound", "Repository not found")
        return found

    def _version(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self._repository(name)
        commit = repository.commit_of(revision)
        if commit is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def create(self) -> None:
        self._own()
        asked = json.loads(self._body)
        name = f"{asked['organization']}/{asked['name']}"
        exists = name in self.hub.repositories
        if not exists:
            self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
        self._json({"url": f"{self.hub.address}/{name}"}, 409 if exists else 200)

    def validate_card(self) -> None:
        _, head, _ = json.loads(self._body)["content"].split("---\n", 2)
        matter, wrong = yaml.safe_load(head), []
        if matter["license"] == "other":
            if not re.fullmatch(r"[a-z0-9.-]+", matter["license_name"]):
                wrong.append('"license_name" must be an id')
            if matter["license_link"] not in ("LICENSE", "LICENSE.md"):
                wrong.append('"license_link" must be LICENSE, LICENSE.md or a URL')
        self._json({"errors": [{"message": each} for each in wrong], "warnings": []}, 400 if wrong else 200)

    def info(self, name: str, revision: str | None) -> None:
        commit, files = self._version(name, revision or "main")
        siblings = [{"rfilename": path} for path in files]
        private = self.hub.repositories[name].private
        self._json({"id": name, "modelId": name, "sha": commit, "private": private, "siblings": siblings, "tags": []})

    def tree(self, name: str, revision: str) -> None:
        entries = []
        for path, data in self._version(name, revision)[1].items():
            digest = hashlib.sha256(data).hexdigest()
            large = {"lfs": {"oid": digest, "size": len(data), "pointerSize": 128}} if path.endswith(_LARGE) else {}
            entries.append({"type": "file", "path": path, "size": len(data), "oid": digest[:40], **large})
        self._json(entries)

    def preupload(self, name: str) -> None:
        self._own()
        self._repository(name)
        paths = [each["path"] for each in json.loads(self._body)["files"]]
        modes = [("lfs" if path.endswith(_LARGE) else "regular") for path in paths]
        files = [
            {"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in zip(paths, modes, strict=True)
        ]
        self._json({"files": files})

    def batch(self, name: str) -> None:
        self._own()
        self._repository(name)
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.address}/objects/{each['oid']}"}}}
            for each in json.loads(self._body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def store(self, digest: str) -> None:
        assert hashlib.sha256(self._body).hexdigest() == digest
        self.hub.objects[digest] = self._body
        self._send(b"")

    def commit(self, name: str) -> None:
        self._own()
        repository, files = self._repository(name), dict(self.hub.files(name))
        for line in self._body.decode().splitlines():
            change = json.loads(line)
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = hashlib.sha1(self._body, usedforsecurity=False).hexdigest()
        repository.commits[commit] = files
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.address}/{name}/commit/{commit}"})

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit, files = self._version(name, revision)
        if path not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        digest = hashlib.sha256(files[path]).hexdigest()
        self._send(files[path], headers={"X-Repo-Commit": commit, "ETag": f'"{digest}"'})


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = (
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate_card"),
    ("GET", rf"/api/models/{_NAME}(?:/revision/(.+))?", "info"),
    ("GET", rf"/api/models/{_NAME}/tree/([^/]+)", "tree"),
    ("POST", rf"/api/models/{_NAME}/preupload/main", "preupload"),
    ("POST", rf"/api/models/{_NAME}/commit/main", "commit"),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/objects/(\w+)", "store"),
    ("GET|HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", "resolve"),
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub that the client of this process asks, with its owner's token and a cache of its own."""
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": state}))
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    template = "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": state.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": state.address + template,
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    # For other processes, which read them when they begin.
    monkeypatch.setenv("HF_ENDPOINT", state.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
