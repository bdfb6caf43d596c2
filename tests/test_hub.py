"""Downloads, proved against a hub on loopback by the real client in processes of their own."""

from __future__ import annotations

import ast
import hashlib
import socket
import time
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, run, serve, start

import naf_hub
from naf_hub.weights import web
from naf_hub.weights.files import save_weights
from naf_hub.weights.hub import parse_hub

SMALL = {"dim": 32, "num_blocks": 1, "kernel_size": 3}
REPO = "me/naf-small"


@pytest.fixture
def hub():
    with serve() as server:
        yield server


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a published folder."""
    torch.manual_seed(3)
    model = naf_hub.load("naf", weights=None, **SMALL)
    folder = save_weights(
        tmp_path_factory.mktemp("hub") / "w", model, name="naf", options=SMALL, card="# card\n"
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FETCH = f"print(fetch(Weights('hf://{REPO}'), 'naf'))"


def test_load_from_the_hub_then_offline_from_the_cache(hub, tmp_path, published):
    hub.repos[REPO] = published
    load = f"m = naf_hub.load('naf', weights='hf://{REPO}'); print(m.kernel_size)"
    assert run(load, hub, tmp_path) == ("3", "")
    hub.log.clear()
    no_sockets = (
        "import socket\ndef refuse(*a, **k): raise SystemExit('opened')\nsocket.socket.connect = refuse\n"
    )
    assert run(no_sockets + load, hub, tmp_path, HF_HUB_OFFLINE="1") == ("3", "")
    assert hub.log == []


def test_a_pinned_revision_asks_nothing_once_cached(hub, tmp_path, published):
    hub.repos[REPO] = published
    pinned = f"print(fetch(Weights('hf://{REPO}@{COMMIT}'), 'naf'))"
    first, _ = run(pinned, hub, tmp_path)
    hub.log.clear()
    assert run(pinned, hub, tmp_path)[0] == first
    assert [entry for entry in hub.log if "safetensors" in entry[1]] == []


# Prints what was hashed, by name, and how often.
COUNTED = """
import collections, hashlib, os
from naf_hub.weights import checksums
hashed, real = collections.Counter(), checksums.sha256_of
def counting(path):
    hashed[os.path.basename(path)] += 1
    return real(path)
