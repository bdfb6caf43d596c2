"""Weights: named sets, paths, checksums, and everything that can be wrong with a file."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

import naf_hub
from naf_hub import registry
from naf_hub.commands.main import cli
from naf_hub.errors import WeightsChoiceError, as_typed
from naf_hub.image_files import RUN_MARKER
from naf_hub.publishing.publishable import weights_folder
from naf_hub.weights.checksums import LocalFile
from naf_hub.weights.convert import convert
from naf_hub.weights.files import read_state_dict, save_weights
from naf_hub.weights.pickles import read_pickle

SMALL = {"dim": 32, "num_blocks": 1, "kernel_size": 3}


@pytest.fixture
def small() -> torch.nn.Module:
    torch.manual_seed(1)
    return naf_hub.load("naf", weights=None, **SMALL)


@pytest.fixture
def folder(tmp_path: Path, small) -> Path:
    return save_weights(
        tmp_path / "w", small, name="naf", options=SMALL, provenance={"why": "test"}, card="# card\n"
    )


def test_folder_round_trip(folder: Path, small):
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    for weights in (folder, str(folder), folder / "model.safetensors"):
        loaded = naf_hub.load("naf", weights=weights)
        assert not loaded.training
        assert all(torch.equal(v, small.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_a_lone_file_loads_with_the_options_given(tmp_path: Path, small):
    save_file(small.state_dict(), tmp_path / "any.safetensors")
    loaded = naf_hub.load("naf", weights=tmp_path / "any.safetensors", **SMALL)
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_shipped_defaults_load_and_differ_from_random():
    torch.manual_seed(0)
    random_weights = naf_hub.load("naf", weights=None).state_dict()
    default = naf_hub.load("naf").state_dict()
    key = "image_encoder.sem_encoder.1.conv1.weight"
    assert not torch.equal(default[key], random_weights[key])


def test_no_default_weights_must_be_asked_for():
    with pytest.raises(naf_hub.WeightsError, match=r"no default weights.*weights=None"):
        naf_hub.load("naf_plus_plus")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--upsampler", "jafar"], "jafar has no weights for backbone 'pico'; it has them for: "),
        (["--upsampler", "carafe"], "carafe has no named weights for any backbone; "),
        (["--upsampler", "naf=nosuch"], "naf has no weights 'nosuch' (named sets: "),
        (
            ["--upsampler", "bilinear", "--backbone", "pico=nosuch"],
            "pico has no weights 'nosuch' (named sets: ",
        ),
    ],
)
def test_a_command_says_how_weights_are_written_there(tmp_path: Path, arguments, said):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    photo, out = str(tmp_path / "x.png"), str(tmp_path / "out")
    result = CliRunner().invoke(cli, ["upsample", photo, "-o", out, *arguments])
    name = said.split(" ")[0]
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith(f"naf-hub: {said}")
    assert (
        f"write {name}=WEIGHTS (a named set, a path or hf://owner/repo), or {name}=none for" in result.output
    )
    assert "weights=" not in result.output


def test_what_a_failing_contender_says_is_written_as_commands_write_it():
    result = CliRunner().invoke(cli, ["bench", "naf=nosuch", "--features", "8,2,2", "--size", "4"])
    assert "naf=none for random" in result.output
    assert "weights=" not in result.output


def test_a_choice_of_weights_that_fails_is_sent_between_processes():
    error = pickle.loads(pickle.dumps(WeightsChoiceError("naf is without", "naf", "name the backbone")))
    assert str(error) == (
        "naf is without; name the backbone, or pass weights= (a named set, a path or hf://owner/repo), "
        "or weights=None for random initialisation"
    )
    assert as_typed(error) == (
        "naf is without; name the backbone, or write naf=WEIGHTS (a named set, a path or hf://owner/repo), "
        "or naf=none for random initialisation"
    )
    assert as_typed(ValueError("x")) == "x"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nothing/here", r"named sets: .*default"),
        ("../../no-such-etc", "no such file or folder"),
        ("hf://only-one-part", "is not hf://"),
        ("hf://a/../b", "is not hf://"),
    ],
)
def test_missing_weights(weights, message):
    with pytest.raises(naf_hub.WeightsError, match=message):
        naf_hub.load("naf", weights=weights)


def test_a_folder_without_weights_says_what_it_is(folder: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()

    def refused() -> str:
        with pytest.raises(naf_hub.WeightsError) as error:
            naf_hub.load("naf", weights=run)
        return str(error.value).removeprefix(f"naf weights '{run}': ")

    assert refused() == (
        f"{run} is a folder without model.safetensors; give a folder that has it, or a .safetensors file"
    )
    (run / RUN_MARKER).touch()
    assert refused() == f"{run} is a training run that has kept no weights so far"
    for name, ways in (("weights", run / "weights"), ("best", f"{run / 'best'} or {run / 'weights'}")):
        shutil.copytree(folder, run / name)
        assert refused() == f"{run} is a training run; give {ways}"
    naf_hub.load("naf", weights=run / "best")


def spoil(path: Path, edit) -> None:
    data = bytearray(path.read_bytes())
    path.write_bytes(edit(data))


def flip(data: bytearray, at: int) -> bytearray:
    data[at] ^= 0x10
    return data


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d[: len(d) // 2], "truncated"),
        (lambda d: flip(d, len(d) - 5), "sha256"),
        (lambda d: flip(d, 20), "sha256"),
        (lambda d: d + b"more", "truncated or replaced"),
    ],
)
def test_damaged_files_are_noticed(folder: Path, edit, message):
    spoil(folder / "model.safetensors", edit)
    with pytest.raises(naf_hub.WeightsError, match=message):
        naf_hub.load("naf", weights=folder)


def test_mutants_never_end_in_another_error(folder: Path, tmp_path: Path):
    whole = (folder / "model.safetensors").read_bytes()
    draw = random.Random(0)
    file = tmp_path / "mutant.safetensors"
    accepted = 0
    for i in range(400):
        data = bytearray(whole)
        kind = draw.random()
        if kind < 0.3:
            data = data[: draw.randrange(len(data))]
        elif kind < 0.7:
            data[draw.randrange(2000)] = draw.randrange(256)
        elif kind < 0.9:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        else:
            data += bytes(draw.randrange(256) for _ in range(draw.randrange(1, 64)))
        file.write_bytes(data)
        try:
            naf_hub.load("naf", weights=file, **SMALL)
            accepted += 1
        except naf_hub.WeightsError as error:
            assert "\n" not in str(error), i
    # Without a config.json there is no checksum: a flipped bit in the data can only be noticed as NaN.
    assert accepted > 0


def test_header_that_lies_about_its_size(tmp_path: Path):
    (tmp_path / "a.safetensors").write_bytes((10**12).to_bytes(8, "little") + b"{}")
    with pytest.raises(naf_hub.WeightsError, match="not a valid safetensors"):
        read_state_dict(tmp_path / "a.safetensors")


def altered(small, change) -> dict[str, torch.Tensor]:
    state = {k: v.clone() for k, v in small.state_dict().items()}
    change(state)
    return state


KEY = "image_encoder.encoder.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(KEY), f"missing {KEY}"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            lambda s: s.update({KEY: torch.zeros(2, 3, 1, 1)}),
            r"shape \(2, 3, 1, 1\), expected \(16, 3, 1, 1\)",
        ),
        (lambda s: s[KEY].fill_(float("nan")), f"{KEY} contains NaN"),
        (lambda s: s[KEY].view(-1)[3].fill_(float("inf")), f"{KEY} contains NaN or inf"),
    ],
)
def test_weights_that_do_not_fit_are_told_by_key(tmp_path: Path, small, change, message):
    save_weights(tmp_path / "w", altered(small, change), name="naf", options=SMALL)
    with pytest.raises(naf_hub.WeightsError, match=message):
        naf_hub.load("naf", weights=tmp_path / "w")


def test_weights_of_another_model(folder: Path):
    with pytest.raises(naf_hub.WeightsError, match=r"weights of 'naf', not of 'jbu'"):
        naf_hub.load("jbu", weights=folder)


def test_newer_format_asks_for_an_upgrade(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(naf_hub.WeightsError, match="upgrade"):
        naf_hub.load("naf", weights=folder)


def test_unreadable_config(folder: Path):
    (folder / "config.json").write_text("{")
    with pytest.raises(naf_hub.WeightsError, match="not a readable JSON"):
        naf_hub.load("naf", weights=folder)


class Touch:
    """Unpickling this creates a file: what a malicious checkpoint would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_and_run_nothing(tmp_path: Path, suffix, zipped):
    file, evidence = tmp_path / f"evil{suffix}", tmp_path / "evidence"
    torch.save({"state_dict": {"a": Touch(evidence)}}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(naf_hub.WeightsError, match="pickle"):
        naf_hub.load("naf", weights=file)
    with pytest.raises(naf_hub.WeightsError, match="refused"):
        convert(file, tmp_path / "out", "naf")
    assert not evidence.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrap", "keys"),
    [
        (lambda s: s, None),
        (lambda s: {"state_dict": s, "epoch": 3}, ["state_dict"]),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, None),
    ],
)
def test_convert_keeps_every_bit(tmp_path: Path, small, wrap, keys):
    torch.save(wrap(small.state_dict()), tmp_path / "a.pth")
    out = convert(tmp_path / "a.pth", tmp_path / "out", "naf", SMALL, keys=keys)
    written = load_file(out / "model.safetensors")
    assert all(torch.equal(written[k], v) for k, v in small.state_dict().items())
    assert naf_hub.load("naf", weights=out).kernel_size == 3  # pyright: ignore


