"""A hub on this machine: enough of its protocol for huggingface_hub, with large files on a second host, as the real hub has them.

It counts what it sends, and can be told to be slow, to break off, to damage a file, or to refuse access.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".gguf")
TOKEN = "hf_of_a_test"
PIECE = 1 << 14
API = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?$")
RESOLVE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)$")


@dataclass
class Hub:
    """A running hub. repositories: id -> its folder. gated: ids that only granted tokens may read.

    sent: bytes of content by file. asked: every request, as method, path and range. logins: the hosts that were asked, each with
    the login that came along. rate: bytes a second of a large file; breaks: bytes after which a connection is cut, once; damaged,
    short: files sent with a wrong byte, or without their last ones; status: what every request is answered with instead.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    granted: set[str] = field(default_factory=set)
    sent: Counter[str] = field(default_factory=Counter)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    rate: float = float("inf")
    breaks: int | None = None
    damaged: set[str] = field(default_factory=set)
    short: set[str] = field(default_factory=set)
    status: int | None = None
    url: str = ""

    def commit(self, name: str) -> str:
        return hashlib.sha1(name.encode()).hexdigest()

    def fetched(self, file: str) -> list[str]:
        """The ranges in which a large file was asked for. file: org/model/name."""
        return [part for method, path, part in self.asked if (method, path) == ("GET", f"/store/{file}")]

    def environment(self, folder: Path) -> dict[str, str]:
        """For a process that uses this hub alone, with its cache and its login in a folder."""
        names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_TOKEN_PATH")
        kept = {name: value for name, value in os.environ.items() if name not in names}
        return kept | {"HF_ENDPOINT": self.url, "HF_HOME": str(folder), "NO_PROXY": "127.0.0.1,localhost"}


@contextmanager
def serving(**repositories_and_settings):
    """A hub, until the end of the block."""
    hub = Hub(**repositories_and_settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_id(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """The hub's host is 127.0.0.1; its store of large files is `localhost`, which must not see a login."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub, path = self.hub, urlsplit(unquote(self.path)).path
        hub.asked.append((self.command, path, self.headers.get("Range", "")))
        hub.logins.append((self.headers["Host"].split(":")[0], self.headers.get("Authorization", "")))
        if hub.status:
            self.error(hub.status, "", "no service")
        elif path.startswith("/store/"):
            self.large(path)
        elif found := API.match(path):
            self.describe(found["name"], found["revision"] or "main")
        elif found := RESOLVE.match(path):
            self.resolve(found["name"], found["revision"], found["file"])
        else:
            self.error(404, "", "no such page")

    def error(self, status: int, code: str, text: str):
        self.reply(status, b"{}", {"X-Error-Code": code, "X-Error-Message": text} if code else {})

    def reply(self, status: int, body: bytes, headers: dict):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def known(self, name: str, revision: str) -> bool:
        """Whether a repository has a revision; the answer is given if not."""
        if name not in self.hub.repositories:
            self.error(401, "RepoNotFound", "Repository not found")
        elif revision not in ("main", self.hub.commit(name)):
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return True
        return False

    def describe(self, name: str, revision: str):
        if not self.known(name, revision):
            return
        siblings = []
        folder, blobs = self.hub.repositories[name], "blobs" in parse_qs(urlsplit(self.path).query)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            sibling: dict = {"rfilename": str(path.relative_to(folder))}
            if blobs:
                sibling |= {"size": path.stat().st_size, "blobId": git_id(path)}
                if path.suffix in LARGE:
                    sibling["lfs"] = {"sha256": sha256(path), "size": path.stat().st_size, "pointerSize": 130}
            siblings.append(sibling)
        about = {"id": name, "sha": self.hub.commit(name), "siblings": siblings, "gated": name in self.hub.gated}
        self.reply(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def resolve(self, name: str, revision: str, file: str):
        hub = self.hub
        if not self.known(name, revision):
            return
        login = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if name in hub.gated and login not in hub.granted:
            self.error(403 if login else 401, "GatedRepo", f"Access to model {name} is restricted.")
            return
        path, commit = hub.repositories[name] / file, {"X-Repo-Commit": hub.commit(name)}
        if not path.is_file():
            self.reply(404, b"", commit | {"X-Error-Code": "EntryNotFound"})
        elif path.suffix in LARGE:
            about = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-Etag": f'"{sha256(path)}"'}
            store = hub.url.replace("127.0.0.1", "localhost") + f"/store/{name}/{file}"
            self.reply(302, b"", commit | about | {"Location": store})
        else:
            content = path.read_bytes()
            hub.sent[f"{name}/{file}"] += len(content) if self.command == "GET" else 0
            self.reply(200, content, commit | {"ETag": f'"{git_id(path)}"'})

    def large(self, path: str):
        """Content of a large file, from where it is asked for."""
        hub, name = self.hub, path.removeprefix("/store/")
        repository, _, file = name.rpartition("/")
        content = (hub.repositories[repository] / file).read_bytes()
        if name in hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if name in hub.short:
            content = content[:-1000]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        start = min(start, len(content))
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        for place in range(start, len(content) if self.command == "GET" else 0, PIECE):
            piece = content[place : place + PIECE]
            if hub.breaks is not None and hub.sent[name] + len(piece) > hub.breaks:
                hub.breaks, self.close_connection = None, True
                return
            try:
                self.wfile.write(piece)
            except OSError:  # the reader was killed
                self.close_connection = True
                return
            hub.sent[name] += len(piece)
            time.sleep(len(piece) / hub.rate)
