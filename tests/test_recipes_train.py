"""Every upsampler that can be trained learns by its recipe: two levels, adapters, keys and losses of more terms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reconstruction_world import BACKBONE, TINY, draw_picture, prepare_run

import naf_hub
from naf_hub.records import UpsamplerRecord
from naf_hub.registry import registry
from naf_hub.training.run import Run
from naf_hub.training.settings import ConfigError, build
from naf_hub_reconstruction.config import TrainConfig, read_recipe
from naf_hub_reconstruction.course import ReconstructionCourse
from naf_hub_reconstruction.preparation import freeze_idle

TRANSFORMER = {
    "backbone": "timm:vit_tiny_patch16_224",
    "backbone_options": {"embed_dim": 16, "num_heads": 1, "depth": 2, "patch_size": 8},
}
# The smallest of each: options, what else is set, and what the loss must fall to.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "naf": ({"dim": 32, "num_blocks": 1, "kernel_size": 3}, {"recipe": "naf-code"}, 0.9),
    "naf_small": ({"dim": 32, "num_blocks": 1, "kernel_size": 3}, {"recipe": "naf-code"}, 0.9),
    "naf_local": ({"dim": 32, "num_blocks": 1, "kernel_size": 3}, {"recipe": "naf-code"}, 0.9),
    "naf_plus_plus": ({"dim": 32, "num_blocks": 1, "kernel_size": 3}, {}, 0.9),
    "jbu": ({"dim": 4, "radius": 1}, {}, 0.99),
    "jafar": ({"qk_dim": 16}, {"lr": 5e-3}, 0.9),
    "anyup": ({"qk_dim": 16}, {"lr": 5e-3}, 0.9),
    "featup_jbu": ({"ratio": 2}, {}, 0.9),
    "loftup": ({"n_freqs": 4}, {"lr": 5e-3}, 0.9),
    "lift": ({"head_channels": 8}, TRANSFORMER, 0.9),
    "uplift": ({"encoder_dims": [4, 8], "dim": 17}, {"levels": 2, "lr": 5e-3}, 0.9),
    "carafe": ({}, {}, 0.9),
    "sapa": ({}, {}, 0.9),
    # It starts as bilinear interpolation, which leaves it less to gain.
    "dysample": ({}, {}, 0.99),
    "featsharp": ({"resolution": 32, "window": 3}, {"down": [1.0], "lr": 5e-3}, 0.9),
    "vit_up": (
        {"channels": 16, "num_heads": 1, "depth": 2, "patch": 8, "hidden_size": 32, "query_size": 64, "rank": 2},
        {**TRANSFORMER, "lr": 5e-3},
        0.9,
    ),
}  # fmt: skip


@pytest.fixture
def picture(tmp_path: Path, install_plugin) -> Path:
    install_plugin("tiny-plugin", BACKBONE)
    return draw_picture(tmp_path / "pictures" / "a.png", 7)


def test_every_trainable_upsampler_is_tried():
    records = [registry().find(name, UpsamplerRecord) for name in naf_hub.list_upsamplers()]
    assert {record.name for record in records if record.trainable} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_recipe_trains(name: str, picture: Path, tmp_path: Path):
    options, more, factor = CASES[name]
    more = dict(more)
    recipe = read_recipe(more.pop("recipe", name))
    tiny = {key: value for key, value in TINY.items() if not key.startswith("upsampler")}
    quick = {
        "upsampler": name, "upsampler_options": options, "steps": 10, "batch": 1, "views": 1, "lr": 2e-2,
        "precision": "fp32", "schedule": "constant", "guidance_max": 32, "down": [0.5], "down_range": [],
        "images": [str(picture)],
    }  # fmt: skip
    course = ReconstructionCourse(build(TrainConfig, recipe, tiny, quick, more))
    summary = Run(course, tmp_path / "run", progress=False).run()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if line["event"] == "train"]
    assert sum(losses[-3:]) < factor * sum(losses[:3]), losses
    loaded, trained = naf_hub.load(name, weights=summary["weights"]).state_dict(), course.model.state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in loaded.items())
    assert f"The loss is `{course.settings.loss}`" in (tmp_path / "run/weights/README.md").read_text()


def test_adapters_learn_and_held_out_features_follow_them(picture: Path, tmp_path: Path):
    options, more, _ = CASES["vit_up"]
    others = draw_picture(tmp_path / "others" / "b.png", 8)
    changes = {**more, "upsampler": "vit_up", "upsampler_options": options, "batch": 1, "steps": 3}
    run = prepare_run(picture, tmp_path / "run", held_out=[str(others)], **changes)
    given = run.model.gather(torch.rand(1, 3, 32, 32), next(iter(run.course.teachers.values())).backbone)
    assert given["hidden[2]"].requires_grad
    before = {key: value.clone() for key, value in run.model.adapters.state_dict().items()}
    backbone = next(iter(run.course.teachers.values())).backbone
    frozen = {key: value.clone() for key, value in backbone.state_dict().items()}
    model = run.model.eval()
    with torch.no_grad():
        first = run.course.examine(model, 3).score
        for layer in model.adapters.modules():
            if hasattr(layer, "lora_B"):
                layer.lora_B += 0.1
        assert run.course.examine(model, 3).score != first
    run.model.train()
    run.run()
    after = run.model.adapters.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in before if key.endswith("lora_A"))
    assert all(torch.equal(value, backbone.state_dict()[key]) for key, value in frozen.items())


@pytest.mark.parametrize(("name", "norm"), [("loftup", "channelnorm"), ("featup_jbu", "norm")])
def test_the_space_that_targets_lie_in_stays(name: str, norm: str, picture: Path, tmp_path: Path):
    """A norm that learned would shrink the target, and the loss with it."""
    options = {**CASES[name][0], "norm": True}
    run = prepare_run(picture, tmp_path / "run", upsampler=name, upsampler_options=options, steps=2, batch=1)
    run.run()
    kept = run.model.get_submodule(norm)
    assert torch.equal(kept.weight, torch.ones(8))
    assert torch.equal(kept.bias, torch.zeros(8))


@pytest.mark.parametrize("name", ["jafar", "vit_up"])
def test_what_a_method_never_uses_keeps_no_process_waiting(name: str, picture: Path, tmp_path: Path):
    options, more, _ = CASES[name]
    changes = {**more, "upsampler": name, "upsampler_options": options, "steps": 2, "batch": 1}
    run = prepare_run(picture, tmp_path / "run", **changes)
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    freeze_idle(run.model, next(iter(run.course.teachers.values())).backbone)
    assert run.model.training
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())
    run.run()
    parameters = dict(run.model.named_parameters())
    assert (
        {key for key, p in parameters.items() if p.requires_grad}
        == {key for key, p in parameters.items() if p.grad is not None}
        < set(parameters)
    )


def test_levels_are_pictures_of_half_the_side_each_guided_by_itself(picture: Path, tmp_path: Path):
    changes = {"levels": 2, "upsampler": "carafe", "upsampler_options": {}, "steps": 1, "batch": 2}
    run = prepare_run(picture, tmp_path / "run", **changes)
    teacher = run.course.teachers["tiny_backbone"]
    crops = next(iter(run.course.load_crops(0, 1)))
    every, first = (list(teacher.levels(crops, 2, all_steps)) for all_steps in (True, False))
    assert [(e.guidance.shape[-1], e.small.shape[-1], e.target.shape[-1]) for e in every] == [
        (32, 4, 8), (16, 2, 4), (16, 2, 8),
    ]  # fmt: skip
    assert [(e.small.shape[-1], e.target.shape[-1]) for e in first] == [(4, 8), (2, 4)]
    # What is the input of one level is the target of the next.
    assert torch.equal(every[0].small, every[1].target)
    assert torch.equal(every[0].target, teacher.batch(crops).target)


def test_resuming_with_another_loss_is_refused(picture: Path, tmp_path: Path):
    prepare_run(picture, tmp_path / "a", steps=1, loss="l1").run()
    with pytest.raises(ConfigError, match=r"loss: 'l1' -> 'mse'"):
        prepare_run(picture, tmp_path / "a", steps=1, resume=True)
    prepare_run(picture, tmp_path / "a", steps=1, loss="l1", resume=True)


def test_a_run_from_before_losses_were_settings_goes_on(picture: Path, tmp_path: Path):
    prepare_run(picture, tmp_path / "a", steps=1).run()
    (manifest,) = (tmp_path / "a" / "checkpoints").rglob("*.json")
    content = json.loads(manifest.read_text())
    del content["config"]["loss"], content["config"]["levels"]
    manifest.write_text(json.dumps(content))
    assert prepare_run(picture, tmp_path / "a", steps=1, resume=True).step == 1
    with pytest.raises(ConfigError, match=r"loss: 'mse' -> 'l1'"):
        prepare_run(picture, tmp_path / "a", steps=1, loss="l1", resume=True)


@pytest.mark.parametrize(
    ("changes", "cache", "message"),
    [
        ({"loss": "huber"}, False, "terms: mse, l1, cosine"),
        ({"levels": 1, "pooled": 0.5}, False, "none of pooled"),
        ({"pooled": 0.5, "upsampler": "featsharp", "down": [1.0]}, False, "and featsharp takes more"),
        ({"levels": 4}, False, "levels = 4: the smallest input of crop = 64 holds no patch"),
        ({"levels": 1, "views": 1}, True, "levels to 0"),
        ({"loss": "mse+0.1*blurred", "upsampler": "vit_up", **TRANSFORMER}, False, "a plain map, and vit_up"),
        ({"loss": "mse+0.1*blurred", "upsampler": "lift", **TRANSFORMER}, False, "a plain map, and lift"),
        ({"views": 1, "upsampler": "vit_up", **TRANSFORMER}, True, "leave --cache-features out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, cache, message, picture: Path, tmp_path: Path):
    if changes.get("upsampler") in CASES:
        changes = {**changes, "upsampler_options": CASES[changes["upsampler"]][0]}
    with pytest.raises(ConfigError, match=message):
        prepare_run(picture, tmp_path / "a", cache=tmp_path / "cache" if cache else None, **changes)


def test_the_upsampler_is_made_for_the_channels_of_the_backbone_as_it_is(picture: Path, tmp_path: Path):
    """Options of the backbone may give it other channels than its name stands for."""
    run = prepare_run(picture, tmp_path / "a", upsampler="carafe", upsampler_options={}, **TRANSFORMER)
    assert run.model.channels == 16


def test_of_several_recipes_later_ones_win(picture: Path, tmp_path: Path):
    from click.testing import CliRunner

    from naf_hub.commands.main import cli

    (tmp_path / "short.toml").write_text("steps = 1\nbatch = 1\ncrop = 64\nresize = 0\nlevels = 1\n")
    arguments = ["train", "reconstruction", "--recipe", "carafe", "--recipe", str(tmp_path / "short.toml")]
    arguments += ["--backbone", "tiny_backbone", "--images", str(picture), "--out", str(tmp_path / "run")]
    found = CliRunner().invoke(cli, [*arguments, "--set", "precision=fp32", "--device", "cpu", "--json"])
    assert found.exit_code == 0, found.output
    config = json.loads((tmp_path / "run/weights/config.json").read_text())["provenance"]["config"]
    assert (config["upsampler"], config["steps"], config["levels"], config["loss"]) == ("carafe", 1, 1, "mse")
