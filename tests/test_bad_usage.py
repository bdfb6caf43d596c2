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
