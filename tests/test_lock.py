"""Lock files: written by ``naf-hub pin``, binding by ``NAF_HUB_LOCK``, against a hub on loopback."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hub_layouts import TIMM, install_small_releases, pickled, releases, repository, timm_repository
from hub_server import COMMIT, run, serve

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.weights.checksums import LocalFile
from naf_hub.weights.files import save_weights
from naf_hub.weights.lock import Entry, binding_lock, read_lock

LATER = "fedcba9876543210fedcba9876543210fedcba98"
SMALL = {"dim": 32, "num_blocks": 1, "kernel_size": 3}
REPO = "me/naf-small"
LOAD = f"print(naf_hub.load('naf', weights='hf://{REPO}').kernel_size)"
SHARDED = repository("dinov3_7b")
LOAD_SHARDED = f"print(naf_hub.load_backbone('dinov3_7b', **{TIMM['dinov3_7b']!r}).embed_dim)"
CAPI = "/capi/capi_vitl14_lvd.pth"
LOAD_CAPI = "print(naf_hub.load_backbone('small_capi_l14').embed_dim)"


@pytest.fixture
def hub():
    with serve() as server:
        yield server


def published(tmp_path: Path, seed: int) -> dict[str, bytes]:
    torch.manual_seed(seed)
    model = naf_hub.load("naf", weights=None, **SMALL)
    folder = save_weights(tmp_path / f"published{seed}", model, name="naf", options=SMALL)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pin(hub, tmp_path: Path, *targets: str, **options: bool) -> dict:
    """The lock file after ``naf-hub pin`` in a process of its own."""
    call = f"pin({targets!r}, {str(tmp_path / 'l')!r}, **{options!r})"
    code = f"from naf_hub.weights.lock import pin; {call}; print('ok')"
    output, errors = run(code, hub, tmp_path)
    assert output == "ok", errors
    return json.loads((tmp_path / "l").read_text())["sources"]


def locked(code: str, hub, tmp_path: Path, **environment: str) -> tuple[str, str]:
    return run(code, hub, tmp_path, NAF_HUB_LOCK=str(tmp_path / "l"), **environment)


def digest(content: bytes) -> dict[str, object]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_locked_commit_still_loads_when_main_has_moved_on(hub, tmp_path):
    old, new = published(tmp_path, 1), published(tmp_path, 2)
    hub.repos[REPO] = old
    files = {name: digest(old[name]) for name in ("config.json", "model.safetensors")}
    assert pin(hub, tmp_path, f"naf=hf://{REPO}", "naf", "bilinear") == {
        f"hf://{REPO}": {"commit": COMMIT, "files": files},
        "package://naf_hub_naf/weights/default": {
            "files": {
                "model.safetensors": {
                    "size": 2654000,
                    "sha256": naf_hub.info("naf").weights["default"].sha256,
                }
            }
        },
    }
    hub.move_on(REPO, new, LATER)
    which = (
        "import hashlib; m = naf_hub.load('naf', weights='hf://me/naf-small'); "
        "print(float(sum(v.double().sum() for v in m.state_dict().values())))"
    )
    free, _ = run(which, hub, tmp_path / "other")
    for home in (tmp_path, tmp_path / "new"):  # cached or not
        home.mkdir(exist_ok=True)
        hub.log.clear()
        bound, errors = run(which, hub, home, NAF_HUB_LOCK=str(tmp_path / "l"))
        assert bound != free, errors
        assert {path.split("/")[4] for path in hub.requests("GET")} <= {COMMIT}
    # The lock file follows only when it is asked to.
    assert pin(hub, tmp_path, f"naf=hf://{REPO}")[f"hf://{REPO}"]["commit"] == COMMIT
    updated = pin(hub, tmp_path, f"naf=hf://{REPO}", update=True)
    assert updated[f"hf://{REPO}"]["commit"] == LATER
    assert "package://naf_hub_naf/weights/default" in updated
    assert locked(which, hub, tmp_path)[0] == free


def test_what_is_not_in_the_lock_file_is_refused(hub, tmp_path):
    hub.repos[REPO] = published(tmp_path, 1)
    pin(hub, tmp_path, "naf")
    assert locked("print(naf_hub.load('naf').dim)", hub, tmp_path) == ("256", "")
    hub.log.clear()
    message = locked(LOAD, hub, tmp_path)[1]
    assert (
        f"hf://{REPO} is not in the lock file {tmp_path / 'l'}; run: naf-hub pin naf=hf://{REPO} -o"
        in message
    )
    assert hub.log == []
    # One's own files are not fetched and need no lock.
    own = f"print(naf_hub.load('naf', weights={str(tmp_path / 'published1')!r}).kernel_size)"
    assert locked(own, hub, tmp_path) == ("3", "")


def test_a_tampered_file_is_refused(hub, tmp_path):
    hub.repos[REPO] = published(tmp_path, 1)
    pin(hub, tmp_path, f"naf=hf://{REPO}")
    for name in ("config.json", "model.safetensors"):
        (cached,) = (tmp_path / "home").rglob(name)
        content = cached.read_bytes()
        cached.write_bytes(content[:-1] + b" " if name == "config.json" else content[:-1] + b"\x7f")
        _, error = locked(LOAD, hub, tmp_path)
        assert f"{name} has sha256" in error, error
        assert f"locked by {tmp_path / 'l'}" in error
        assert f"naf-hub pin naf=hf://{REPO} --update -o {tmp_path / 'l'}" in error
        cached.write_bytes(content)
    assert locked(LOAD, hub, tmp_path) == ("3", "")


def test_every_shard_is_locked(hub, tmp_path):
    hub.repos[SHARDED] = timm_repository("dinov3_7b")
    (entry,) = pin(hub, tmp_path, "dinov3_7b").values()
    names = [name for name in hub.repos[SHARDED] if name.startswith("model-")]
    assert len(names) > 3
    assert entry["files"].keys() == {*names, "model.safetensors.index.json"}
    assert locked(LOAD_SHARDED, hub, tmp_path) == ("48", "")
    (cached,) = (tmp_path / "home").rglob(names[1])
    cached.write_bytes(cached.read_bytes()[:-1] + b"\x7f")
    assert f"{names[1]} has sha256" in locked(LOAD_SHARDED, hub, tmp_path)[1]


def test_plain_addresses_are_locked_where_no_checksum_is_published(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(install_small_releases(tmp_path / "plugin")), prepend=":")
    hub.plain = releases()
    content = hub.plain[CAPI]
    entries = pin(hub, tmp_path, "small_capi_l14", "small_franca_b")
    assert entries[hub.url + CAPI] == {"files": {"capi_vitl14_lvd.pth": digest(content)}}
    assert len(entries) == 3, "the RASA head of Franca is a file of its own"
    for _ in range(2):
        assert locked(LOAD_CAPI, hub, tmp_path) == ("64", "")
    # On another machine the publisher has another file by now: it is not even kept.
    hub.plain[CAPI] = pickled({"backbone.other": torch.zeros(1)})
    for home in ("new", "newer"):
        (tmp_path / home).mkdir()
        _, error = run(LOAD_CAPI, hub, tmp_path / home, NAF_HUB_LOCK=str(tmp_path / "l"))
        assert "naf-hub pin small_capi_l14 --update -o" in error
        assert not list((tmp_path / home).rglob("*.pth"))
    # A conversion made of other bytes does not count.
    lock = json.loads((tmp_path / "l").read_text())
    lock["sources"][hub.url + CAPI]["files"]["capi_vitl14_lvd.pth"]["sha256"] = "0" * 64
    (tmp_path / "l").write_text(json.dumps(lock))
    assert "expected 0000000000000000" in locked(LOAD_CAPI, hub, tmp_path)[1]


def entry(name: str = "model.safetensors", **changes: object) -> str:
    """A lock file of one file."""
    file = {"size": 1, "sha256": "0" * 64, **changes}
    return json.dumps({"format": 1, "sources": {"hf://a/b": {"commit": COMMIT, "files": {name: file}}}})


WRONG: list[dict] = [{"name": name} for name in ("/etc/passwd", "..\\x", "C:x", "a/../b", "a//b", "a\nb", "")]
WRONG += [{"sha256": None}, {"sha256": "0"}, {"size": None}, {"size": "1"}, {"size": 1.5}]


def test_names_in_lock_files_mean_the_same_on_every_system(tmp_path):
    (tmp_path / "l").write_text(entry("sub/model-1.safetensors"))
    (found,) = read_lock(tmp_path / "l").entries.values()
    assert list(found.files) == ["sub/model-1.safetensors"]
    (tmp_path / "x").touch()
    for name in ("sub\\x", "C:x", str(tmp_path / "x")):
        with pytest.raises(naf_hub.WeightsError, match="not every system has such files"):
            Entry.of("https://a.b/x", LocalFile(tmp_path / "x", name=name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no lock file .*; write it with: naf-hub pin NAME -o "),
        ("{", "not a readable lock file"),
        ("[]", "not a readable lock file"),
        ('{"format": 1, "sources": {"hf://a/b": {"files": {}}}}', "not a readable lock file"),
        ('{"format": 9, "sources": {}}', "written by a newer naf-hub"),
        ('{"format": "1", "sources": {}}', "not a readable lock file"),
        ('{"format": 1, "sources": ' + "[" * 9999, "not a readable lock file"),
        *((entry(**wrong), "not a readable lock file") for wrong in WRONG),
    ],
)
def test_a_missing_or_broken_lock_file_is_told_in_one_line(tmp_path, monkeypatch, content, message):
    if content is not None:
        (tmp_path / "l").write_text(content)
    monkeypatch.setenv("NAF_HUB_LOCK", str(tmp_path / "l"))
    with pytest.raises(naf_hub.WeightsError, match=message) as caught:
        naf_hub.load("naf")
    assert "\n" not in str(caught.value)
    result = CliRunner().invoke(cli, ["info", "dinov3_b"])
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1


def test_the_command_and_info(tmp_path, monkeypatch):
    out = tmp_path / "naf-hub.lock"
    result = CliRunner().invoke(cli, ["pin", "naf", "pico", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert f"NAF_HUB_LOCK={out}" in result.output
    assert list(read_lock(out).entries) == sorted(read_lock(out).entries)
    before = out.read_bytes()
    again = CliRunner().invoke(cli, ["pin", "naf", "--json", "-o", str(out)])
    assert json.loads(again.output)["sources"] == {"package://naf_hub_naf/weights/default": "kept"}
    assert out.read_bytes() == before
    for target, message in (
        ("naf=nothing", "no weights 'nothing' to pin"),
        ("naf_plus_plus", "named sets: none"),
    ):
        refused = CliRunner().invoke(cli, ["pin", target, "-o", str(out)])
        assert refused.exit_code == 1
        assert message in refused.output
    assert out.read_bytes() == before
    source = naf_hub.info("dinov3_b").weights["default"].source
    data = json.loads(before)
    data["sources"][source.removesuffix("/model.safetensors")] = {
        "commit": COMMIT, "files": {"model.safetensors": {"size": 1, "sha256": "0" * 64}}
    }  # fmt: skip
    out.write_text(json.dumps(data))
    assert "not pinned" in CliRunner().invoke(cli, ["info", "dinov3_b"]).output
    monkeypatch.setenv("NAF_HUB_LOCK", str(out))
    assert binding_lock() == read_lock(out)
    assert COMMIT in CliRunner().invoke(cli, ["info", "dinov3_b"]).output
    shown = " ".join(CliRunner().invoke(cli, ["info", "mae_b"]).output.split())
    assert "run: naf-hub pin mae_b" in shown
