"""What a step sees: order, sizes, crops, and files that cannot be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from reconstruction_world import draw_picture, draw_pictures
from torch.nn.functional import adaptive_avg_pool2d

from naf_hub.crops import Cropping, enlarge_or_shrink
from naf_hub.errors import ImageError
from naf_hub.images import read_image
from naf_hub.training.settings import ConfigError
from naf_hub_reconstruction.config import TrainConfig
from naf_hub_reconstruction.data import Crops
from naf_hub_reconstruction.features import cut
from naf_hub_reconstruction.plan import Item, Plan, Sizes, Steps, crop_side, guidance_side, input_side

SIZES = Sizes(crop=64, input=32, guidance=32, grid=8)


def test_published_sizes():
    """Spec of the released code: 512 and 256 pixels, grid 32, guidance 128; grid 64 is capped at 224."""
    plan = Plan(TrainConfig(), images=10, patches=[16])
    assert plan.sizes(0) == Sizes(crop=512, input=256, guidance=128, grid=32)
    assert Plan(TrainConfig(crop=1024, resize=1024), 10, [16]).sizes(0).guidance == 224


@pytest.mark.parametrize(
    ("crop", "patch", "side", "small"),
    [(512, 16, 512, 256), (512, 14, 504, 252), (100, 16, 96, 48), (48, 16, 48, 32)],
)
def test_sides_are_whole_patches(crop, patch, side, small):
    assert crop_side(crop, patch) == side
    assert input_side(side, patch, 0.5) == small


def test_crop_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match="smaller than a patch"):
        crop_side(8, 16)


def test_guidance_side_without_bound():
    assert guidance_side(64, 4, 224) == 224
    assert guidance_side(64, 4, 0) == 256


def test_every_image_comes_once_an_epoch_in_a_new_order():
    plan = Plan(TrainConfig(batch=3, crop=64, resize=0, views=2), images=9, patches=[8])
    epochs = [[item for step in range(e * 3, e * 3 + 3) for item in plan.items(step)] for e in range(3)]
    orders = [[item.index for item in epoch] for epoch in epochs]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert orders[0] != orders[1]
    assert [{item.view for item in epoch} for epoch in epochs] == [{0}, {1}, {0}]


def test_steps_are_pure_functions_of_their_number():
    config = TrainConfig(batch=4, crop=64, resize=0, down_range=(0.25, 0.9), guidance=(1.0, 2.0, 4.0), seed=3)
    straight = list(Steps(Plan(config, 7, [8]), 0, 20))
    assert list(Steps(Plan(config, 7, [8]), 13, 20)) == straight[13:]
    assert len({batch[0].sizes for batch in straight}) > 5
    assert straight != list(Steps(Plan(TrainConfig(**{**config.to_dict(), "seed": 4}), 7, [8]), 0, 20))


def test_share_of_pooled_inputs():
    for share, bounds in ((0.0, (0, 0)), (0.5, (60, 140)), (1.0, (200, 200))):
        plan = Plan(TrainConfig(crop=64, resize=0, pooled=share), 3, [8])
        assert bounds[0] <= sum(plan.sizes(step).pooled for step in range(200)) <= bounds[1]


def test_range_stays_within_its_bounds():
    plan = Plan(TrainConfig(down_range=(0.25, 0.6)), 3, [16])
    sides = {plan.sizes(step).input for step in range(300)}
    assert (min(sides), max(sides)) == (128, 304)


def test_listed_sides_are_those_drawn():
    config = TrainConfig(crop=64, resize=0, down=(0.5, 0.25), guidance=(1.0, 4.0))
    plan = Plan(config, 3, [8])
    drawn = [plan.sizes(step) for step in range(50)]
    assert plan.inputs(0) == sorted({s.input for s in drawn})


def test_windows_hold_whole_cells_of_input_and_target():
    config = TrainConfig(crop=64, resize=0, down=(0.5, 0.25), windows=(3, 8), guidance=(2.0,), flip=True)
    plan = Plan(config, 5, [8])
    items = [item for step in range(60) for item in plan.items(step)]
    assert items == [item for step in range(60) for item in Plan(config, 5, [8]).items(step)]
    for item in items:
        ratio = item.sizes.crop // item.sizes.input
        assert item.sizes.window % ratio == 0
        assert all(place % ratio == 0 and place + item.sizes.window <= 8 for place in item.corner)
        assert item.sizes.guidance == 2 * item.sizes.window
    assert {item.sizes.window for item in items} == {4, 6, 8}
    assert len({item.corner for item in items}) > 5
    assert {item.mirrored for item in items} == {True, False}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"down": (0.4,), "windows": (2, 8)}, "windows need whole ratios"),
        ({"windows": (1, 1)}, "none holds whole cells"),
    ],
)
def test_windows_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        Plan(TrainConfig(crop=64, resize=0, **settings), 5, [8])


def test_cut_takes_the_same_part_of_every_map():
    sizes = Sizes(crop=64, input=32, guidance=16, grid=8, window=4)
    items = [Item(0, 0, sizes, (2, 4)), Item(1, 0, sizes, (0, 2), mirrored=True)]
    fine = torch.rand(2, 3, 64, 64)
    coarse, token = adaptive_avg_pool2d(fine, 4), torch.rand(2, 3, 1, 1)
    found = cut(fine, items)
    assert torch.equal(found[0], fine[0, :, 16:48, 32:64])
    assert torch.equal(found[1], fine[1, :, 0:32, 16:48].flip(-1))
    torch.testing.assert_close(adaptive_avg_pool2d(found, 2), cut(coarse, items))
    assert cut(token, items) is token


def test_crop_is_the_centre_when_nothing_is_random(tmp_path):
    path = draw_picture(tmp_path / "a.png", 0, (72, 80))
    crop = Cropping().cut(path, 0, 64)
    assert torch.equal(crop, read_image(path)[:, 4:68, 8:72])


def test_views_differ_and_come_back_the_same(tmp_path):
    path = draw_picture(tmp_path / "a.png", 0, (90, 120))
    cropping = Cropping(random_crop=True, flip=True)
    views = [cropping.cut(path, view, 64) for view in range(6)]
    assert all(torch.equal(views[v], cropping.cut(path, v, 64)) for v in range(6))
    assert len({tuple(view.flatten().tolist()) for view in views}) > 3


def test_flip_mirrors_half_of_the_views(tmp_path):
    path = draw_picture(tmp_path / "a.png", 0, (64, 64))
    cropping = Cropping(flip=True)
    image = read_image(path)
    mirrored = 0
    for view in range(40):
        crop = cropping.cut(path, view, 64)
        assert torch.equal(crop, image) or torch.equal(crop, image.flip(-1))
        mirrored += torch.equal(crop, image.flip(-1))
    assert 8 <= mirrored <= 32


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [((60, 90), 0, (64, 96)), ((100, 200), 0, (100, 200)), ((100, 200), 80, (80, 160))],
)
def test_short_side(size, resize, expected):
    assert enlarge_or_shrink(torch.rand(3, *size), resize, 64).shape[-2:] == expected


def test_broken_images_are_replaced_and_named(tmp_path):
    folder = draw_pictures(tmp_path, 3)
    (folder / "000.png").write_bytes(b"no picture")
    whole = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(whole[: len(whole) // 2])
    files = sorted(folder.glob("*.png"))
    crop = Crops(Cropping(), files)[Item(0, 0, SIZES)]
    assert crop.path == files[2]
    assert list(crop.skipped) == [str(files[0]), str(files[1])]


def test_small_images_are_left_out(tmp_path):
    draw_picture(tmp_path / "a.png", 0, (40, 200))
    draw_picture(tmp_path / "b.png", 1, (70, 70))
    files: list[Path] = sorted(tmp_path.glob("*.png"))
    crop = Crops(Cropping(min_side=64), files)[Item(0, 0, SIZES)]
    assert crop.path == files[1]
    assert "short side 40" in crop.skipped[str(files[0])]


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="none of the 1 images"):
        Crops(Cropping(), [tmp_path / "a.png"])[Item(0, 0, SIZES)]


def test_fine_outputs_have_the_size_of_the_guidance():
    """Where it has more pixels than the target cells; and the draws of recipes without them stay as they were."""
    plain = Plan(TrainConfig(crop=64, resize=0, guidance=(1.0, 4.0), guidance_max=0, pooled=0.5), 4, [8])
    config = TrainConfig(crop=64, resize=0, guidance=(1.0, 4.0), guidance_max=0, pooled=0.5, fine_output=1.0)
    drawn = [(plain.sizes(step), Plan(config, 4, [8]).sizes(step)) for step in range(20)]
    assert {fine.fine for _, fine in drawn} == {True, False}
    for before, fine in drawn:
        assert fine.fine == (fine.guidance == 32)
        assert dataclasses.replace(fine, fine=False) == before
