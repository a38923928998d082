"""A stand-in of the Hugging Face hub's HTTP interface: repositories on this machine, and faults on request."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

_LFS = 10_000_000
"""Size from which a text is a large file; other content always is."""
_REPOSITORY = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES = {
    "info": re.compile(rf"/api/(?P<kind>models|datasets)/{_REPOSITORY}(/revision/(?P<revision>[^/]+))?"),
    "tree": re.compile(rf"/api/(?P<kind>models|datasets)/{_REPOSITORY}/tree/(?P<revision>[^/]+)(/(?P<path>.*))?"),
    "paths": re.compile(rf"/api/(?P<kind>models|datasets)/{_REPOSITORY}/paths-info/(?P<revision>[^/]+)"),
    "preupload": re.compile(rf"/api/(?P<kind>models|datasets)/{_REPOSITORY}/preupload/(?P<revision>[^/]+)"),
    "commit": re.compile(rf"/api/(?P<kind>models|datasets)/{_REPOSITORY}/commit/(?P<revision>[^/]+)"),
    "batch": re.compile(rf"/((?P<kind>datasets)/)?{_REPOSITORY}\.git/info/lfs/objects/batch(?P<revision>)"),
    "file": re.compile(rf"/((?P<kind>datasets)/)?{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
}

_OF_NO_REPOSITORY = {"/api/repos/create": "_create", "/api/validate-yaml": "_validate"}


@dataclass
class Fault:
    """What goes wrong with requests of a path that ``pattern`` is found in, ``times`` times."""

    pattern: str
    status: int = 0
    """Of the answer; 0: the connection breaks in the middle of the file."""
    times: int = 1
    code: str | None = None
    """The hub's own name of the error, as ``GatedRepo``."""


