"""What a run shows: mixtures of backbones, averaged weights, best weights, previews, TensorBoard."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from reconstruction_world import BACKBONE, COARSE, draw_pictures, prepare_run, same_state
from safetensors.torch import load_file

import naf_hub
from naf_hub.training.checkpoints import newest
from naf_hub.training.settings import ConfigError


@pytest.fixture
def pictures(tmp_path, install_plugin):
    install_plugin("tiny-plugin", BACKBONE)
    return draw_pictures(tmp_path / "pictures", 5)


@pytest.fixture
def others(tmp_path):
    return draw_pictures(tmp_path / "others", 3, seed=5)


def log(out, event):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def test_mixture_draws_both_backbones_and_scores_both(pictures, others, tmp_path, install_plugin):
    install_plugin("coarse-plugin", COARSE)
    both = ["tiny_backbone", "coarse_backbone=none"]
    run = prepare_run(
        pictures, tmp_path / "a", backbone=both, steps=12, held_out=[str(others)], eval_every=12
    )
    sizes = [run.course.plan.sizes(step) for step in range(12)]
    assert {s.teacher for s in sizes} == {0, 1}
    assert {(s.teacher, s.grid) for s in sizes} == {(0, 8), (1, 4)}
    summary = run.run()
    assert list(summary["held_out"]) == ["tiny_backbone", "coarse_backbone"]
    assert {line["backbone"] for line in log(tmp_path / "a", "eval")} == set(summary["held_out"])
    for name in ("tiny", "coarse"):
        assert naf_hub.info(f"{name}_backbone").resolve().calls > 0
    card = (tmp_path / "a" / "weights" / "README.md").read_text()
    assert all(f"| `{name}` |" in card for name in summary["held_out"])


def test_mixture_with_a_cache_keeps_the_backbones_apart(pictures, tmp_path, install_plugin):
    install_plugin("coarse-plugin", COARSE)
    changes = {"backbone": ["tiny_backbone", "coarse_backbone"], "views": 1, "steps": 8}
    cold = prepare_run(pictures, tmp_path / "a", cache=tmp_path / "cache", **changes)
    cold.run()
    warm = prepare_run(pictures, tmp_path / "b", cache=tmp_path / "cache", **changes)
    warm.run()
    assert same_state(cold.model.state_dict(), warm.model.state_dict())
    folders = {teacher.cache.folder for teacher in warm.course.teachers.values()}
    assert len(folders) == 2


def test_options_for_one_backbone_of_several(pictures, tmp_path, install_plugin):
    install_plugin("coarse-plugin", COARSE)
    both = ["tiny_backbone", "coarse_backbone"]
    with pytest.raises(TypeError, match="stride"):
        prepare_run(
            pictures, tmp_path / "a", backbone=both, backbone_options={"coarse_backbone": {"stride": 4}}
        )
    with pytest.raises(ConfigError, match=r"backbone_options\.tinny: no such backbone; given: tiny_backbone"):
        prepare_run(pictures, tmp_path / "b", backbone_options={"tinny": {"stride": 4}})


def test_one_backbone_twice_with_options_of_its_own(pictures, tmp_path):
    """The same network at two strides, say: two teachers, told apart by a number."""
    run = prepare_run(pictures, tmp_path / "a", backbone=["tiny_backbone", "tiny_backbone=none"])
    assert list(run.course.teachers) == ["tiny_backbone", "tiny_backbone#2"]
    with pytest.raises(TypeError, match="stride"):
        prepare_run(
            pictures,
            tmp_path / "b",
            backbone=["tiny_backbone", "tiny_backbone"],
            backbone_options={"tiny_backbone#2": {"stride": 4}},
        )


def test_averaged_weights_are_shipped_and_resume_exactly(pictures, tmp_path):
    changes = {"steps": 6, "ema": 0.5, "checkpoint_every": 3, "keep": 9}
    run = prepare_run(pictures, tmp_path / "a", **changes)
    seen = []
    step = run._train_step

    def recorded(*arguments):
        result = step(*arguments)
        seen.append({key: value.clone() for key, value in run.model.state_dict().items()})
        return result

    run._train_step = recorded
    run.run()
    expected = seen[0]
    for state in seen[1:]:
        expected = {key: 0.5 * expected[key] + 0.5 * state[key] for key in state}
    shipped = load_file(tmp_path / "a" / "weights" / "model.safetensors")
    assert not same_state(shipped, seen[-1])
    for key, value in expected.items():
        assert torch.allclose(shipped[key], value, atol=1e-6), key
    last = tmp_path / "a" / "checkpoints" / "step-00000006"
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    prepare_run(pictures, tmp_path / "a", resume=True, **changes).run()
    assert same_state(load_file(tmp_path / "a" / "weights" / "model.safetensors"), shipped)


def test_best_weights_are_those_with_the_least_held_out_error(pictures, others, tmp_path):
    """The rate explodes after the second step, so that a later evaluation is worse."""
    changes = {"steps": 6, "eval_every": 2, "held_out": [str(others)], "lr": 1e-2}
    run = prepare_run(pictures, tmp_path / "a", **changes)
    step = run._train_step

    def wild(*arguments):
        result = step(*arguments)
        if run.step >= 2:
            with torch.no_grad():
                for parameter in run.model.parameters():
                    parameter.add_(torch.randn_like(parameter))
        return result

    run._train_step = wild
    summary = run.run()
    ratios = {line["step"]: line["ratio_to_bilinear"] for line in log(tmp_path / "a", "eval")}
    least = min(ratios, key=lambda at: ratios[at])
    assert least != 6
    assert summary["best"] == {"step": least, "ratio_to_bilinear": ratios[least]}
    config = json.loads((tmp_path / "a" / "best" / "config.json").read_text())
    assert config["provenance"]["steps"] == least
    kept = load_file(tmp_path / "a" / "best" / "model.safetensors")
    assert not same_state(kept, load_file(tmp_path / "a" / "weights" / "model.safetensors"))
    assert naf_hub.load("naf", weights=tmp_path / "a" / "best")


def test_preview_shows_five_panels_in_one_colour_basis(pictures, tmp_path):
    prepare_run(pictures, tmp_path / "a", steps=4, preview_every=2).run()
    files = sorted((tmp_path / "a" / "previews").iterdir())
    assert [file.name for file in files] == ["step-00000002.png", "step-00000004.png"]
    picture = np.asarray(Image.open(files[0])).astype(int)
    assert picture.shape[1:] == (5 * 224 + 4 * 4, 3)
    assert 224 + 15 <= len(picture) <= 224 + 40  # a line of captions
    panels = [picture[-224:, i * 228 : i * 228 + 224] for i in range(5)]
    assert all(panel.std() > 5 for panel in panels)
    # In one basis, bilinear features have the input's colours: their means nearly agree.
    assert np.abs(panels[1].mean((0, 1)) - panels[2].mean((0, 1))).max() < 12
    assert len(np.unique(panels[1].reshape(-1, 3), axis=0)) <= 16  # 4 x 4 cells, shown as blocks


def test_previews_change_nothing_and_a_failing_one_stops_nothing(pictures, tmp_path, monkeypatch):
    plain = prepare_run(pictures, tmp_path / "a", steps=3)
    plain.run()
    drawn = prepare_run(pictures, tmp_path / "b", steps=3, preview_every=1)
    drawn.run()
    assert same_state(plain.model.state_dict(), drawn.model.state_dict())

    def fails(*_):
        raise ValueError("fixed ratio")

    monkeypatch.setattr("naf_hub_reconstruction.course.draw_preview", fails)
    assert prepare_run(pictures, tmp_path / "c", steps=2, preview_every=1).run()["steps"] == 2
    assert log(tmp_path / "c", "no_preview")[0]["reason"] == "fixed ratio"


def test_tensorboard_holds_curves_and_pictures(pictures, others, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {"steps": 4, "eval_every": 2, "preview_every": 2, "held_out": [str(others)]}
    prepare_run(pictures, tmp_path / "a", tensorboard=True, **changes).run()
    events = EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    events.Reload()
    logged = [(line["step"], line["loss"]) for line in log(tmp_path / "a", "train")]
    curve = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in curve] == [step for step, _ in logged]
    assert [value for _, value in curve] == pytest.approx([loss for _, loss in logged], rel=1e-6)
    assert len(events.Scalars("held_out/tiny_backbone/ratio_to_bilinear")) == 2
    assert [image.step for image in events.Images("preview")] == [2, 4]
    assert not (tmp_path / "b").exists()


def test_without_tensorboard_nothing_of_it_is_written(pictures, tmp_path):
    prepare_run(pictures, tmp_path / "a", steps=1).run()
    assert not (tmp_path / "a" / "tensorboard").exists()


def test_summary_says_speed_memory_and_hardware(pictures, tmp_path):
    summary = prepare_run(pictures, tmp_path / "a", steps=3).run()
    assert summary["images_per_second"] > 0
    assert summary["peak_memory_bytes"] > 50e6
    assert summary["hardware"]["cores"] >= 1
    provenance = json.loads((tmp_path / "a" / "weights" / "config.json").read_text())["provenance"]
    assert provenance["hardware"] == summary["hardware"]
    assert newest(tmp_path / "a" / "checkpoints").manifest["processes"] == 1


def test_every_trainable_upsampler_trains(pictures, tmp_path):
    """NAF++ is NAF with more channels and blocks; the learned joint bilateral upsampler is another method."""
    for name, options in (("jbu", {}), ("naf_plus_plus", {"dim": 32, "num_blocks": 1, "kernel_size": 3})):
        run = prepare_run(pictures, tmp_path / name, upsampler=name, upsampler_options=options, steps=2)
        before = {key: value.clone() for key, value in run.model.state_dict().items()}
        folder = run.run()["weights"]
        assert not same_state(before, dict(run.model.state_dict()))
        assert same_state(dict(naf_hub.load(name, weights=folder).state_dict()), dict(run.model.state_dict()))


def test_bf16_is_near_float32(pictures, tmp_path):
    changes = {"steps": 3, "lr": 3e-5}
    prepare_run(pictures, tmp_path / "a", **changes).run()
    prepare_run(pictures, tmp_path / "b", precision="bf16", **changes).run()
    full, half = ([line["loss"] for line in log(tmp_path / run, "train")] for run in "ab")
    assert half == pytest.approx(full, rel=0.02)
    assert half != full
