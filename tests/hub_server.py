"""A tiny Hugging Face Hub on loopback, enough for downloads, that can misbehave on request, and its clients."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from ready_python import Process, start_python

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves ``files`` of Hub repos and of plain addresses.

    Attributes:
        repos: repo id -> {file name: content} of its main branch.
        commits: repo id -> commit of its main branch, default :data:`COMMIT`.
        past: (repo id, commit) -> {file name: content} of what main was before.
        plain: path -> content, for addresses outside the Hub.
        gated: repo ids that answer 401 without a token, and 403 with one that is not among ``accepted``.
        accepted: tokens whose owner accepted all terms.
        failures: path -> list of HTTP statuses to answer first.
        damaged: paths whose last byte arrives changed.
        drop: path -> how often to close the connection after half of the body.
        ignore_range: answer 200 with everything to a Range request.
        log: (method, path, has Range) of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, str] = {}
        self.past: dict[tuple[str, str], dict[str, bytes]] = {}
        self.plain: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.accepted: set[str] = set()
        self.failures: dict[str, list[int]] = {}
        self.damaged: set[str] = set()
        self.drop: dict[str, int] = {}
        self.ignore_range = False
        self.log: list[tuple[str, str, bool]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def move_on(self, repo: str, files: dict[str, bytes], commit: str) -> None:
        """Give the main branch of ``repo`` another commit; the one before can still be asked for."""
        self.past[repo, self.commits.get(repo, COMMIT)] = self.repos[repo]
        self.repos[repo], self.commits[repo] = files, commit

    def counts(self) -> dict[tuple[str, str], int]:
        """How often each (method, file name) was asked for; the probe of the server is a file without a name."""
        return dict(Counter((verb, path.rsplit("/", 1)[1]) for verb, path, _ in self.log))

    def requests(self, method: str) -> list[str]:
        return [path for verb, path, _ in self.log if verb == method and path != "/"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.server.log.append((self.command, path, "Range" in self.headers))
        statuses = self.server.failures.get(path)
        if statuses:
            self._send(statuses.pop(0), b"")
            return
        if path in self.server.plain:
            self._file(path, self.server.plain[path], {})
            return
        owner, _, rest = path.strip("/").partition("/")
        name, _, rest = rest.partition("/")
        repo = f"{owner}/{name}"
        if not rest.startswith("resolve/"):
            self._send(404 if path != "/" else 200, b"")
            return
        _, revision, file = rest.split("/", 2)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo in self.server.gated and token not in self.server.accepted:
            self._send(403 if "Authorization" in self.headers else 401, b"", {"X-Error-Code": "GatedRepo"})
            return
        if repo not in self.server.repos:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        head = self.server.commits.get(repo, COMMIT)
        commit = head if revision == "main" else revision
        files = self.server.repos[repo] if commit == head else self.server.past.get((repo, commit))
        if files is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif file not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            body = files[file]
            etag = hashlib.sha256(body).hexdigest()
            self._file(path, body, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

    def _file(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        start, status = 0, 200
        if path in self.server.damaged:
            body = body[:-1] + bytes([body[-1] ^ 1])
        wanted = self.headers.get("Range")
        if wanted and not self.server.ignore_range:
            start, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
        if self.command == "GET" and self.server.drop.get(path, 0) > 0:
            self.server.drop[path] -= 1
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start : start + (len(body) - start) // 2])
            self.close_connection = True
            return
        self._send(status, body[start:], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


HubKind = TypeVar("HubKind", bound=Hub)


@contextmanager
def serve(kind: type[HubKind] = Hub) -> Iterator[HubKind]:
    hub = kind()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def start(code: str, hub: Hub, tmp_path: Path, **environment: str) -> Process:
    """A snippet in its own process, whose Hub is ``hub`` and whose cache lies in ``tmp_path``."""
    environment = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment,
    }  # fmt: skip
    code = f"import naf_hub\nfrom naf_hub.weights.hub import fetch\nfrom naf_hub import Weights\n{code}"
    return start_python("-c", code, environment={**os.environ, **environment})


def run(code: str, hub: Hub, tmp_path: Path, **environment: str) -> tuple[str, str]:
    """(standard output, last line of standard error but for terms of weights) of a snippet in its own process."""
    process = start(code, hub, tmp_path, **environment)
    output, errors = process.communicate(timeout=250)
    lines = [line for line in errors.strip().splitlines() if "not free for every use" not in line]
    return output.strip(), (lines or [""])[-1]
