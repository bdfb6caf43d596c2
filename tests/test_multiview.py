"""Learning from views of a picture: the loss of FeatUp and FeatSharp, and the second stage of LoftUp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reconstruction_world import BACKBONE, TINY, draw_picture, prepare_run, same_state
from safetensors.torch import load_file
from torch import Tensor
from training_world import stop_after

import naf_hub
from naf_hub.parts.jittered_views import Jitter, apply_jitter, draw_jitters
from naf_hub.parts.learned_downsampling import AttentionDownsampler, KernelDownsampler
from naf_hub.training.checkpoints import newest
from naf_hub.training.course import ALONE
from naf_hub.training.run import Run
from naf_hub.training.settings import ConfigError, build
from naf_hub_reconstruction.config import TrainConfig, read_recipe
from naf_hub_reconstruction.course import ReconstructionCourse, upsampler_of
from naf_hub_reconstruction.sampled_field import sampled_field
from naf_hub_reconstruction.self_distillation import SelfDistillation, cosines_apart

# The smallest of each recipe: options of the upsampler, and what else is set.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "featup_jbu-multiview": ({"ratio": 2}, {}),
    "featsharp-multiview": ({"resolution": 32, "window": 3}, {"kernel": 4, "lr": 5e-3}),
    "loftup-stage2": ({"n_freqs": 4}, {"down": [0.5]}),
}
BESIDE = ("downsampler.", "spread.")


@pytest.fixture
def picture(tmp_path: Path, install_plugin) -> Path:
    install_plugin("tiny-plugin", BACKBONE)
    return draw_picture(tmp_path / "pictures" / "a.png", 7)


def tiny_run(recipe: str, picture: Path, out: Path, resume: bool = False, **changes: Any) -> Any:
    options, more = CASES[recipe]
    tiny = {key: value for key, value in TINY.items() if not key.startswith("upsampler")}
    quick = {
        "upsampler_options": options, "steps": 10, "batch": 1, "views": 1, "lr": 1e-2, "precision": "fp32",
        "schedule": "constant", "images": [str(picture)], "jitters": 2, "projections": 8,
    }  # fmt: skip
    settings = build(TrainConfig, read_recipe(recipe), tiny, quick, more, changes)
    return Run(ReconstructionCourse(settings), out, resume=resume, device="cpu", progress=False)


def loss_of(run: Any) -> float:
    """Over views that are the same for each call, without dropout."""
    (batch,) = run.course.batches(0, 1, ALONE)
    run.model.eval()
    torch.manual_seed(5)
    with torch.no_grad():
        losses = [run.course.loss(run.model, batch, 0) for _ in range(5)]
    run.model.train()
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("recipe", CASES)
def test_the_recipe_trains_and_the_upsampler_alone_is_written(recipe: str, picture: Path, tmp_path: Path):
    run = tiny_run(recipe, picture, tmp_path / "run")
    before = loss_of(run)
    summary = run.run()
    assert loss_of(run) < before - 0.1
    assert {p.grad is None for key, p in run.model.named_parameters() if key.startswith(BESIDE)} == {False}
    name = run.course.settings.upsampler
    loaded, trained = naf_hub.load(name, weights=summary["weights"]), upsampler_of(run.model)
    assert same_state(loaded.state_dict(), dict(trained.state_dict()))
    assert load_file(Path(summary["weights"]) / "model.safetensors").keys() == trained.state_dict().keys()
    assert f"The loss is `{run.course.settings.loss}`" in (tmp_path / "run/weights/README.md").read_text()


@pytest.mark.parametrize("recipe", ["featup_jbu-multiview", "loftup-stage2"])
def test_interrupted_and_resumed_equals_straight(recipe: str, picture: Path, tmp_path: Path):
    changes = {"steps": 4, "accumulate": 2, "ema": 0.9}
    tiny_run(recipe, picture, tmp_path / "a", **changes).run()
    with pytest.raises(KeyboardInterrupt):
        stop_after(tiny_run(recipe, picture, tmp_path / "b", **changes), 2).run()
    tiny_run(recipe, picture, tmp_path / "b", resume=True, **changes).run()
    one, other = (newest(tmp_path / run / "checkpoints") for run in "ab")
    assert one is not None
    assert other is not None
    assert same_state(one.model(), other.model())
    assert same_state(one.training(), other.training())
    assert {"downsampler.factor", "spread.logarithm.bias"} < one.model().keys()


def test_held_out_error_is_that_of_the_upsampler(picture: Path, tmp_path: Path):
    others = draw_picture(tmp_path / "others" / "b.png", 8)
    changes = {"steps": 1, "held_out": [str(others)], "preview_every": 1}
    run = tiny_run("featup_jbu-multiview", picture, tmp_path / "run", **changes)
    found = run.run()["held_out"]["tiny_backbone"]
    assert found["images"] == 1
    assert (tmp_path / "run/previews/step-00000001.png").is_file()
    plain = prepare_run(
        picture, tmp_path / "plain", upsampler="featup_jbu", upsampler_options={"ratio": 2},
        init=str(tmp_path / "run/weights"), held_out=[str(others)], guidance=[16.0],
    )  # fmt: skip
    with torch.no_grad():
        assert plain.course.examine(plain.model.eval(), 500).figures["tiny_backbone"] == pytest.approx(found)


@pytest.mark.parametrize(
    ("changes", "cache", "message"),
    [
        ({"loss": "mse+multiview"}, False, "multiview goes with crf, distilled and tv alone, not with mse"),
        ({"loss": "mse+crf"}, False, "crf needs multiview beside it"),
        ({"loss": "multiview+distilled", "down": [1.0]}, False, "down must be below 1"),
        ({"loss": "multiview", "levels": 1}, False, "none of levels, pooled, windows and fine_output"),
        ({"loss": "multiview", "jitters": 0}, False, "jitters = 0: must be at least 1"),
        ({"loss": "multiview", "jitter_zoom": 0.9}, False, "jitter_zoom = 0.9: must be at least 1"),
        ({"loss": "multiview", "jitter_border": 0.6}, False, "between 0 and 0.5"),
        ({"loss": "multiview", "downsampler": "mean"}, False, "downsampler"),
        ({"loss": "multiview", "kernel": 4}, False, "kernel = 4: smaller than a cell, 8 pixels"),
        ({"loss": "multiview", "backbone": ["tiny_backbone", "tiny_backbone"]}, False, "name one"),
        ({"loss": "multiview", "views": 1}, True, "--cache-features keeps no views"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, cache, message, picture: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=message) as error:
        prepare_run(picture, tmp_path / "a", cache=tmp_path / "cache" if cache else None, **changes)
    assert "\n" not in str(error.value)


def ramp(side: int) -> Tensor:
    """Rows and columns of pixels' centres, as shares of the side."""
    at = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(at, at, indexing="ij"))[None]


