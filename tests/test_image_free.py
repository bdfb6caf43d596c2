"""The image-free ceiling, the controls that must lose, and targets finer than a backbone's cells."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from reconstruction_world import BACKBONE, draw_pictures

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.controls import GreyGuidance, OtherGuidance, add_controls
from naf_hub.reports import Report
from naf_hub_reconstruction.comparison import Protocol, space_of
from naf_hub_reconstruction.image_free import KERNEL, ImageFree, LeastSquares, place, to_simplex
from naf_hub_reconstruction.tiles import MARGIN, tile_starts, tiled_features


@pytest.fixture(scope="module")
def bilinear():
    return naf_hub.load("bilinear")


def fitted(like, pairs):
    sums = LeastSquares()
    for low, target in pairs:
        sums.add(low, target)
    return ImageFree(like, sums.kernels())


@pytest.mark.parametrize("ratio", [(2, 2), (3, 1)])
def test_it_finds_a_linear_upsampler_that_exists(bilinear, ratio):
    """Targets made by a known kernel a phase are rebuilt on new maps; a row or column mixed up would show."""
    kernels = torch.randn(*ratio, KERNEL * KERNEL)
    known = ImageFree(bilinear, kernels)
    maps = [torch.randn(1, 5, 12, 13) for _ in range(4)]
    image = torch.rand(1, 3, 8, 8)
    pairs = [(low, known(image, low, (12 * ratio[0], 13 * ratio[1]))) for low in maps]
    found = fitted(bilinear, pairs[:3])
    torch.testing.assert_close(found.kernels, kernels, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        found(image, maps[3], pairs[3][1].shape[-2:]), pairs[3][1], atol=1e-3, rtol=1e-4
    )


def test_convex_kernels_are_averages_and_no_average_is_better(bilinear):
    """At the least error, no weight can grow at the cost of another that is not 0 already."""
    low = torch.randn(2, 1, 6, 12, 12)
    pairs = [
        (maps, 0.7 * F.interpolate(maps, (24, 24), mode="bicubic") + torch.randn(1, 6, 24, 24) / 5)
        for maps in low
    ]
    sums = LeastSquares()
    for pair in pairs:
        sums.add(*pair)
    weights = sums.convex_kernels().double()
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, dtype=torch.float64))
    slopes = torch.einsum("ijkl,ijl->ijk", sums.gram, weights) - sums.moment
    excess = (slopes - slopes.amin(-1, keepdim=True)) / sums.moment.abs().amax(-1, keepdim=True)
    assert excess[weights > 1e-4].max() < 1e-3
    assert (sums.kernels().sum(-1) < 0.95).all()  # without the constraint features shrink


def test_the_nearest_point_of_the_simplex():
    points = torch.tensor([[0.2, 0.3, 0.5], [2.0, 0.0, 0.0], [0.6, 0.6, -1.0]])
    torch.testing.assert_close(
        to_simplex(points), torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    )


@pytest.mark.parametrize("size", [(16, 20), (13, 15)])
def test_on_what_it_was_fitted_to_no_linear_filter_is_better(bilinear, size):
    smooth = F.interpolate(torch.randn(2, 4, 3, 3), (8, 10), mode="bicubic")
    pairs = [
        (low[None], F.interpolate(low[None], size, mode="bicubic") + torch.randn(1, 4, *size) / 5)
        for low in smooth
    ]
    image = torch.rand(1, 3, 8, 8)

    def error(model):
        return sum(F.mse_loss(model(image, low, size), target).item() for low, target in pairs)

    ceiling = error(fitted(bilinear, pairs))
    others = [naf_hub.load(name) for name in ("nearest", "bilinear", "bicubic")]
    assert all(ceiling < error(other) for other in others)


def test_phases_are_the_places_within_a_cell():
    rows = place(4, 12)
    assert rows.cells.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert rows.phases.tolist() == [0, 1, 2] * 4
    assert (place(5, 8).phase_count, place(7, 7).phases.tolist()) == (2, [0] * 7)


def test_another_ratio_is_refused(bilinear):
    ceiling = ImageFree(bilinear, torch.zeros(2, 2, KERNEL * KERNEL))
    with pytest.raises(ValueError, match="fitted for a ratio of 2 x 2, asked for 4 x 4"):
        ceiling(torch.rand(1, 3, 8, 8), torch.rand(1, 2, 4, 4), 16)


def test_grey_guidance_sees_nothing_and_other_guidance_sees_the_one_before():
    torch.manual_seed(0)
    model = naf_hub.load("naf", weights=None, dim=32, num_blocks=1, kernel_size=3)
    first, second = torch.rand(2, 1, 3, 16, 16)
    features = torch.randn(1, 4, 4, 4)
    grey, other = GreyGuidance(model), OtherGuidance(model)
    assert torch.equal(grey(first, features), model(torch.full_like(first, 0.5), features))
    assert torch.equal(grey(first, features), grey(second, features))
    assert torch.equal(other(first, features), model(first.flip(-2, -1), features))
    assert torch.equal(other(second, features), model(first, features))
    pair = torch.cat([first, second])
    torch.testing.assert_close(other(pair, features.expand(2, -1, -1, -1))[1:], model(first, features))


def test_controls_stand_beside_guided_upsamplers_only(bilinear):
    model = naf_hub.load("joint_bilateral")
    found = add_controls({"a": bilinear, "b": model}, ["grey", "other", "grey"])
    assert list(found) == ["a", "b", "b (grey)", "b (other)"]
    assert space_of(found["b (grey)"]) == space_of(model)
    with pytest.raises(ValueError, match="no control 'gray'; there are: grey, other"):
        add_controls({}, ["gray"])


@pytest.mark.parametrize("name", naf_hub.list_upsamplers())
def test_an_upsampler_that_calls_itself_unguided_ignores_the_image(name):
    if naf_hub.info(name).learned:
        pytest.skip("learned ones are guided, and weights cost time")
    few = {"featup_implicit": {"views": 2, "steps": 2, "n_freqs": 2}, "upsample_anything": {"steps": 2}}
    model = naf_hub.load(name, **few.get(name, {}))
    features, images = torch.randn(1, 4, 6, 6), torch.rand(2, 1, 3, 24, 24)
    same = torch.equal(model(images[0], features), model(images[1], features))
    assert same != model.guided


def test_tiles_cover_every_cell_and_overlap_by_their_margins():
    for cells, tile in ((40, 16), (17, 16), (33, 12)):
        starts = tile_starts(cells, tile)
        assert (starts[0], starts[-1]) == (0, cells - tile)
        assert all(b - a <= tile - 2 * MARGIN for a, b in itertools.pairwise(starts))
    with pytest.raises(ValueError, match="too small"):
        tile_starts(20, 2 * MARGIN)


def test_tiles_of_a_local_backbone_are_its_whole_map():
    """Cells that see a neighbourhood smaller than the margin: no seam may show."""
    image = torch.rand(1, 3, 160, 160)

    def gather(part):
        return F.avg_pool2d(F.avg_pool2d(part, 4), 5, 1, 2)

    found = tiled_features(gather, image, 4, 16)
    torch.testing.assert_close(found, gather(image))
    named = tiled_features(lambda part: {"a": gather(part), "b": -gather(part)}, image, 4, 16)
    assert torch.equal(named["a"], found)
    with pytest.raises(ValueError, match="other grids"):
        tiled_features(lambda part: part, image, 4, 16)


def test_ratios_that_cannot_be_are_refused():
    assert (Protocol().enlarge, Protocol(ratio=8).enlarge) == (1, 4)
    with pytest.raises(ValueError, match=r"ratio 2 needs down to be at least 0\.5"):
        Protocol(ratio=2, down=0.25)


@pytest.mark.parametrize("more", [[], ["--ratio", "4", "--crop", "128"]])
def test_the_table_ends_with_the_ceiling_and_gain_is_measured_by_it(tmp_path, install_plugin, more):
    install_plugin("tiny-plugin", BACKBONE)
    pictures = draw_pictures(tmp_path, 3)
    names = ["--upsampler", "bilinear", "--upsampler", "joint_bilateral", "--control", "grey"]
    base = [
        "eval",
        "reconstruction",
        "--backbone",
        "tiny_backbone",
        "--crop",
        "64",
        "--images",
        str(pictures),
    ]
    result = CliRunner().invoke(cli, [*base, *names, *more, "--json"])
    assert result.exit_code == 0, result.output
    report = Report.from_json(result.stdout)
    assert [row.label for row in report.rows] == [
        "bilinear", "joint_bilateral", "joint_bilateral (grey)", "image_free", "image_free_convex",
    ]  # fmt: skip
    ceiling = report["image_free"].values
    assert ceiling["guidance_gain"] == 0
    assert ceiling["mse"] <= report["image_free_convex"].values["mse"] <= report["bilinear"].values["mse"]
    for row in report.rows:
        gain = 100 * (1 - row.values["mse"] / ceiling["mse"])
        assert row.values["guidance_gain"] == pytest.approx(gain)