@dataclass
class Hub:
    """Repositories by kind and name, with a folder per commit, and what was asked."""

    folder: Path
    endpoint: str = ""
    commits: dict[tuple[str, str], list[tuple[str, Path]]] = field(default_factory=dict)
    """``(kind, name)`` → commits with their files, in order; the last is ``main``."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 → content of the large files that were uploaded."""
    tokens: set[str] | None = None
    """Who may write; None: anybody."""
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request."""

    def commit(self, kind: str, repo: str, files: Path) -> str:
        """Add a commit with a folder's files to a repository (``models`` or ``datasets``); return its id."""
        known = self.commits.setdefault((kind, repo), [])
        sha = hashlib.sha1(f"{kind}/{repo}/{len(known)}".encode()).hexdigest()
        kept = self.folder / sha
        shutil.copytree(files, kept)
        known.append((sha, kept))
        return sha

    def create(self, kind: str, repo: str) -> bool:
        """Add an empty repository; return whether it is new."""
        new = (kind, repo) not in self.commits
        if new:
            (self.folder / "empty").mkdir(exist_ok=True)
            self.commit(kind, repo, self.folder / "empty")
        return new

    def at(self, kind: str, repo: str, revision: str | None) -> tuple[str, Path] | None:
        """Return the commit that a revision names."""
        known = self.commits.get((kind, repo), [])
        if revision in (None, "", "main"):
            return known[-1] if known else None
        return next((commit for commit in known if commit[0] == revision), None)

    def fault(self, path: str) -> Fault | None:
        """Return what goes wrong with this request, and count it."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, path):
                fault.times -= 1
                return fault
        return None

    def downloads(self, name: str) -> int:
        """Return how many requests were for a file's content."""
        return sum(method == "GET" and path.endswith(name) for method, path in self.asked)


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Serve a hub on a free port of this machine."""
    hub = Hub(folder)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        fault = self.hub.fault(path)
        if fault is not None and fault.status:
            self._fail(fault.status, fault.code or "")
            return
        writes = path == "/api/repos/create" or path.startswith("/lfs/") or "/commit/" in path
        if writes and self.hub.tokens is not None:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if not path.startswith("/lfs/") and token not in self.hub.tokens:
                self._fail(403 if token else 401, "")
                return
        if path in _OF_NO_REPOSITORY:
            getattr(self, _OF_NO_REPOSITORY[path])(body)
            return
        if path.startswith("/lfs/"):
            self._store(path.removeprefix("/lfs/"), body)
            return
        for name, route in _ROUTES.items():
            if match := route.fullmatch(path):
                given = match.groupdict()
                kind, repo = given["kind"] or "models", given["repo"]
                commit = self.hub.at(kind, repo, given["revision"])
                if commit is None:
                    known = (kind, repo) in self.hub.commits
                    self._fail(404, "RevisionNotFound" if known else "RepoNotFound")
                elif name == "file":
                    self._file(*commit, given["path"], broken=fault is not None)
                else:
                    self._json(getattr(self, f"_{name}")(kind, repo, *commit, given.get("path") or "", body))
                return
        self._fail(404, "EntryNotFound")

    def _info(self, _kind: str, repo: str, sha: str, folder: Path, _path: str, _body: bytes) -> Any:
        names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        return {
            "id": repo,
            "sha": sha,
            "private": False,
            "gated": False,
            "tags": [],
            "siblings": [{"rfilename": name} for name in names],
        }

    def _tree(self, _kind: str, _repo: str, _sha: str, folder: Path, path: str, _body: bytes) -> Any:
        recursive = "recursive=true" in self.path.lower() or "recursive=1" in self.path
        found = sorted((folder / path).rglob("*") if recursive else (folder / path).glob("*"))
        return [_entry(file, folder) for file in found]

    def _paths(self, _kind: str, _repo: str, _sha: str, folder: Path, _path: str, body: bytes) -> Any:
        try:
            paths = json.loads(body)["paths"]
        except json.JSONDecodeError:
            paths = [unquote(part.partition("=")[2]) for part in body.decode().split("&") if part.startswith("paths=")]
        return [_entry(folder / path, folder) for path in paths if (folder / path).exists()]

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        kind, repo = f"{asked.get('type') or 'model'}s", "/".join(filter(None, (asked["organization"], asked["name"])))
        new = self.hub.create(kind, repo)
        self._json({"url": f"{self.hub.endpoint}/{kind}/{repo}", "name": repo}, 200 if new else 409)

    def _validate(self, body: bytes) -> None:
        """See that a card begins with the metadata that the hub asks for."""
        metadata = re.match(r"---\n(.*?\n)---\n", json.loads(body)["content"], re.DOTALL)
        wrong = metadata is None or not isinstance(yaml.safe_load(metadata[1]), dict)
        self._json({"errors": [{"message": "no metadata"}] if wrong else [], "warnings": []}, 400 if wrong else 200)

    def _preupload(self, _kind: str, _repo: str, _sha: str, _folder: Path, _path: str, body: bytes) -> Any:
        def mode(file: dict[str, Any]) -> str:
            return "lfs" if file["size"] >= _LFS or b"\0" in b64decode(file["sample"]) else "regular"

        files = json.loads(body)["files"]
        return {"files": [{"path": f["path"], "uploadMode": mode(f), "shouldIgnore": False} for f in files]}

    def _batch(self, _kind: str, _repo: str, _sha: str, _folder: Path, _path: str, body: bytes) -> Any:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _store(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._fail(400, "InvalidContent")
            return
        self.hub.objects[oid] = body
        self._json({})

    def _commit(self, kind: str, repo: str, _sha: str, folder: Path, _path: str, body: bytes) -> Any:
        with tempfile.TemporaryDirectory() as made:
            shutil.copytree(folder, made, dirs_exist_ok=True)
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] in ("file", "lfsFile"):
                    file = Path(made, value["path"])
                    file.parent.mkdir(parents=True, exist_ok=True)
                    large = line["key"] == "lfsFile"
                    file.write_bytes(self.hub.objects[value["oid"]] if large else b64decode(value["content"]))
            sha = self.hub.commit(kind, repo, Path(made))
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{kind}/{repo}/commit/{sha}"}

    def _file(self, sha: str, folder: Path, path: str, *, broken: bool) -> None:
        file = folder / path
        if not file.is_file():
            self._fail(404, "EntryNotFound", {"X-Repo-Commit": sha})
            return
        content = file.read_bytes()
        start, end, status = 0, len(content), 200
        if ranged := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, status = int(ranged[1]), 206
            end = min(end, int(ranged[2]) + 1) if ranged[2] else end
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(end - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if broken:
            self.wfile.write(content[start : start + (end - start) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content[start:end])

    def _json(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _fail(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "X-Error-Code": code, "X-Error-Message": code}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


def _entry(file: Path, folder: Path) -> dict[str, Any]:
    path = file.relative_to(folder).as_posix()
    if file.is_dir():
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
    return {"type": "file", "path": path, "oid": _etag(file), "size": file.stat().st_size}
