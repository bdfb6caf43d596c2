"""Cached features: once through the backbone, same numbers with a cold and a warm cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reconstruction_world import BACKBONE, draw_pictures, prepare_run, same_state

import naf_hub
from naf_hub.training.facts import fingerprint
from naf_hub.training.settings import ConfigError
from naf_hub_reconstruction.features import resize


@pytest.fixture
def pictures(tmp_path, install_plugin):
    install_plugin("tiny-plugin", BACKBONE)
    return draw_pictures(tmp_path / "pictures", 4)


def trainer(pictures, out, cache, **changes):
    return prepare_run(pictures, out, cache=cache, views=1, steps=4, **changes)


def calls() -> int:
    return naf_hub.info("tiny_backbone").resolve().calls


def test_backbone_runs_once_a_crop_and_input_size(pictures, tmp_path):
    run = trainer(pictures, tmp_path / "a", tmp_path / "cache", down=[0.5, 0.25], guidance=[1.0, 2.0, 4.0])
    before = calls()
    run.run()  # 4 steps of 2: two epochs of 4 pictures
    assert calls() - before == 4 * 3


def test_warm_cache_changes_nothing(pictures, tmp_path):
    cold = trainer(pictures, tmp_path / "a", tmp_path / "cache")
    cold.run()
    before = calls()
    warm = trainer(pictures, tmp_path / "b", tmp_path / "cache")
    warm.run()
    assert calls() == before
    assert same_state(cold.model.state_dict(), warm.model.state_dict())


def test_cached_features_are_the_live_ones_rounded(pictures, tmp_path):
    cached, live = (
        trainer(pictures, tmp_path / "a", tmp_path / "cache"),
        trainer(pictures, tmp_path / "b", None),
    )
    for run in (cached, live):
        run.samples = next(iter(run.course.load_crops(0, 2)))
    guidance, small, target = cached.course.teachers["tiny_backbone"].batch(cached.samples)
    expected = live.course.teachers["tiny_backbone"].batch(live.samples)
    assert torch.equal(small, expected[1].half().float())
    assert torch.equal(target, expected[2].half().float())
    assert (guidance - expected[0]).abs().max() <= 0.5 / 255 + 1e-6


def test_pooled_inputs_are_the_target_averaged(pictures, tmp_path):
    for cache in (None, tmp_path / "cache"):
        run = trainer(pictures, tmp_path / f"run{cache is None}", cache, pooled=1.0)
        for samples in (next(iter(run.course.load_crops(0, 2))) for _ in range(2)):  # cold, then warm
            _, small, target = run.course.teachers["tiny_backbone"].batch(samples)
            assert torch.equal(small, torch.nn.functional.avg_pool2d(target, 2))


def test_damaged_entries_are_made_anew(pictures, tmp_path):
    first = trainer(pictures, tmp_path / "a", tmp_path / "cache")
    first.run()
    entries = sorted((tmp_path / "cache").rglob("*.safetensors"))
    entries[0].write_bytes(entries[0].read_bytes()[:-40])
    entries[1].unlink()
    second = trainer(pictures, tmp_path / "b", tmp_path / "cache")
    second.run()
    assert same_state(first.model.state_dict(), second.model.state_dict())


def test_changed_image_is_not_served_from_the_cache(pictures, tmp_path):
    trainer(pictures, tmp_path / "a", tmp_path / "cache").run()
    before = calls()
    draw_pictures(pictures, 1, seed=9)
    trainer(pictures, tmp_path / "b", tmp_path / "cache").run()
    assert calls() - before == 2  # the crop of 000.png and its smaller image


@pytest.mark.parametrize("change", [{"seed": 1}, {"crop": 48}, {"flip": False}])
def test_other_crops_have_a_cache_of_their_own(pictures, tmp_path, change):
    one = trainer(pictures, tmp_path / "a", tmp_path / "cache")
    other = trainer(pictures, tmp_path / "b", tmp_path / "cache", **change)
    assert (
        one.course.teachers["tiny_backbone"].cache.folder
        != other.course.teachers["tiny_backbone"].cache.folder
    )


def test_windows_and_guidance_of_any_size_come_from_what_is_cached(pictures, tmp_path):
    trainer(pictures, tmp_path / "a", tmp_path / "cache").run()
    before = calls()
    changes: dict[str, Any] = {"windows": [2, 8], "guidance": [1.0, 3.0], "pooled": 0.5}
    cached = trainer(pictures, tmp_path / "b", tmp_path / "cache", **changes)
    cached.run()
    assert calls() == before
    live = prepare_run(pictures, tmp_path / "c", views=1, steps=4, **changes)
    for here, there in zip(*(run.course.load_crops(0, 4) for run in (cached, live)), strict=True):
        name = next(iter(cached.course.teachers))
        pair = [run.course.teachers[name].batch(crops) for run, crops in ((cached, here), (live, there))]
        for one, other in zip(*pair, strict=True):
            assert one.shape == other.shape
            torch.testing.assert_close(one, other, atol=4e-3, rtol=1e-3)


def test_another_backbone_has_another_fingerprint(pictures):
    backbone = naf_hub.load_backbone("tiny_backbone")
    same = fingerprint(naf_hub.load_backbone("tiny_backbone"))
    assert fingerprint(backbone) == same
    backbone.mix[0, 0] += 1e-3
    assert fingerprint(backbone) != same


def test_fresh_crops_cannot_be_cached(pictures, tmp_path):
    with pytest.raises(ConfigError, match="views"):
        prepare_run(pictures, tmp_path / "run", cache=tmp_path / "cache")


def test_features_beyond_float16_are_refused(pictures, tmp_path):
    run = trainer(pictures, tmp_path / "a", tmp_path / "cache")
    run.course.teachers["tiny_backbone"].backbone.mix.mul_(1e6)
    with pytest.raises(ValueError, match="float16"):
        run.run()


def test_resizing_is_bilinear_without_antialiasing():
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    # A quarter: half-pixel centres fall between pixels 1 and 2, and 5 and 6; antialiasing would average more.
    assert resize(ramp, 2)[0, 0, 0].tolist() == [1.5, 5.5]
    spike = torch.zeros(1, 3, 8, 8)
    spike[..., 0] = 1
    assert resize(spike, 2).abs().max() == 0