def test_convert_picks_the_tensors_out_of_training_state(tmp_path: Path, small):
    state = small.state_dict()
    checkpoint = {
        "args": argparse.Namespace(lr=1e-3, layers=[1, 2]),
        "model": {"teacher": {f"module.{k}": v for k, v in state.items()} | {"step": 3}, "ema": 0.9},
        "best": np.float64(0.7),
        "seed": np.int64(4),
        "scaler": torch.ones(1),
    }
    torch.save(checkpoint, tmp_path / "a.pth")
    torch.save(checkpoint, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("a", "old"):
        for missing, message in (
            (["model", "student"], r"there is no 'student' under 'model'; there is: teacher, ema"),
            (["teacher"], r"there is no 'teacher'; there is: args, model, best, seed, scaler"),
        ):
            with pytest.raises(naf_hub.WeightsError, match=message):
                convert(tmp_path / f"{name}.pth", tmp_path / name, "naf", SMALL, keys=missing)
        for keys in (["model", "teacher"], None):
            out = convert(tmp_path / f"{name}.pth", tmp_path / name, "naf", SMALL, keys=keys, force=True)
            written = load_file(out / "model.safetensors")
            assert written.keys() == state.keys()
            assert all(torch.equal(written[k], v) for k, v in state.items())


@pytest.mark.parametrize("start", ["module", "model._orig_mod", "net", "a.b.c"])
@pytest.mark.parametrize("beside", [{}, {"loss.center": torch.ones(3), "net.head.bias": torch.ones(2)}])
def test_any_beginning_of_names_is_dropped(tmp_path: Path, small, caplog, start, beside):
    if beside and start == "net":
        beside = {"loss.center": torch.ones(3)}
    state = {f"{start}.{key}": value for key, value in small.state_dict().items()}
    torch.save({"state_dict": {**beside, **state}, "epoch": 3}, tmp_path / "a.pth")
    out = convert(tmp_path / "a.pth", tmp_path / "out", "naf", SMALL)
    assert load_file(out / "model.safetensors").keys() == small.state_dict().keys()
    told = [record.getMessage() for record in caplog.records]
    assert told == [] if not beside else f"left out {len(beside)} tensors" in told[0]
    assert all("loss.center" in line for line in told)


@pytest.mark.parametrize("flat", [False, True])
def test_of_several_that_fit_the_first_is_taken_and_the_others_are_told(tmp_path: Path, small, caplog, flat):
    halves = {"model": small.state_dict(), "model_ema": {k: v / 2 for k, v in small.state_dict().items()}}
    if flat:
        halves = {f"{half}.{key}": value for half, state in halves.items() for key, value in state.items()}
    torch.save(halves, tmp_path / "a.pth")
    key = next(iter(small.state_dict()))
    first = convert(tmp_path / "a.pth", tmp_path / "first", "naf", SMALL)
    assert torch.equal(load_file(first / "model.safetensors")[key], small.state_dict()[key])
    told = next(r.getMessage() for r in caplog.records if "took" in r.getMessage())
    assert "took model; to take another: --key model_ema" in told
    options = [part for name, value in SMALL.items() for part in ("--option", f"{name}={value}")]
    again = [
        *shlex.split(told.rpartition(": ")[2]),
        "-o",
        str(tmp_path / "second"),
        "--name",
        "naf",
        *options,
    ]
    assert CliRunner().invoke(cli, ["convert", str(tmp_path / "a.pth"), *again]).exit_code == 0
    second = load_file(tmp_path / "second" / "model.safetensors")
    assert torch.equal(second[key], small.state_dict()[key] / 2)


def test_what_does_not_fit_is_shown(tmp_path: Path, small):
    torch.save({f"x{key}": value for key, value in small.state_dict().items()}, tmp_path / "a.pth")
    with pytest.raises(naf_hub.WeightsError) as caught:
        convert(tmp_path / "a.pth", tmp_path / "out", "naf", SMALL)
    text, count = str(caught.value), len(small.state_dict())
    assert f"naf expects {count} tensors, {count} of which are not there (image_encoder." in text
    assert f"found {count}, {count} of which it does not expect (ximage_encoder." in text
    assert "\n" not in text


def test_the_tensors_say_whose_they_are(tmp_path: Path, small, few_plugins, install_plugin):
    for name, (model, options) in {
        "naf": (small, SMALL),
        "pico": (naf_hub.load_backbone("pico"), {}),
    }.items():
        torch.save({"model": model.state_dict()}, tmp_path / f"{name}.pth")
        config = convert(tmp_path / f"{name}.pth", tmp_path / name, options=options) / "config.json"
        assert json.loads(config.read_text())["name"] == name
    with pytest.raises(
        naf_hub.WeightsError, match=r"has shape.*\(--option\); the names .*fit those of naf\b"
    ):
        convert(tmp_path / "naf.pth", tmp_path / "out", options={**SMALL, "dim": 64})
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(naf_hub.WeightsError, match=r"1 tensors \(weight\) are those of no registered model"):
        convert(tmp_path / "other.pth", tmp_path / "out")
    install_plugin(
        "twin-naf",
        "from naf_hub import UpsamplerRecord, hookimpl\n@hookimpl\ndef register_upsamplers(register):\n"
        "    register(UpsamplerRecord(name='twin', summary='s', target='naf_hub_naf.model:NAF'))",
    )
    with pytest.raises(naf_hub.WeightsError, match="fits 2 models; say which, by --name: naf, twin"):
        convert(tmp_path / "naf.pth", tmp_path / "out", options=SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"a": Path("x")},
            r"refused.*it holds pathlib\.\S+, and an object of a class of its own could run code$",
        ),
        ({"a": torch.nn.Linear(1, 1)}, r"refused.*it holds torch\.nn\.modules\.linear\.Linear"),
        ({"epoch": 3, "model": {"lr": 0.1}}, "holds no state dict"),
        ([torch.ones(1)], "holds no state dict"),
        (3, "holds no state dict"),
    ],
)
def test_pickles_without_a_state_dict_are_told_in_one_line(tmp_path: Path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(naf_hub.WeightsError, match=message) as caught:
        convert(tmp_path / "a.pth", tmp_path / "out", "naf")
    assert "\n" not in str(caught.value)


def test_tensors_that_share_memory_are_written_each(tmp_path: Path):
    whole = torch.arange(6.0)
    state = {"whole": whole, "again": whole, "part": whole[2:4]}
    torch.save(state, tmp_path / "a.pth")
    save_weights(tmp_path / "w", read_pickle(tmp_path / "a.pth"), name="naf")
    written = load_file(tmp_path / "w" / "model.safetensors")
    assert all(torch.equal(written[key], value) for key, value in state.items())


def test_convert_writes_nothing_when_it_cannot(tmp_path: Path, small):
    torch.save(small.state_dict(), tmp_path / "a.pth")
    with pytest.raises(naf_hub.WeightsError, match="do not fit"):
        convert(tmp_path / "a.pth", tmp_path / "out", "naf")  # the options are missing
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(naf_hub.WeightsError, match="refused"):
        convert(tmp_path / "junk.pth", tmp_path / "out", "naf")
    assert not (tmp_path / "out").exists()


def test_convert_never_deletes_a_folder_that_is_not_weights(tmp_path: Path, small):
    torch.save(small.state_dict(), tmp_path / "a.pth")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("precious")
    for force in (False, True):
        with pytest.raises(FileExistsError):
            convert(tmp_path / "a.pth", tmp_path / "photos", "naf", SMALL, force=force)
    assert (tmp_path / "photos" / "cat.jpg").exists()
    (tmp_path / "photos" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FileExistsError, match="is not a weights folder"):
        convert(tmp_path / "a.pth", tmp_path / "photos", "naf", SMALL, force=True)
    made = convert(tmp_path / "a.pth", tmp_path / "made", "naf", SMALL)
    (made / "notes.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"holds other files, too \(notes.txt\)"):
        convert(tmp_path / "a.pth", made, "naf", SMALL, force=True)
    assert (made / "notes.txt").exists()


def test_disk_full_keeps_the_old_weights(folder: Path, small):
    import resource

    before = (folder / "model.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Exception, match=r"(?i)file too large|i/o error|os error"):
            save_weights(folder, small, name="naf", options=SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "model.safetensors").read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == ["w"]
    shutil.rmtree(folder)


def test_a_git_lfs_pointer_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    for load in (naf_hub.load, naf_hub.load_backbone):
        name = "naf" if load is naf_hub.load else "timm:resnet10t"
        with pytest.raises(naf_hub.WeightsError, match=r"Git LFS pointer.*git lfs pull"):
            load(name, weights=tmp_path / "model.safetensors")


def test_a_pickle_behind_an_address_of_the_hub_gets_the_hint(tmp_path, monkeypatch):
    (tmp_path / "naf.pth").write_bytes(b"\x80\x02}q\x00.")
    monkeypatch.setattr("naf_hub.weights.files.fetch", lambda *_, **__: LocalFile(tmp_path / "naf.pth"))
    with pytest.raises(naf_hub.WeightsError, match=r"is a pickle.*; convert it first: naf-hub convert"):
        naf_hub.load("naf", weights="hf://o/pth/naf.pth")


@pytest.fixture
def few_plugins(monkeypatch, install_plugin):
    """Only these can be meant where no name is given: no need to build every backbone of timm's."""
    monkeypatch.setenv("NAF_HUB_PLUGINS", "naf,pico,filters,twin_naf")
    registry.reload()


@pytest.mark.parametrize("taken", [False, True])
def test_the_advice_on_a_pickle_is_a_command_that_works(tmp_path, monkeypatch, few_plugins, taken):
    """As printed by a load and by publish, also where a folder of the file's name is there already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pickles").mkdir()
    torch.save(naf_hub.load("naf").state_dict(), tmp_path / "pickles" / "a file.pth")
    if taken:
        (tmp_path / "a file").mkdir()
    for refused in (
        lambda: naf_hub.load("naf", weights=tmp_path / "pickles" / "a file.pth"),
        lambda: weights_folder(tmp_path / "pickles"),
    ):
        with pytest.raises(naf_hub.WeightsError, match="convert it first: ") as told:
            refused()
        command = shlex.split(str(told.value).partition("convert it first: ")[2])
        done = CliRunner().invoke(cli, command[1:])
        assert done.exit_code == 0, done.output
        assert naf_hub.load("naf", weights=command[4]).dim == 256  # pyright: ignore
