"""Publishing, proved against a hub on loopback by the real client: what goes up comes back, or nothing goes up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hub_server import serve
from hub_uploads import UploadHub
from huggingface_hub import ModelCard, constants
from ready_python import run_python
from safetensors.torch import load_file

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.publishing.cards import base_models, complete_card, local_paths, missing_facts
from naf_hub.weights.files import save_weights
from naf_hub_reconstruction.card import model_card
from naf_hub_reconstruction.config import TrainConfig

SMALL = {"dim": 32, "num_blocks": 1, "kernel_size": 3}
REPO = "me/naf-small"
OWNER = REPO.split("/")[0]
SETTINGS = {
    "upsampler": "naf",
    "upsampler_options": SMALL,
    "backbone": ("dinov2_reg_s",),
    "images": ("photos/train",),
}
SUMMARY: dict[str, Any] = {
    "steps": 40, "images": 12, "skipped": ["a.jpg"], "seconds": 312.4, "device": "cpu",
    "processes": 1,
    "held_out": {
        "dinov2_reg_s": {"images": 5, "mse": 0.8, "bilinear_mse": 1.0, "ratio_to_bilinear": 0.8, "cosine": 0.9}
    },
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with serve(UploadHub) as server:
        for name, value in (
            ("ENDPOINT", server.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True),
        ):  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        bars = sys.modules["huggingface_hub.utils.tqdm"]  # the package has a class of that name
        monkeypatch.setattr(bars, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def write_run(run: Path, seed: int = 3, **state: torch.Tensor) -> Path:
    """A run folder as training leaves it."""
    torch.manual_seed(seed)
    tensors = {**naf_hub.load("naf", weights=None, **SMALL).state_dict(), **state}
    config = TrainConfig(**SETTINGS)
    provenance = {**SUMMARY, "backbones": ["dinov2_reg_s"], "config": config.to_dict()}
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_weights(
        run / "weights", tensors, name="naf", options=SMALL, provenance=provenance, card=model_card(config, SUMMARY)
    )  # fmt: skip
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def publish(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["publish", *map(str, arguments)])


def sent(hub: UploadHub) -> list[str]:
    return hub.requests("POST") + hub.requests("PUT")


def elsewhere(
    hub: UploadHub, home: Path, *command: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as a user has it."""
    variables = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return run_python(*command, environment={**os.environ, **variables, **environment})


RESTORER = """
import torch
from naf_hub import Restorer, RestorerRecord, hookimpl

class Gain(Restorer):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def restore(self, image):
        return image * self.gain

@hookimpl
def register_restorers(register):
    register(RestorerRecord(name="gain", summary="Multiplies.", target="gain_naf:Gain"))
"""

LOAD = """
import sys, naf_hub
from safetensors.torch import save_file
for number, address in enumerate(sys.argv[2:]):
    model = naf_hub.load("naf", weights=address)
    save_file(model.state_dict(), f"{sys.argv[1]}/{number}.safetensors")
"""


