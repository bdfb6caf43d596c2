"""``NAME[=WEIGHTS]``, by one rule, and weights made per backbone at every door."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.contenders import Contender, load_contenders, name_model, parse_weights
from naf_hub.records import BackboneRecord
from naf_hub.reports import Report


@pytest.mark.parametrize(
    ("text", "weights", "expected", "label"),
    [
        ("naf", "default", "default", "naf"),
        ("naf=none", "default", None, "naf=none"),
        ("naf=NONE", "default", None, "naf=none"),
        ("naf", None, None, "naf=none"),
        ("naf=default", None, "default", "naf"),
        ("naf=runs/a=b", "default", "runs/a=b", "naf=runs/a=b"),
        ("naf=hf://me/it@v1", None, "hf://me/it@v1", "naf=hf://me/it@v1"),
        ("bilinear", "runs/a", None, "bilinear"),
        ("bilinear", None, None, "bilinear"),
        ("bilinear=none", "default", None, "bilinear"),
        ("bilinear=default", "default", None, "bilinear"),
    ],
)
def test_one_rule(text: str, weights: str | None, expected: str | None, label: str):
    contender = Contender.parse(text, weights)
    assert (contender.name, contender.weights, contender.label) == (text.partition("=")[0], expected, label)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "bilinear=foo",
            ValueError,
            "'bilinear=foo': upsampler 'bilinear' has no weights to choose",
        ),
        ("naf=", ValueError, "^'naf=': empty weights"),
        ("nafff", naf_hub.UnknownNameError, "did you mean naf"),
        ("pico", naf_hub.UnknownNameError, "names a registered backbone"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        Contender.parse(text)


def test_backbones_by_the_same_rule():
    pico = Contender.parse("pico=none", kind=BackboneRecord)
    assert (pico.label, pico.weights) == ("pico=none", None)
    timm = Contender.parse("timm:resnet10t", None, kind=BackboneRecord)
    assert (timm.name, timm.label) == ("timm:resnet10t", "timm:resnet10t=none")
    loaded = timm.load()
    assert isinstance(loaded, naf_hub.Backbone)
    assert parse_weights("None") is parse_weights(None) is None


def test_contenders_are_plain_frozen_data():
    contender = Contender.parse("naf", options={"dim": 16})
    assert pickle.loads(pickle.dumps(contender)) == copy.deepcopy(contender) == contender
    with pytest.raises(AttributeError):
        contender.weights = None  # pyright: ignore


def test_random_weights_come_from_the_seed_alone():
    small = {"dim": 16, "num_blocks": 1, "rope_heads": 1}
    contender = Contender.parse("naf=none", options=small)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = contender.load(), contender.load(), contender.load(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    first, again, third = (next(model.parameters()) for model in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, third)
    assert contender.load(dim=32).dim == 32
    assert name_model(one) == "naf=none"


def test_several_are_looked_up_before_any_is_loaded(monkeypatch: pytest.MonkeyPatch):
    model = naf_hub.load("nearest")
    loaded = load_contenders(["bilinear", Contender.parse("bicubic"), model])
    assert list(loaded) == ["bilinear", "bicubic", "nearest"]
    assert loaded["nearest"] is model
    assert load_contenders({"mine": model}) == {"mine": model}
    assert list(load_contenders(model)) == ["nearest"]
    monkeypatch.setattr("naf_hub.loading.load_upsampler", lambda *_, **__: pytest.fail("loaded for nothing"))
    with pytest.raises(naf_hub.UnknownNameError):
        load_contenders(["bilinear", "bilineer"])
    with pytest.raises(ValueError, match="named twice: nearest"):
        load_contenders(["nearest", model])
    with pytest.raises(ValueError, match="no upsampler given"):
        load_contenders([])


def test_parsing_imports_no_torch():
    code = "import sys; from naf_hub import contenders, options, reports; contenders.Contender.parse('naf=none'); "
    code += "assert 'torch' not in sys.modules and 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Weights made per backbone, at every door. The fixture's gain is 2 behind pico, 3 behind dinov2_s, 1 at random.


def run(*arguments: object):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.usefixtures("choosy")
def test_load_takes_the_set_of_the_backbone():
    assert naf_hub.load("choosy", backbone="pico").upsampler.gain == 2  # pyright: ignore
    contender = Contender.parse("choosy")
    assert contender.load("pico").gain == 2
    assert contender.load(naf_hub.load_backbone("pico", weights=None)).gain == 2
    assert Contender.parse("choosy=dinov2_s").load("pico").gain == 3
    assert Contender.parse("choosy=none").load("pico").gain == 1


@pytest.mark.usefixtures("choosy")
def test_upsample_takes_the_set_of_the_backbone(photo: Path, tmp_path: Path):
    run("upsample", photo, "-o", tmp_path / "out", "--upsampler", "choosy", "--size", "64", "--dtype", "float32",
        "--no-picture", "--device", "cpu")  # fmt: skip
    found = load_file(tmp_path / "out" / "photo.png.safetensors")
    scaled = torch.nn.functional.interpolate(found["low_res"][None], 64)[0] * 2
    torch.testing.assert_close(found["features"], scaled)
    run("upsample", photo, "-o", tmp_path / "own", "--upsampler", "choosy=dinov2_s", "--size", "64", "--dtype",
        "float32", "--no-picture", "--device", "cpu")  # fmt: skip
    own = load_file(tmp_path / "own" / "photo.png.safetensors")
    torch.testing.assert_close(own["features"], scaled * 1.5)


@pytest.mark.usefixtures("choosy")
def test_demo_takes_the_set_of_the_backbone(photo: Path, tmp_path: Path):
    result = run("demo", "--image", photo, "-o", tmp_path / "out", "--upsampler", "choosy", "--device", "cpu")
    assert "choosy=pico: features" in result.stdout
    assert (tmp_path / "out" / "photo_choosy_pico.png").exists()


@pytest.mark.usefixtures("choosy")
def test_reconstruction_takes_the_set_of_the_backbone(photo: Path):
    result = run("eval", "reconstruction", "--upsampler", "choosy", "--backbone", "pico=default", "--images", photo,
                 "--crop", "64", "--device", "cpu", "--json")  # fmt: skip
    row = Report.from_json(result.stdout).rows[0]
    assert (row.label, row.weights, row.backbone) == ("choosy", "pico", "pico")


@pytest.mark.usefixtures("choosy")
def test_segmentation_takes_the_set_of_the_backbone(tmp_path: Path):
    for split in ("train", "val"):
        for part, shape in (("images", (32, 32, 3)), ("labels", (32, 32))):
            (tmp_path / "data" / split / part).mkdir(parents=True)
            pixels = np.random.default_rng(1).integers(0, 2, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / split / part / "0.png")
    classes = {"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]}
    (tmp_path / "data" / "classes.json").write_text(json.dumps(classes))
    result = run("eval", "segmentation", "--upsampler", "choosy", "--backbone", "pico", "--data", tmp_path / "data",
                 "--size", "32", "--epochs", "1", "--device", "cpu", "--json")  # fmt: skip
    (row,) = Report.from_json(result.stdout).rows
    assert (row.label, row.weights, row.backbone) == ("choosy", "pico", "pico")


@pytest.mark.usefixtures("choosy")
def test_bench_takes_the_set_of_the_backbone_where_weights_are_asked_for():
    base = ["bench", "--features", "8,6,6", "--size", "24", "--repeats", "1", "--device", "cpu", "--json"]
    for arguments, weights in (
        (["choosy"], None),
        (["choosy", "--backbone", "pico"], None),
        (["choosy=default", "--backbone", "pico"], "pico"),
        (["choosy", "--weights", "default", "--backbone", "dinov2_s"], "dinov2_s"),
    ):
        assert Report.from_json(run(*base, *arguments).stdout).rows[0].weights == weights


@pytest.mark.usefixtures("choosy")
def test_training_starts_from_the_set_of_the_backbone():
    from naf_hub.training.settings import build
    from naf_hub_reconstruction.config import TrainConfig
    from naf_hub_reconstruction.preparation import prepare_model

    config = build(TrainConfig, {"upsampler": "choosy", "init": "default", "backbone": "pico=none"})
    assert prepare_model(config, torch.device("cpu"), naf_hub.load_backbone("pico", weights=None)).gain == 2  # pyright: ignore


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("naf", {"upsampler": "naf"}),
        ("naf=none", {"upsampler": "naf", "init": "none"}),
        ("naf=runs/a=b", {"upsampler": "naf", "init": "runs/a=b"}),
    ],
)
def test_training_takes_weights_behind_the_name(text: str, expected: dict, monkeypatch: pytest.MonkeyPatch):
    asked = {}

    def build(kind: type, recipe: dict, given: dict, settings: dict):
        asked.update(given)
        raise ValueError("enough seen")

    monkeypatch.setattr("naf_hub.training.settings.build", build)
    arguments = ["train", "reconstruction", "--out", "x", "--upsampler"]
    assert "enough seen" in CliRunner().invoke(cli, [*arguments, text]).stderr
    assert asked == expected
    wrong = CliRunner().invoke(cli, [*arguments, "bilinear=foo"])
    assert (wrong.exit_code, "no weights to choose" in wrong.stderr) == (2, True)
