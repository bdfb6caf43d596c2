"""Bad usage exits 2, whichever option it is that makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.errors import OptionError
from naf_hub.training.settings import AssignmentError, RunSettings, build, parse_set


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upsample", "PHOTO", "-o", "OUT", "--option", "foo=3"], "upsampler 'naf' has no option 'foo'"),
        (["upsample", "PHOTO", "-o", "OUT", "--option", "memory=x"], "memory must be a positive number"),
        (
            ["upsample", "PHOTO", "-o", "OUT", "--backbone-option", "foo=3"],
            "backbone 'pico' has no option 'foo'",
        ),
        (["export", "naf", "-o", "OUT.onnx", "--channels", "8", "--option", "foo=3"], "has no option 'foo'"),
        (["attention", "PHOTO", "-o", "OUT", "--at", "foo"], "'--at': 'foo' is not x,y"),
        (
            ["compare", "PHOTO", "-o", "OUT.png", "--upsampler", "naf", "--zoom", "1,2,3"],
            "'1,2,3' is not x,y,w,h",
        ),
        (["train", "reconstruction", "PHOTO", "--out", "OUT", "--set", "foo=1"], "--set: unknown key 'foo'"),
        (
            ["train", "reconstruction", "PHOTO", "--out", "OUT", "--set", "steps=x"],
            "--set: steps = 'x': must",
        ),
        (["train", "denoising", "PHOTO", "--out", "OUT", "--set", "foo"], "--set 'foo' is not key=value"),
    ],
)
def test_bad_values_of_options(tmp_path: Path, arguments, message):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    places = {"PHOTO": str(tmp_path / "a.png"), "OUT": str(tmp_path / "out")}
    for word, place in places.items():
        arguments = [argument.replace(word, place) for argument in arguments]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, message in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("task", "typed", "message"),
    [
        ("boundaries", ["--tolerance", "5"], "is a share of the picture's diagonal"),
        ("boundaries", ["--sigma", "0"], "'--sigma'"),
        ("boundaries", ["--limit", "-1"], "'--limit'"),
        ("correspondence", ["--limit", "-1"], "'--limit'"),
        ("denoising", ["--classical", "--batch", "0"], "'--batch'"),
        ("denoising", ["--classical", "--crop", "-1"], "'--crop'"),
        ("depth", ["--unit", "nan"], "unit = nan: must be a number"),
        ("depth", ["--max-depth", "0.0001"], "max_depth must be more than"),
        ("depth", ["--eigen-crop"], "the Eigen crop is one of 480x640"),
        ("geometric", ["--seed", "99999999999999999999"], "seed must be within"),
        ("homography", ["--seed", "-1"], "'--seed'"),
        ("open-vocabulary", ["--gamma", "0"], "'--gamma'"),
        ("open-vocabulary", ["--stride", "500", "--crop", "100"], "stride 500 is larger than crop 100"),
        ("reconstruction", ["--down", "1"], "1 needs a ratio"),
        ("reconstruction", ["--ratio", "4", "--down", "0.1"], "needs down to be at least 0.25"),
        ("reconstruction", ["--guidance", "0"], "'--guidance'"),
        ("segmentation", ["--lr", "0"], "'--lr'"),
        ("segmentation", ["--lr", "nan"], "lr = nan: must be a number"),
        ("video", ["--length", "2"], "length must be 0 or at least 3"),
        ("video", ["--temperature", "0"], "'--temperature'"),
    ],
)
def test_bad_settings_of_tasks_come_before_any_work(task: str, typed: list[str], message: str):
    data = "--images" if task in {"denoising", "reconstruction"} else "--data"
    models = [] if task == "denoising" else ["--upsampler", "bilinear", "--backbone", "pico"]
    result = CliRunner().invoke(cli, ["eval", task, data, "no/such/data", *models, *typed])
    assert (result.exit_code, message in result.output) == (2, True), result.output


def test_python_gets_errors_of_the_usual_kinds():
    for options in ({"foo": 3}, {"memory": "x"}):
        with pytest.raises(OptionError) as error:
            naf_hub.load("naf", weights=None, **options)
        assert isinstance(error.value, TypeError)
        assert isinstance(error.value, ValueError)


def test_only_what_was_typed_is_told_as_typed():
    with pytest.raises(AssignmentError, match="--set: steps"):
        build(RunSettings, {"batch": 2}, parse_set(["steps=x"]))
    with pytest.raises(ValueError, match=r"^steps = 'x'") as error:
        build(RunSettings, {"steps": "x"}, parse_set(["batch=2"]))
    assert not isinstance(error.value, AssignmentError)
