"""Recipes, ``--set`` and the messages of bad settings."""

from __future__ import annotations

import dataclasses

import pytest

from naf_hub.training.settings import ConfigError, build, difference, parse_set
from naf_hub_reconstruction.config import TrainConfig, read_recipe, recipes


def test_every_recipe_builds():
    assert {"naf-paper", "naf-code", "naf-paper-stage2", "naf-cpu"} <= set(recipes())
    for name in recipes():
        assert isinstance(build(TrainConfig, read_recipe(name)), TrainConfig)


def test_published_recipe_has_the_published_values():
    code = build(TrainConfig, read_recipe("naf-code"))
    assert (code.crop, code.down, code.guidance, code.guidance_max) == (512, (0.5,), (4.0,), 224)
    assert (code.steps, code.lr, code.beta1, code.beta2, code.weight_decay) == (
        25_000,
        2e-4,
        0.9,
        0.999,
        1e-5,
    )
    assert (code.schedule, code.grad_clip, code.flip, code.random_crop) == ("constant", 0.0, False, False)


def test_paper_and_code_differ_in_the_batch_alone():
    paper, code = (build(TrainConfig, read_recipe(name)).to_dict() for name in ("naf-paper", "naf-code"))
    assert {k for k in paper if paper[k] != code[k]} == {"batch"}
    assert (paper["batch"], code["batch"]) == (2, 4)


def test_stage_two_draws_inputs_of_256_to_896_pixels():
    config = build(TrainConfig, read_recipe("naf-paper-stage2"))
    assert [fraction * config.crop for fraction in config.down_range] == [256, 896]
    assert config.steps == 2_500


def test_recipe_may_be_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text("steps = 7\nbatch = 3\n")
    config = build(TrainConfig, read_recipe(str(tmp_path / "mine.toml")), parse_set(["batch=5"]))
    assert (config.steps, config.batch) == (7, 5)


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("steps=10", "steps", 10),
        ("lr=3e-4", "lr", 3e-4),
        ("flip=true", "flip", True),
        ("down=[0.5, 0.25]", "down", (0.5, 0.25)),
        ("down=0.25", "down", (0.25,)),
        ("schedule=one_cycle", "schedule", "one_cycle"),
        ("images=a=b.png", "images", ("a=b.png",)),
        ("upsampler_options.dim=32", "upsampler_options", {"dim": 32}),
        ("backbone=pico", "backbone", ("pico",)),
        ('backbone=["pico", "timm:resnet18=none"]', "backbone", ("pico", "timm:resnet18=none")),
        ("backbone_options.timm:a.b.stride=8", "backbone_options", {"timm:a.b": {"stride": 8}}),
    ],
)
def test_set(assignment, key, value):
    assert getattr(build(TrainConfig, parse_set([assignment])), key) == value


def test_tables_are_merged():
    config = build(
        TrainConfig,
        {"upsampler_options": {"dim": 64, "num_blocks": 1}},
        parse_set(["upsampler_options.dim=32"]),
    )
    assert config.upsampler_options == {"dim": 32, "num_blocks": 1}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stepps=1", "did you mean steps"),
        ("steps=0", "at least 1"),
        ("steps=2.5", "whole number"),
        ("steps=true", "whole number"),
        ("lr=fast", "a number"),
        ("lr=-1", "positive"),
        ("flip=1", "true or false"),
        ("down=[0.5, 2]", r"in \(0, 1\]"),
        ("down_range=[0.6, 0.25]", "low <= high"),
        ("guidance=[]", "positive"),
        ("accumulate=0", "at least 1"),
        ("ema=1", "0, 1"),
        ("preview_every=-1", "negative"),
        ("backbone=3", "a list"),
        ("pooled=2", "between 0 and 1"),
        ("schedule=wild", "constant or one_cycle"),
        ("precision=fp16", "fp32 or bf16"),
        ("resize=256", "at least the crop"),
        ("upsampler_options=3", "a table"),
        ("steps", "key=value"),
    ],
)
def test_bad_settings_say_what_is_wrong(assignment, message):
    with pytest.raises(ConfigError, match=message):
        build(TrainConfig, parse_set([assignment]))


def test_unknown_recipe_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match="naf-cpu"):
        read_recipe("naf-gpu")


def test_broken_recipe_file_is_named(tmp_path):
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        read_recipe(str(tmp_path / "bad.toml"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("stepz = 3", r"/two\.toml: unknown key 'stepz'; did you mean steps\?"),
        ("steps = 'many'", r"/two\.toml: steps = 'many': must be a whole number"),
        ("crop = 0", r"/two\.toml: crop = 0: must be at least 1"),
        ("loss = 'l3'", r"/two\.toml: loss = 'l3': there is no term 'l3'"),
    ],
)
def test_a_wrong_setting_is_told_with_its_recipe(tmp_path, line, told):
    (tmp_path / "one.toml").write_text("steps = 9\nbatch = 0")
    (tmp_path / "two.toml").write_text(f"batch = 2\n{line}")
    one, two = (read_recipe(str(tmp_path / f"{name}.toml")) for name in ("one", "two"))
    with pytest.raises(ConfigError, match=told):
        build(TrainConfig, one, two, {"seed": 1})
    with pytest.raises(ConfigError, match=r"^seed = 'x': must be a whole number"):  # which no file says
        build(TrainConfig, one, {"seed": "x"})


def test_difference_names_what_may_not_change():
    old, new = TrainConfig().to_dict(), TrainConfig(lr=1e-3, workers=2, keep=5).to_dict()
    assert difference(old, new, TrainConfig.free_to_change) == ["lr: 0.0002 -> 0.001"]


def test_free_keys_exist():
    assert {f.name for f in dataclasses.fields(TrainConfig)} >= TrainConfig.free_to_change