checksums.sha256_of = counting
import naf_hub.weights.files
naf_hub.weights.files.sha256_of = counting
{load}
print(dict(hashed))
"""


def counted(load: str, hub, tmp_path) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """(name -> hashes, (method, name) -> requests) of one load in a process of its own."""
    hub.log.clear()
    output, error = run(COUNTED.format(load=load), hub, tmp_path)
    assert output, error
    return ast.literal_eval(output.splitlines()[-1]), hub.counts()


@pytest.mark.parametrize("as_named_set", [False, True])
def test_one_load_asks_once_and_hashes_once_for_each_file(hub, tmp_path, published, as_named_set):
    hub.repos[REPO] = published
    digest = hashlib.sha256(published["model.safetensors"]).hexdigest()
    load = f"naf_hub.load('naf', weights='hf://{REPO}')"
    if as_named_set:
        load = (
            "import dataclasses; from naf_hub.loading import _build\n"
            f"w = Weights('hf://{REPO}', sha256={digest!r}, options={SMALL!r})\n"
            "_build(dataclasses.replace(naf_hub.info('naf'), weights={'default': w}), 'default', {})"
        )
    hashes, asked = counted(load, hub, tmp_path)
    assert hashes.pop("model.safetensors") == 1
    assert set(hashes.values()) <= {1}
    files = {("HEAD", "model.safetensors"): 1, ("HEAD", "config.json"): 1}
    assert asked == files | {("GET", name): 1 for _, name in files} | {("HEAD", ""): 1}
    warm = {("HEAD", "model.safetensors"): 1}  # and config.json is that of the same commit
    assert counted(load, hub, tmp_path) == ({"model.safetensors": 1}, warm)
    pinned = load.replace(REPO, f"{REPO}@{COMMIT}")
    assert counted(pinned, hub, tmp_path) == ({"model.safetensors": 1}, {})


def test_a_repository_without_a_config_is_asked_for_it_once(hub, tmp_path, published):
    hub.repos[REPO] = {"model.safetensors": published["model.safetensors"]}
    load = f"naf_hub.load('naf', weights='hf://{REPO}', **{SMALL!r})"
    assert counted(load, hub, tmp_path)[1]["HEAD", "config.json"] == 1
    assert counted(load, hub, tmp_path)[1] == {("HEAD", "model.safetensors"): 1}


def test_wrong_sha256_is_told(hub, tmp_path, published):
    hub.repos[REPO] = published
    _, error = run(f"fetch(Weights('hf://{REPO}', sha256='0' * 64), 'naf')", hub, tmp_path)
    assert "WeightsError" in error
    assert "expected 0000000000000000" in error


@pytest.mark.parametrize(
    ("prepare", "source", "message"),
    [
        (lambda h: h.gated.add("meta/gated"), "hf://meta/gated", "accept its terms at"),
        (lambda h: None, "hf://nobody/nothing", "no repository"),
        (lambda h: h.repos.update({"a/b": {}}), "hf://a/b", "has no file model.safetensors"),
        (lambda h: h.repos.update({"a/b": {}}), "hf://a/b@nope", "no revision 'nope'"),
    ],
)
def test_refusals_say_what_to_do(hub, tmp_path, prepare, source, message):
    prepare(hub)
    _, error = run(f"fetch(Weights({source!r}), 'thing')", hub, tmp_path)
    assert error.startswith("naf_hub.errors.WeightsError: thing:"), error
    assert message in error


def test_offline_and_not_cached_names_the_command(hub, tmp_path):
    _, error = run(FETCH, hub, tmp_path, HF_HUB_OFFLINE="1")
    assert f"hf download {REPO} model.safetensors" in error
    assert hub.log == []


def test_server_errors_are_retried(hub, tmp_path, published):
    hub.repos[REPO] = published
    hub.failures[f"/{REPO}/resolve/main/model.safetensors"] = [503]
    output, error = run(FETCH, hub, tmp_path)
    assert output.endswith("model.safetensors"), error


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"hf://{REPO}", "cannot reach http://127.0.0.1:9"),
        ("http://127.0.0.1:9/naf.pth", "cannot fetch http://127.0.0.1:9/naf.pth: no connection"),
    ],
)
def test_an_unreachable_host_is_told_within_fifteen_seconds(hub, tmp_path, source, message):
    began = time.monotonic()
    _, error = run(f"fetch(Weights({source!r}), 'naf')", hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert time.monotonic() - began < 15
    assert message in error


def test_a_host_of_many_silent_addresses_is_told_once(monkeypatch: pytest.MonkeyPatch):
    """Each address of a host may take the whole time limit of a socket: together they must not."""
    silent = socket.create_server(("127.0.0.1", 0), backlog=1)
    address = silent.getsockname()
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **named: 4 * real("127.0.0.1", address[1], type=socket.SOCK_STREAM),
    )
    monkeypatch.setattr(web, "CONNECT_SECONDS", 0.5)
    # A full queue of connections: further ones get no answer at all.
    waiting = [socket.socket() for _ in range(4)]
    for client in waiting:
        client.setblocking(False)
        client.connect_ex(address)
    began = time.monotonic()
    with pytest.raises(
        naf_hub.WeightsError, match=r"cannot reach it \(.+\); check the connection, then run: x"
    ):
        web.require_reachable(f"http://silent.test:{address[1]}", "cannot reach it", "x")
    assert time.monotonic() - began < 1
    for opened in (*waiting, silent):
        opened.close()


def test_two_processes_at_once_fetch_one_file(hub, tmp_path, published):
    hub.repos[REPO] = published
    both = [start(FETCH, hub, tmp_path) for _ in range(2)]
    outputs = {process.communicate(timeout=250)[0].strip() for process in both}
    assert len(outputs) == 1
    path = Path(outputs.pop())
    assert path.read_bytes() == published["model.safetensors"]
    assert not list((tmp_path / "home").rglob("*.incomplete"))


# --- outside the Hub -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pickle_bytes(tmp_path_factory) -> bytes:
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("pickle") / "naf.pth"
    torch.save(naf_hub.load("naf", weights=None, **SMALL).state_dict(), path)
    return path.read_bytes()


def record(hub, data: bytes, **changes: object) -> str:
    entry = {"source": f"{hub.url}/naf.pth", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return f"Weights(**{entry | changes!r})"


def test_a_published_pickle_is_converted_once(hub, tmp_path, pickle_bytes):
    hub.plain["/naf.pth"] = pickle_bytes
    code = (
        "import dataclasses; from naf_hub.weights.files import locate, read_state_dict\n"
        f"w = dataclasses.replace({record(hub, pickle_bytes)}, options={SMALL!r})\n"
        "r = dataclasses.replace(naf_hub.info('naf'), weights={'official': w})\n"
        "options, path = locate(r, 'official'); print(path.name, options['dim'], len(read_state_dict(path)))"
    )
    tensors = len(naf_hub.load("naf", weights=None, **SMALL).state_dict())
    for _ in range(2):
        assert run(code, hub, tmp_path) == (f"model.safetensors 32 {tensors}", "")
    assert hub.requests("GET") == ["/naf.pth"]


@pytest.mark.parametrize("stated", [True, False])
def test_a_published_pickle_is_hashed_once_and_so_is_its_conversion(hub, tmp_path, pickle_bytes, stated):
    hub.plain["/naf.pth"] = pickle_bytes
    changes = {} if stated else {"size": None, "sha256": None}
    load = (
        "import dataclasses; from naf_hub.loading import _build\n"
        f"w = dataclasses.replace({record(hub, pickle_bytes, **changes)}, options={SMALL!r})\n"
        "_build(dataclasses.replace(naf_hub.info('naf'), weights={'official': w}), 'official', {})"
    )
    hashes, asked = counted(load, hub, tmp_path)
    pickle = "naf.pth.part" if stated else "naf.pth"
    assert hashes == {pickle: 1, "model.safetensors": 1}
    assert asked == {("GET", "naf.pth"): 1, ("HEAD", ""): 1}
    assert counted(load, hub, tmp_path) == ({"model.safetensors": 1}, {})


@pytest.mark.parametrize("ignore_range", [False, True])
def test_a_dropped_connection_is_resumed(hub, tmp_path, pickle_bytes, ignore_range):
    hub.plain["/naf.pth"] = pickle_bytes
    hub.drop["/naf.pth"] = 2
    hub.ignore_range = ignore_range
    output, error = run(f"print(fetch({record(hub, pickle_bytes)}, 'naf'))", hub, tmp_path)
    assert output, error
    assert Path(output).read_bytes() == pickle_bytes
    assert [ranged for _, path, ranged in hub.log if path == "/naf.pth"] == [False, True, True]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda hub, data: hub.plain.update({"/naf.pth": data[:-1] + b"x"}), "sha256"),
        (lambda hub, data: hub.plain.update({"/naf.pth": data + b"more"}), "bytes, expected"),
        (lambda hub, data: None, "HTTP 404"),
        (lambda hub, data: hub.failures.update({"/naf.pth": [503] * 9}), "HTTP 503"),
    ],
)
def test_bad_downloads_leave_nothing_that_could_be_loaded(hub, tmp_path, pickle_bytes, spoil, message):
    spoil(hub, pickle_bytes)
    _, error = run(f"fetch({record(hub, pickle_bytes)}, 'naf')", hub, tmp_path)
    assert message in error, error
    assert not list((tmp_path / "home").rglob("naf.pth"))


def test_without_a_published_checksum_the_first_use_is_recorded_and_said(hub, tmp_path, pickle_bytes):
    hub.plain["/naf.pth"] = pickle_bytes
    code = f"print(fetch({record(hub, pickle_bytes, size=None, sha256=None)}, 'naf'))"
    output, error = run(code, hub, tmp_path)
    assert f"recorded sha256 {hashlib.sha256(pickle_bytes).hexdigest()} on first use" in error
    assert run(code, hub, tmp_path) == (output, "")
    Path(output).write_bytes(pickle_bytes[:-1] + b"x")
    assert "expected" in run(code, hub, tmp_path)[1]


def test_two_processes_at_once_download_once(hub, tmp_path, pickle_bytes):
    hub.plain["/naf.pth"] = pickle_bytes
    both = [start(f"print(fetch({record(hub, pickle_bytes)}, 'naf'))", hub, tmp_path) for _ in range(2)]
    outputs = {process.communicate(timeout=250)[0].strip() for process in both}
    assert len(outputs) == 1
    assert hub.requests("GET") == ["/naf.pth"]


def test_parse_hub():
    assert parse_hub("hf://a/b") == ("a/b", None, "model.safetensors")
    assert parse_hub("hf://a/b@v1/sub/x.safetensors") == ("a/b", "v1", "sub/x.safetensors")