@pytest.mark.parametrize("jitter", [Jitter(1.7, 0.31, 0.83, True), Jitter(1.0, 0.2, 0.9, border=0.1)])
def test_a_map_of_another_size_moves_with_the_picture(jitter: Jitter):
    picture = F.avg_pool2d(apply_jitter(ramp(64), jitter), 4)
    found = apply_jitter(ramp(16), jitter, (64, 64))
    inside = slice(3, -3)  # beyond the borders, reflections are about other pixels
    torch.testing.assert_close(found[..., inside, inside], picture[..., inside, inside], atol=1e-5, rtol=0)


def test_views_keep_to_their_bounds_and_follow_the_seed():
    drawn = draw_jitters(40, 3, 1.5, 0.1)
    assert drawn[:5] == draw_jitters(5, 3, 1.5, 0.1) != draw_jitters(5, 4, 1.5, 0.1)
    assert {jitter.mirrored for jitter in drawn} == {True, False}
    assert min(jitter.zoom for jitter in drawn) == 1
    assert 1.3 < max(jitter.zoom for jitter in drawn) <= 1.5


def test_downsamplers_start_as_a_mean_of_patches_and_keep_what_is_even():
    maps = torch.rand(2, 3, 16, 24)
    torch.testing.assert_close(KernelDownsampler((8, 8))(maps, (2, 3)), F.avg_pool2d(maps, 8))
    even = torch.rand(2, 3, 1, 1).expand(2, 3, 16, 24)
    torch.testing.assert_close(
        AttentionDownsampler(3, (11, 11))(even, (2, 3)), even[..., :2, :3].contiguous()
    )