def load_back(
    hub: UploadHub, home: Path, *addresses: str, **environment: str
) -> list[dict[str, torch.Tensor]]:
    home.mkdir(exist_ok=True)
    process = elsewhere(hub, home, "-c", LOAD, str(home), *addresses, **environment)
    assert process.returncode == 0, process.stderr
    return [load_file(home / f"{number}.safetensors") for number in range(len(addresses))]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_goes_up_comes_back_bit_for_bit(hub, run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = elsewhere(hub, tmp_path / "home", "-m", "naf_hub", "publish", str(run), REPO, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    files = hub.uploaded[REPO].files()
    for name in ("config.json", "model.safetensors"):
        assert files[name] == (run / "weights" / name).read_bytes()
    assert files["README.md"].decode() == report["card"]
    assert list(hub.lfs.values()) == [files["model.safetensors"]]
    assert report["commit"] == hub.uploaded[REPO].at("main")
    mine = load_file(run / "weights" / "model.safetensors")
    found = load_back(
        hub, tmp_path / "other", report["address"], report["pinned"], f"{report['address']}@main"
    )
    assert len(found) == 3
    assert all(same(mine, state) for state in found)


def test_weights_of_every_kind_go_up_and_come_back(hub, tmp_path, install_plugin):
    install_plugin("gain-naf", RESTORER)
    states = {"gain": {"gain": torch.tensor(2.5)}, "pico": naf_hub.load_backbone("pico").state_dict()}
    loaders = {"gain": "load_restorer", "pico": "load_backbone"}
    for name, state in states.items():
        folder = save_weights(tmp_path / name, state, name=name, options={})
        result = publish(folder, f"{OWNER}/{name}", "--json")
        assert result.exit_code == 0, result.output
        assert f'naf_hub.{loaders[name]}("{name}", weights="hf://{OWNER}/{name}")' in result.stdout.replace(
            '\\"', '"'
        )
        code = f"import torch, naf_hub; m = naf_hub.{loaders[name]}({name!r}, weights='hf://{OWNER}/{name}')"
        code += f"; torch.save(m.state_dict(), {str(tmp_path / 'back.pt')!r})"
        path = os.pathsep.join([str(tmp_path / "gain-naf"), *filter(None, sys.path)])
        done = elsewhere(hub, tmp_path / f"home-{name}", "-c", code, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
        assert same(torch.load(tmp_path / "back.pt", weights_only=True), state)


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "sample.png", "model.safetensors", "notes"])
def test_a_link_out_of_the_folder_is_not_followed(hub, run, tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_text("private key")
    (run / "weights" / name).unlink(missing_ok=True)
    (run / "weights" / name).symlink_to(secret)
    result = publish(run, REPO)
    assert result.exit_code == 1
    assert f"{name} is a link that leads to" in result.output
    assert not sent(hub)


def test_a_snapshot_of_the_cache_and_links_within_may_be_published(hub, run, tmp_path):
    cache = tmp_path / "models--me--x"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for path in (run / "weights").iterdir():
        path.rename(cache / "blobs" / path.name)
        (snapshot / path.name).symlink_to(cache / "blobs" / path.name)
    (snapshot / "LICENSE.txt").symlink_to(snapshot / "config.json")
    assert publish(snapshot, REPO, "--dry-run").exit_code == 0


def test_publishing_again_updates_and_old_commits_stay(hub, run, tmp_path):
    first = json.loads(publish(run, REPO, "--json").stdout)
    write_run(run, seed=4)
    second = json.loads(publish(run / "weights", REPO, "--json", "--message", "better").stdout)
    assert second["commit"] != first["commit"]
    assert hub.uploaded[REPO].messages[-1] == "better"
    old, new = load_back(hub, tmp_path / "home", first["pinned"], second["address"])
    assert not same(old, new)
    assert same(new, load_file(run / "weights" / "model.safetensors"))
    third = publish(run, REPO, "--json")
    assert third.exit_code == 0
    assert json.loads(third.stdout)["commit"] == second["commit"], "a commit without a change"


def test_a_branch_is_made_and_loads_by_name(hub, run, tmp_path):
    assert publish(run, REPO).exit_code == 0
    write_run(run, seed=4)
    for _ in range(2):  # the second time it exists
        report = json.loads(publish(run, REPO, "--revision", "v2-wide", "--json").stdout)
    assert report["address"] == f"hf://{REPO}@v2-wide"
    assert f'weights="hf://{REPO}@v2-wide"' in report["card"]
    main, branch = load_back(hub, tmp_path / "home", f"hf://{REPO}", report["address"])
    assert same(branch, load_file(run / "weights" / "model.safetensors"))
    assert not same(main, branch)


def test_a_private_repository_needs_the_token_to_load(hub, run, tmp_path):
    assert publish(run, REPO, "--private").exit_code == 0
    assert hub.uploaded[REPO].private
    (state,) = load_back(hub, tmp_path / "home", f"hf://{REPO}")
    assert same(state, load_file(run / "weights" / "model.safetensors"))
    refused = elsewhere(hub, tmp_path / "h2", "-c", LOAD, str(tmp_path), f"hf://{REPO}", HF_TOKEN="")
    assert "no repository" in refused.stderr


def test_private_never_goes_to_a_public_repository(hub, run):
    publish(run, REPO)
    commits = len(hub.uploaded[REPO].commits)
    write_run(run, seed=4)
    result = publish(run, REPO, "--private")
    assert_failed(result, "exists and is public")
    assert len(hub.uploaded[REPO].commits) == commits


def test_without_lfs_and_with_a_token_on_the_command_line(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.use_lfs = False
    result = publish(run, REPO, "--token", "hf_good")
    assert result.exit_code == 0, result.output
    assert "hf_good" not in result.output
    assert f"published {hub.url}/{REPO}/tree/main" in result.output
    assert hub.uploaded[REPO].files()["model.safetensors"] == (run / "weights/model.safetensors").read_bytes()


def test_a_dry_run_sends_nothing_and_needs_no_token(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    result = publish(run, REPO, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert hub.log == []
    assert "commit" not in report
    text = publish(run, REPO, "--dry-run").output
    assert report["card"] in text
    assert "nothing was sent" in text
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    publish(run, REPO)
    files = hub.uploaded[REPO].files()
    assert {f["path"]: f["size"] for f in report["files"]} == {
        name: len(data) for name, data in files.items() if name != ".gitattributes"
    }


def test_only_what_belongs_to_the_weights_goes_up(hub, run):
    weights = run / "weights"
    for name in ("notes.txt", ".env", "preview.png", "LICENSE"):
        (weights / name).write_text(name)
    (weights / "cache").mkdir()
    report = json.loads(publish(run, REPO, "--json").stdout)
    assert report["left_out"] == [".env", "cache", "notes.txt"]
    wanted = {".gitattributes", "README.md", "LICENSE", "config.json", "model.safetensors", "preview.png"}
    assert set(hub.uploaded[REPO].files()) == wanted


# --- the card --------------------------------------------------------------------------------------------


def test_the_card_says_everything(hub, run):
    result = publish(run, REPO, "--license", "CC-BY-NC-4.0", "--dataset", "me/photos")
    assert result.exit_code == 0, result.output
    text = hub.uploaded[REPO].files()["README.md"].decode()
    data: Any = ModelCard(text).data
    assert (data.license, data.library_name, data.datasets) == ("cc-by-nc-4.0", "naf-hub", ["me/photos"])
    assert data.base_model == "timm/vit_small_patch14_reg4_dinov2.lvd142m"
    assert {"feature-upsampling", "naf"} <= set(data.tags)
    assert f'naf_hub.load("naf", weights="hf://{REPO}")' in text
    assert "path/of/this/folder" not in text
    for words in (
        "12 images of `photos/train`, 1 of which were skipped", "40 steps of 4 crops in 312 seconds (5 minutes)",
        "lr = 0.0002", "weight_decay = 1e-05", f"torch {torch.__version__}", " cores", "| 0.80000 | **0.800** |",
        "arxiv.org/abs/2511.18452", f"naf-hub {naf_hub.__version__}", "sha256",
    ):  # fmt: skip
        assert words in text, words
    assert missing_facts(text) == []


def test_the_published_card_can_be_published_elsewhere(hub, run):
    first = json.loads(publish(run, REPO, "--license", "mit", "--json").stdout)["card"]
    (run / "weights" / "README.md").write_text(first)
    second = json.loads(publish(run, "me/copy", "--json").stdout)["card"]
    assert second == first.replace(REPO, "me/copy")  # the licence stayed, nothing was doubled


def test_a_card_of_ones_own_stays_and_gets_what_is_missing():
    record = naf_hub.info("naf")
    config = {"size": 1000, "sha256": "ab", "naf_hub_version": "0.1.0"}
    own = (
        '# Mine\n\nBlue.\n\n```python\nnaf_hub.load("naf", weights="official")\n```\n\n## Thanks\n\nMother.\n'
    )
    card = complete_card(own, config, record, "hf://me/x")  # pyright: ignore[reportArgumentType]
    for words in (
        "# Mine\n\nBlue.",
        'weights="official"',
        "Mother.",
        'weights="hf://me/x"',
        "license: apache-2.0",
    ):
        assert words in card
    assert "the hardware" in missing_facts(card)
    assert card == complete_card(card, config, record, "hf://me/x")  # pyright: ignore[reportArgumentType]


def test_without_a_card_the_provenance_is_told(hub, run):
    (run / "weights" / "README.md").unlink()
    result = publish(run, REPO)
    assert result.exit_code == 0, result.output
    text = hub.uploaded[REPO].files()["README.md"].decode()
    assert '"ratio_to_bilinear": 0.8' in text
    assert f'weights="hf://{REPO}"' in text


def test_gaps_and_local_paths_are_pointed_out(hub, run):
    path = run / "weights" / "config.json"
    config = json.loads(path.read_text())
    config["provenance"]["config"]["images"] = ["/home/jo/photos"]
    path.write_text(json.dumps(config))
    (run / "weights" / "README.md").write_text("# naf\n")
    result = publish(run, REPO)
    assert result.exit_code == 0, result.output
    assert "says nothing of the data, the recipe, the hardware" in result.stderr
    assert "/home/jo/photos" in result.stderr


@pytest.mark.parametrize(
    ("backbones", "expected"),
    [
        (["pico"], []),
        (["gone_b"], []),
        ("no list", []),
        (["dinov2_reg_s=local/folder"], []),
        (["pico=hf://you/pico@v1"], ["you/pico"]),
        (["pico=hf://you/pico", "gone_b"], ["you/pico"]),
        (["pico", "dinov2_reg_s"], ["timm/vit_small_patch14_reg4_dinov2.lvd142m"]),
    ],
)
def test_base_models(backbones, expected):
    assert base_models({"provenance": {"first": {"anything": {"backbones": backbones}}}}) == expected


def test_local_paths():
    data = {
        "a": ["/x", {"b": "~/y"}],
        "c": "C:\\z",
        "d": "here/w",
        "e": 3,
        "f": "pico=/w/best",
        "g": "pico=hf://a/b",
    }
    assert local_paths(data) == ["/x", "~/y", "C:\\z", "pico=/w/best"]


# --- refusals --------------------------------------------------------------------------------------------


def assert_failed(result: Result, *messages: str, status: int = 1) -> None:
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    for message in messages:
        assert message in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("Usage:", "Try ")) and line]
    assert len(lines) == 1, result.stderr
    assert "hf_" not in result.stderr, "a token was printed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", REPO], "does not exist"),
        (["run/weights/config.json", REPO], "is a file"),
        (["run", "naf"], "is not owner/name"),
        (["run", "a/b/c"], "is not owner/name"),
        (["run", "hf://me/x"], "is not owner/name"),
        (["run", "me/x y"], "is not owner/name"),
        (["run", "me/a--b"], "no name of a repository"),
        (["run", "me/x.git"], "no name of a repository"),
        (["run", REPO, "--revision", "a/b"], "no name of a branch"),
        (["run", REPO, "--license", "my own!"], "no licence identifier"),
        (["run"], "Missing argument"),
    ],
)
def test_bad_usage(hub, run, monkeypatch, arguments, message):
    monkeypatch.chdir(run.parent)
    assert_failed(publish(*arguments), message, status=2)
    assert hub.log == []


