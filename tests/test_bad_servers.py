"""Servers that break off, lie or never end: a transfer is resumed, or ends in one line; nothing wrong is kept."""

from __future__ import annotations

import hashlib
import itertools
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

import naf_hub
from naf_hub import Weights
from naf_hub.weights import hub, web
from naf_hub.weights.hub import fetch

BODY = bytes(range(256)) * 40
HALF = len(BODY) // 2
NUMBERS = itertools.count()  # every test has an address of its own, and so a place of its own in the cache
Misbehave = Callable[["Client"], None]


class Client(socketserver.StreamRequestHandler):
    """One request: misbehaves as the server is told, or answers as it should."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle(self) -> None:
        self.rfile.readline()
        self.start = 0
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"range: bytes="):
                self.start = int(line.partition(b"=")[2].rstrip(b"-"))
        self.server.asked.append(self.start)
        if self.server.bad > 0:
            self.server.bad -= 1
            self.server.misbehave(self)
        else:
            self.send_rest()

    def send(self, status: str, body: bytes, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
        self.wfile.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)

    def send_rest(self, upto: int | None = None) -> None:
        status = "206 Partial Content" if self.start else "200 OK"
        place = {"Content_Range": f"bytes {self.start}-{len(BODY) - 1}/{len(BODY)}"} if self.start else {}
        self.send(status, BODY[self.start : upto], Content_Length=str(len(BODY) - self.start), **place)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    misbehave: Misbehave
    bad = 0
    address = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Client)
        self.asked: list[int] = []
        self.over = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what is tested."""


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(web, "probe", lambda *_: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running.asked.clear()
    running.address = f"http://127.0.0.1:{running.server_address[1]}/{next(NUMBERS)}/naf.pth"
    return running


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def chunked(client: Client, rest: bytes) -> None:
    status = "206 Partial Content" if client.start else "200 OK"
    whole, begun = BODY[client.start : client.start + 512], BODY[client.start + 512 : client.start + 515]
    rest = rest.replace(b"BEGUN", begun)
    client.send(status, chunk(whole) + rest, Transfer_Encoding="chunked")


def reset(client: Client) -> None:
    client.send_rest(client.start + 700)
    client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.connection.close()


def no_http(client: Client) -> None:
    client.wfile.write(b"SSH-2.0-OpenSSH\r\n\x00\n\n")


def silent(client: Client) -> None:
    client.send_rest(HALF)
    client.wfile.flush()
    client.server.over.wait(5)


def endless(client: Client) -> None:
    client.send("200 OK", b"", Transfer_Encoding="chunked")
    while not client.server.over.is_set():  # until the other side hangs up
        client.wfile.write(chunk(bytes(1 << 16)))


BAD: dict[str, Misbehave] = {
    "hangs up": lambda client: None,
    "no HTTP": no_http,
    "short": lambda client: client.send_rest(client.start + 700),
    "chunk cut": lambda client: chunked(client, b"400\r\nBEGUN"),
    "last chunk missing": lambda client: chunked(client, b""),
    "no size of a chunk": lambda client: chunked(client, b"<html>\r\n"),
    "reset": reset,
    "silent": silent,
    "another part": lambda client: client.send(
        "206 Partial Content", BODY[7:900], Content_Range=f"bytes 7-899/{len(BODY)}", Content_Length="893"
    ),
    "nothing there": lambda client: client.send("416 Range Not Satisfiable", b"", Content_Length="0"),
    "long header": lambda client: client.send("200 OK", b"", X="x" * 70_000),
}


def record(server: Server, *, stated: bool) -> Weights:
    if not stated:
        return Weights(server.address)
    return Weights(server.address, len(BODY), hashlib.sha256(BODY).hexdigest())


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "unknown"])
@pytest.mark.parametrize("kind", BAD)
def test_a_server_that_misbehaves_twice_delivers_at_last(
    server: Server, monkeypatch: pytest.MonkeyPatch, kind: str, stated: bool
):
    if kind == "silent":
        monkeypatch.setattr(web, "CONNECT_SECONDS", 0.3)
    server.misbehave, server.bad = BAD[kind], 2
    file = fetch(record(server, stated=stated), "naf")
    assert file.path.read_bytes() == BODY
    assert len(server.asked) == 3
    if kind in ("short", "chunk cut", "last chunk missing", "no size of a chunk"):
        assert server.asked[1] > 0, "what had arrived was thrown away"


@pytest.mark.parametrize("kind", BAD)
def test_a_server_that_always_misbehaves_is_told_in_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, kind: str
):
    if kind == "silent":
        monkeypatch.setattr(web, "CONNECT_SECONDS", 0.05)
    server.misbehave, server.bad = BAD[kind], 99
    with pytest.raises(naf_hub.WeightsError, match=r"naf: .*http://127\.0\.0\.1:\d+/\d+/naf\.pth.*") as told:
        fetch(record(server, stated=True), "naf")
    assert str(told.value).isprintable()
    assert len(server.asked) <= web.ATTEMPTS
    assert not web.web_file(record(server, stated=True)).exists()


def test_a_file_without_an_end_is_not_waited_for(server: Server):
    server.misbehave, server.bad = endless, 1
    with pytest.raises(naf_hub.WeightsError, match=f"bytes, expected {len(BODY)}"):
        fetch(record(server, stated=True), "naf")


def test_the_rest_of_another_version_is_not_taken(server: Server):
    """Where no checksum is published nothing else could tell."""
    weights = record(server, stated=False)
    part = web.web_file(weights).with_name("naf.pth.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"of last week")
    server.bad = 0
    assert fetch(weights, "naf").path.read_bytes() == BODY
    assert server.asked == [0]


class ReadError(Exception):
    """As transport libraries of the Hub's client call a connection that was reset."""


@pytest.mark.parametrize(("failures", "error"), [(2, ReadError), (99, ReadError), (99, RecursionError)])
def test_transfers_from_the_hub_go_on_after_a_reset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failures: int, error: type[Exception]
):
    tried = []
    path = tmp_path / "snapshots" / "0" / "model.safetensors"

    def download(*_: object, **__: object) -> str:
        tried.append(1)
        if len(tried) <= failures:
            raise error("connection\nreset")
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    if failures == 2:
        assert hub.hub_file("a/b", "model.safetensors", None, "naf").path == path
        return
    with pytest.raises(
        naf_hub.WeightsError, match=r"naf: download of model\.safetensors .* failed: connection$"
    ):
        hub.hub_file("a/b", "model.safetensors", None, "naf")
    assert len(tried) == (web.ATTEMPTS if error is ReadError else 1)
