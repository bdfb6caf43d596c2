"""The upload half of the tiny Hub: repositories with branches and commits, LFS storage, tokens."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import threading
from typing import Any
from urllib.parse import unquote

from hub_server import Hub, _Handler

LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "other"}


@dataclasses.dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """As the Hub names content: sha256 for LFS, else git's own sha1."""
        if self.lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclasses.dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, Blob]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    messages: list[str] = dataclasses.field(default_factory=list)

    def commit(self, branch: str, tree: dict[str, Blob], message: str) -> str:
        parts = [f"{path} {blob.oid}" for path, blob in sorted(tree.items())]
        text = "\n".join([str(self.branches.get(branch)), str(len(self.messages)), message, *parts])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = tree
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.commits[self.at(revision) or ""].items()}


class UploadHub(Hub):
    """A :class:`Hub` that takes uploads.

    Attributes:
        uploaded: repo id -> what it holds.
        tokens: token -> owners it may write to.
        use_lfs: whether ``.safetensors`` go through LFS, as on the real Hub; else all within the commit.
        lfs: sha256 -> content.
        ignored: paths that the Hub says a .gitignore excludes.
        cut: path -> how often to close the connection after half of the request's body.
        broken: path -> list of HTTP statuses to answer first.
        lock: held while a commit is made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _UploadHandler
        self.uploaded: dict[str, Repo] = {}
        self.tokens: dict[str, set[str]] = {"hf_good": {"me"}, "hf_other": {"somebody"}}
        self.use_lfs = True
        self.lfs: dict[str, bytes] = {}
        self.ignored: set[str] = set()
        self.cut: dict[str, int] = {}
        self.broken: dict[str, list[int]] = {}
        self.lock = threading.Lock()


class _UploadHandler(_Handler):
    server: UploadHub

    def do_POST(self) -> None:
        self._receive()

    def do_PUT(self) -> None:
        self._receive()

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ValueError):
            self.close_connection = True  # the client went away, or we cut it off

    # --- reading back ------------------------------------------------------------------------------------

    def _answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        if repo not in self.server.uploaded:
            super()._answer()
            return
        self.server.log.append((self.command, path, "Range" in self.headers))
        held = self.server.uploaded[repo]
        if held.private and not self._may_write(repo):
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
            return
        rest = parts[4:] if api else parts[2:]
        sha = held.at(rest[1] if len(rest) > 1 else "main")
        if sha is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif api:
            self._info(repo, held, sha)
        else:
            self._resolve(path, held.commits[sha].get("/".join(rest[2:])), sha)

    def _info(self, repo: str, held: Repo, sha: str) -> None:
        siblings: list[dict[str, Any]] = []
        for name, blob in held.commits[sha].items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(blob.data), "blobId": blob.oid}
            if blob.lfs:
                entry["lfs"] = {"sha256": blob.oid, "size": len(blob.data), "pointerSize": 130}
            siblings.append(entry)
        self._json(200, {"id": repo, "sha": sha, "private": held.private, "siblings": siblings})

    def _resolve(self, path: str, blob: Blob | None, sha: str) -> None:
        if blob is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        else:
            self._file(path, blob.data, {"X-Repo-Commit": sha, "ETag": f'"{blob.oid}"'})

    # --- taking ------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.server.log.append((self.command, path, False))
        if self.server.cut.get(path, 0) > 0:
            self.server.cut[path] -= 1
            self.rfile.read(int(self.headers.get("Content-Length", "2")) // 2)
            self.close_connection = True
            return
        body = self._body()
        if self.server.broken.get(path):
            self._json(self.server.broken[path].pop(0), {"error": "out of order"})
        elif path.startswith("/lfs/"):
            self._store(path.removeprefix("/lfs/"), body)  # a signed address needs no token
        elif self._token() is None:
            self._json(401, {"error": "Invalid username or password."})
        else:
            self._route(path, path.strip("/").split("/"), body)

    def _route(self, path: str, parts: list[str], body: bytes) -> None:
        data = None if path.endswith("ndjson") or "/commit/" in path else json.loads(body or b"{}")
        if path == "/api/validate-yaml":
            self._validate(data["content"])
        elif path == "/api/repos/create":
            self._create(data)
        elif path == "/lfs-verify":
            good = len(self.server.lfs.get(data["oid"], b"")) == data["size"]
            self._json(200 if good else 404, {})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(path.strip("/").split(".git/")[0], data)
        else:
            repo, what, revision = "/".join(parts[2:4]), parts[4], "/".join(parts[5:])
            held = self._writable(repo)
            if held is None:
                return
            if what == "branch":
                self._branch(held, revision, data)
            elif held.at(revision) is None:
                self._json(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
            elif what == "preupload":
                self._preupload(held, revision, data["files"])
            else:
                self._commit(repo, held, revision, body)

    def _token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return token if token in self.server.tokens else None

    def _may_write(self, repo: str) -> bool:
        return repo.split("/")[0] in self.server.tokens.get(self._token() or "", set())

    def _writable(self, repo: str) -> Repo | None:
        """The repository, if the token may write to it; otherwise that has been answered."""
        held = self.server.uploaded.get(repo)
        if not self._may_write(repo):
            self._json(403, {"error": "You don't have the rights"})
        elif held is None:
            self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            return held
        return None

    def _validate(self, content: str) -> None:
        head = content.split("---\n")[1] if content.startswith("---\n") else ""
        fields = dict(line.partition(": ")[::2] for line in head.splitlines() if ": " in line)
        if fields.get("license") not in LICENSES:
            self._json(400, {"errors": [{"message": f'"license" {fields.get("license")} unknown'}]})
        else:
            self._json(200, {"errors": [], "warnings": []})

    def _create(self, data: dict[str, Any]) -> None:
        repo = f"{data['organization']}/{data['name']}"
        answer = {"url": f"{self.server.url}/{repo}"}
        if not self._may_write(repo):
            self._json(403, {"error": f"You don't have the rights to create a model under {repo}"})
        elif repo in self.server.uploaded:
            self._json(409, {**answer, "error": "You already created this model repo"})
        else:
            held = self.server.uploaded[repo] = Repo(
                data.get("visibility") == "private" or bool(data.get("private"))  # as older clients say it
            )
            held.commit(
                "main", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}, "initial commit"
            )
            self._json(200, answer)

    def _branch(self, held: Repo, branch: str, data: dict[str, Any]) -> None:
        if branch in held.branches:
            self._json(409, {"error": "Reference already exists"})
        else:
            held.branches[branch] = held.branches[data.get("startingPoint", "main")]
            self._json(200, {})

    def _preupload(self, held: Repo, revision: str, files: list[dict[str, Any]]) -> None:
        tree, answers = held.commits[held.at(revision) or ""], []
        for file in files:
            assert len(base64.b64decode(file["sample"])) == min(512, file["size"])
            lfs = self.server.use_lfs and file["path"].endswith(".safetensors")
            answer = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular"}
            answer["shouldIgnore"] = file["path"] in self.server.ignored
            if file["path"] in tree:
                answer["oid"] = tree[file["path"]].oid
            answers.append(answer)
        self._json(200, {"files": answers})

    def _batch(self, repo: str, data: dict[str, Any]) -> None:
        if self._writable(repo) is None:
            return
        assert (data["operation"], data["hash_algo"]) == ("upload", "sha256")
        objects: list[dict[str, Any]] = []
        for wanted in data["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.lfs:
                upload = {"href": f"{self.server.url}/lfs/{wanted['oid']}", "header": {}}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{self.server.url}/lfs-verify"}}
            objects.append(entry)
        self._json(200, {"transfer": "basic", "objects": objects})

    def _store(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._json(400, {"error": "checksum differs"})
        else:
            self.server.lfs[oid] = body
            self._json(200, {})

    def _commit(self, repo: str, held: Repo, branch: str, body: bytes) -> None:
        header, *operations = [json.loads(line) for line in body.splitlines()]
        assert header["key"] == "header"
        with self.server.lock:
            tree = dict(held.commits[held.branches[branch]])
            for operation in operations:
                value = operation["value"]
                if operation["key"] == "lfsFile":
                    content = self.server.lfs.get(value["oid"])
                    if content is None or len(content) != value["size"]:
                        self._json(400, {"error": f"LFS object of {value['path']} is missing"})
                        return
                    tree[value["path"]] = Blob(content, True)
                elif operation["key"] == "file":
                    tree[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                else:
                    self._json(400, {"error": f"{operation['key']} is not known here"})
                    return
            sha = held.commit(branch, tree, header["value"]["summary"])
        self._json(200, {"commitOid": sha, "commitUrl": f"{self.server.url}/{repo}/commit/{sha}"})

    # --- HTTP --------------------------------------------------------------------------------------------

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})