def without(name: str):
    return lambda run: (run / "weights" / name).unlink()


def rewritten(**changes: Any):
    def spoil(run: Path) -> None:
        path = run / "weights" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def corrupted(run: Path) -> None:
    path = run / "weights" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


def truncated(run: Path) -> None:
    path = run / "weights" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(run: Path) -> None:
    without("model.safetensors")(run)
    torch.save({}, run / "weights" / "model.pth")


def unfinished(run: Path) -> None:
    for path in (run / "weights").iterdir():
        path.unlink()


def only_a_pickle(run: Path) -> None:
    unfinished(run)
    (run / "checkpoints").rmdir()
    torch.save({}, run / "last.ckpt")


def nan(run: Path) -> None:
    key, value = next((k, v) for k, v in load_file(run / "weights/model.safetensors").items() if v.ndim > 1)
    write_run(run, **{key: torch.full_like(value, float("nan"))})


def other_keys(run: Path) -> None:
    write_run(run, extra=torch.zeros(3))


def bad_front_matter(run: Path) -> None:
    (run / "weights" / "README.md").write_text("---\nlicense: [mit\n---\n# x\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("model.safetensors"), "there is no model.safetensors"),
        (without("config.json"), "config.json is missing or not naf-hub's"),
        (unfinished, "has no weights/ yet"),
        (only_a_pickle, "naf-hub convert"),
        (pickled, "is a pickle, and only safetensors are published"),
        (corrupted, "damaged or replaced"),
        (truncated, "truncated or replaced"),
        (nan, "contains NaN or infinite values"),
        (other_keys, "do not fit this model: unexpected extra"),
        (rewritten(name="nafff"), "did you mean naf"),
        (rewritten(name="pico"), "pico"),
        (rewritten(options={"dim": 64}), "do not fit this model"),
        (rewritten(options={"colour": 1}), "no naf can be built with these options"),
        (bad_front_matter, "cannot be read"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bad_folder_is_told_in_one_line_and_nothing_is_sent(hub, run, spoil, message):
    spoil(run)
    assert_failed(publish(run, REPO), message)
    assert hub.log == []


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        ("", REPO, "no access token: log in with `hf auth login`"),
        ("hf_wrong", REPO, "does not accept the token (401)"),
        ("hf_other", REPO, "the token may not write there (403)"),
        ("hf_good", "you/naf", "you are or belong to (here 'you')"),
    ],
)
def test_tokens_that_do_not_do(hub, run, monkeypatch, token, repo, message):
    monkeypatch.setenv("HF_TOKEN", token)
    assert_failed(publish(run, repo), message)
    assert hub.uploaded == {}
    assert hub.lfs == {}


