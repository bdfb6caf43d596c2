"""Settings of any dataclass, built by type."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Optional

import numpy as np
import pytest
import torch

from naf_hub import BackboneRecord, UnknownNameError
from naf_hub.training.schedule import plateau, rate_factor
from naf_hub.training.settings import ConfigError, RunSettings, build, parse_set, read_toml
from naf_hub.typed_values import fitted, fitted_keywords
from naf_hub_reconstruction import config as reconstruction
from naf_hub_restoration import denoising_config as denoising


@dataclasses.dataclass(frozen=True)
class Odd(RunSettings):
    limit: int | None = None
    name: Optional[str] = None  # noqa: UP045
    sides: list[int] = dataclasses.field(default_factory=list)
    shares: tuple[float, ...] = ()
    tables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    mode: Literal["fast", "exact"] = "fast"
    size: int | str = 0


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("limit=3", "limit", 3),
        ("limit=none", "limit", None),
        ("name=none", "name", None),
        ("name=x", "name", "x"),
        ("sides=[1, 2]", "sides", [1, 2]),
        ("sides=4", "sides", [4]),
        ("shares=[1, 0.5]", "shares", (1.0, 0.5)),
        ("tables.a=1", "tables", {"a": 1}),
        ("options.a=1", "options", {"a": 1}),
        ("mode=exact", "mode", "exact"),
        ("size=3", "size", 3),
        ("size=half", "size", "half"),
        ("steps=3", "steps", 3),
    ],
)
def test_values_are_converted_by_type(assignment, key, value):
    found = getattr(build(Odd, parse_set([assignment])), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("limit=2.5", "limit = 2.5: must be a whole number, or none"),
        ("limit=true", "whole number, or none"),
        ("sides=[1, 0.5]", "a list, each entry a whole number"),
        ("shares=[true]", "a list, each entry a number"),
        ("options=3", "a table"),
        ("mode=slow", "must be fast or exact"),
        ("size=1.5", "a whole number or text"),
        ("limt=2", "did you mean limit"),
        ("zzzzzz=2", "keys: steps, batch"),
    ],
)
def test_bad_values_say_what_they_must_be(assignment, message):
    with pytest.raises(ConfigError, match=message):
        build(Odd, parse_set([assignment]))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_finite_number_is_refused(number):
    with pytest.raises(ConfigError, match=r"lr = .*: must be a number"):
        build(Odd, {"lr": number})


def test_a_key_without_default_is_asked_for_and_tables_must_be_tables():
    @dataclasses.dataclass
    class Named:
        name: str
        note: str = ""

    with pytest.raises(ConfigError, match="no 'name', which has no default"):
        build(Named, {"note": "x"})
    with pytest.raises(ConfigError, match="3 stands where a table of settings must be"):
        build(Named, 3)  # pyright: ignore[reportArgumentType]


def test_a_recipe_that_is_no_text_is_named(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"mine\.toml: not valid TOML: no text in UTF-8"):
        read_toml(tmp_path / "mine.toml")


def test_choices_hold_without_build_too():
    with pytest.raises(ConfigError, match="constant or one_cycle"):
        RunSettings(schedule="wild")  # pyright: ignore[reportArgumentType]


def test_later_layers_win_and_tables_are_merged():
    found = build(Odd, {"steps": 3, "options": {"a": 1, "b": 1}}, {"steps": 4, "options": {"b": 2}})
    assert (found.steps, found.options) == (4, {"a": 1, "b": 2})


def test_plateau_rises_stays_and_falls_to_zero():
    rates = [plateau(step, 1000) for step in range(1001)]
    assert rates[0] == 1 / 200
    assert rates[200] == rates[649] == 1
    assert rates[1000] == 0
    assert rates[650:] == sorted(rates[650:], reverse=True)
    assert [plateau(step, 1000) for step in range(600)] == [plateau(step, 2000) for step in range(600)]


def test_cosine_falls_from_one_to_zero():
    settings = RunSettings(steps=6, schedule="cosine")
    rates = [rate_factor(settings, step) for step in range(7)]
    assert rates[0] == 1
    assert rates[3] == pytest.approx(0.5)
    assert rates[6] == 0
    assert rate_factor(RunSettings(), 77) == 1


@pytest.mark.parametrize(
    ("value", "hint", "found", "word"),
    [
        ("none", str | os.PathLike[str] | None, None, ""),
        (Path("a"), os.PathLike[str] | None, Path("a"), ""),
        (3, str | os.PathLike[str] | None, None, "text or a path, or none"),
        ((1, 2), tuple[int, int], (1, 2), ""),
        ([1, 2, 3], int | tuple[int, int], None, "a whole number or 2 values, each a whole number"),
        (np.float32(0.5), float, 0.5, ""),
        (np.array([1, 2]), Sequence[int], (1, 2), ""),
        (np.bool_(True), int, None, "a whole number"),
    ],
)
def test_values_are_fitted_to_types(value, hint, found, word):
    assert fitted(value, hint)[1] == word
    assert word or fitted(value, hint)[0] == found


def test_what_no_annotation_decides_is_handed_on():
    def target(a: torch.dtype | int, b=1, **more: int): ...

    given = {"a": torch.float16, "b": object(), "c": "x"}
    assert fitted_keywords(target, given, "it") == given
    with pytest.raises(TypeError, match="it has no option 'b'; options: a"):
        fitted_keywords(target, given, "it", without=["b"])


def test_an_unregistered_model_in_a_file_is_told_with_the_file(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Trains(RunSettings):
        backbone: tuple[str, ...] = ()
        models: ClassVar[dict[str, type]] = {"backbone": BackboneRecord}

    (tmp_path / "mine.toml").write_text('backbone = ["pico", "pcio=w.safetensors"]')
    read = read_toml(tmp_path / "mine.toml")
    with pytest.raises(UnknownNameError, match=r"mine\.toml: backbone: .*pcio.*pico"):
        build(Trains, read)
    assert build(Trains, read, {"backbone": ["pico"]}).backbone == ("pico",)


@pytest.mark.parametrize("kind", [RunSettings, reconstruction.TrainConfig, denoising.TrainConfig])
def test_constants_of_the_class_have_a_type_that_python_3_10_reads(kind: type) -> None:
    """A plain ``ClassVar`` is refused there by ``typing.get_type_hints``, and with it every training."""
    stated = [hint for one in kind.__mro__ for hint in vars(one).get("__annotations__", {}).values()]
    assert any("ClassVar[" in hint for hint in stated)
    assert not any(hint == "ClassVar" for hint in stated)