@pytest.mark.parametrize(
    ("settings", "side", "jitter"),
    [({"kernel": 12}, 32, Jitter()), ({"cell_pixels": 2}, 8, Jitter(1.7, 0.31, 0.83, True))],
    ids=["patches larger than cells", "fewer pixels than the picture"],
)
def test_cells_of_a_view_lie_where_those_of_the_picture_do(
    settings, side, jitter, picture: Path, tmp_path: Path
):
    settings = {"downsampler": "kernel", "projections": 0, **settings}
    run = tiny_run("featup_jbu-multiview", picture, tmp_path / "run", **settings)
    found: list[Tensor] = []
    run.model.downsampler.register_forward_hook(lambda module, given, output: found.append(output))
    run.model._compare(ramp(side).repeat(1, 4, 1, 1), torch.zeros(1, 8, 4, 4), jitter, 32, None)
    expected = F.avg_pool2d(apply_jitter(ramp(32), jitter), 8)
    torch.testing.assert_close(found[0][:, :2, 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_like_points_with_unlike_features_cost():
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 2.0
    edge = image[:, :1].repeat(1, 4, 1, 1)
    shifted = edge.roll(3, -1)
    assert sampled_field(image, torch.ones_like(edge)).abs() < 1e-5
    assert sampled_field(image, edge) < 0.5 * sampled_field(image, shifted)
    # In one direction a distance is that of the shadows.
    direction = torch.tensor([[1.0], [0], [0], [0]])
    torch.manual_seed(1)
    alone = sampled_field(image, edge, direction)
    torch.manual_seed(1)
    assert alone.item() == pytest.approx(sampled_field(image, edge).item() / 4, rel=1e-4)


def test_cosines_are_compared_as_with_all_pairs():
    found, target = torch.randn(2, 5, 4, 6), torch.randn(2, 5, 4, 6)
    pairs = [F.normalize(maps.flatten(2), dim=1) for maps in (found, target)]
    expected = F.mse_loss(*(vectors.mT @ vectors for vectors in pairs))
    assert cosines_apart(found, target).item() == pytest.approx(expected.item(), rel=1e-5)
    assert cosines_apart(found, 3 * found).abs() < 1e-6


def test_the_average_follows_once_a_step_and_stays_in_eval_mode():
    upsampler = naf_hub.load("loftup", weights=None, channels=8, n_freqs=2).train()
    itself = SelfDistillation(upsampler).train()
    assert upsampler.training
    assert not itself.average.training
    weight = itself.average.final_conv[0].weight
    before = weight.clone()
    with torch.no_grad():
        upsampler.final_conv[0].weight += 1
    itself.follow(upsampler, 0)
    assert torch.equal(weight, before)
    for _ in range(3):
        itself.follow(upsampler, 1)
    torch.testing.assert_close(weight, before + 0.001)
    assert not any(parameter.requires_grad for parameter in itself.parameters())


def test_a_part_in_full_size_is_compared_where_it_lies(picture: Path, tmp_path: Path):
    """An average that gives the picture itself agrees with a result that is the picture, and with no other."""
    run = tiny_run("loftup-stage2", picture, tmp_path / "run")
    itself = run.model.itself

    def same(picture, features, size):
        return F.interpolate(picture, size, mode="bilinear")

    itself.average.forward = same
    crops = F.interpolate(torch.rand(1, 3, 8, 8), (64, 64), mode="bilinear")
    teacher = run.course.by_place[0]
    maps = F.interpolate(crops, (32, 32), mode="bilinear")
    right = [itself(teacher, crops, 32, maps).item() for _ in range(4)]
    wrong = [itself(teacher, crops, 32, maps.flip(-1)).item() for _ in range(4)]
    assert max(right) < 0.1 * min(wrong)