def test_a_token_that_may_read_but_not_write(hub, run, monkeypatch):
    publish(run, REPO)
    commits = list(hub.uploaded[REPO].commits)
    write_run(run, seed=4)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert_failed(publish(run, REPO), "may not write there (403)")
    assert list(hub.uploaded[REPO].commits) == commits


def test_offline_is_told(hub, run, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_failed(publish(run, REPO), "HF_HUB_OFFLINE is set")
    assert hub.log == []


def test_an_unreachable_hub_is_told_within_fifteen_seconds(hub, run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    assert_failed(
        publish(run, REPO), "cannot reach http://127.0.0.1:9", f"then run: naf-hub publish {run} {REPO}"
    )
    assert time.monotonic() - began < 15


def test_a_licence_the_hub_does_not_know(hub, run):
    assert_failed(publish(run, REPO, "--license", "beerware"), "the Hub refused the card", "beerware")
    assert set(hub.uploaded[REPO].files()) == {".gitattributes"}


def test_a_connection_that_drops_leaves_the_repository_whole(hub, run):
    publish(run, REPO)
    before = hub.uploaded[REPO].files()
    write_run(run, seed=4)
    hub.cut[f"/api/models/{REPO}/commit/main"] = 1
    assert_failed(publish(run, REPO), "the connection to", "publish again")
    assert hub.uploaded[REPO].files() == before
    assert publish(run, REPO).exit_code == 0
    assert hub.uploaded[REPO].files() != before


def test_an_upload_that_drops_once_is_sent_again(hub, run):
    oid = json.loads((run / "weights" / "config.json").read_text())["sha256"]
    hub.cut[f"/lfs/{oid}"] = 1
    result = publish(run, REPO)
    assert result.exit_code == 0, result.output
    assert hub.requests("PUT") == [f"/lfs/{oid}"] * 2


@pytest.mark.parametrize(
    ("status", "message"), [(500, "the Hub answered 500"), (429, "fewer requests"), (412, "412")]
)
def test_a_hub_that_fails_at_the_commit(hub, run, status, message):
    hub.broken[f"/api/models/{REPO}/commit/main"] = [status]
    assert_failed(publish(run, REPO), message)
    assert set(hub.uploaded[REPO].files()) == {".gitattributes"}


def test_files_that_the_repository_ignores_are_missed(hub, run):
    hub.ignored.add("model.safetensors")
    assert_failed(publish(run, REPO), "lacks model.safetensors", ".gitignore")


def test_help_and_import_without_torch():
    code = (
        "import sys; from naf_hub.commands.main import cli; cli(['publish', '--help'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"publish \[OPTIONS\] DIR OWNER/NAME", done.stdout)
