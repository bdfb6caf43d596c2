"""What one pixel of NAF attends to, against the attention itself and the stored decomposition of appendix A."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from naf_reference import golden, released_state
from PIL import Image

from naf_hub.commands.main import cli
from naf_hub_naf.model import NAF
from naf_hub_naf.query_window import query_window
from naf_hub_naf.spectrum import pair_maps, rotation, spectrum

# What every kind of model, grid and place must agree in.
CASES = {
    "inside, x3": ({}, (9, 10), (27, 30), (13, 14)),
    "corner, x3 x2": ({}, (10, 12), (30, 24), (0, 23)),
    "ratio 2.7 x 2.3": ({}, (10, 11), (27, 25), (26, 12)),
    "smaller than the features": ({}, (12, 12), (10, 9), (4, 4)),
    "gaussian": ({"spatial": "gaussian"}, (9, 9), (18, 18), (3, 16)),
    "locality": ({"locality": 0.8}, (9, 10), (25, 30), (3, 16)),
    "one head": ({"num_heads": 1}, (9, 9), (18, 18), (9, 9)),
    "convolved keys": ({"pooling": "average_conv"}, (9, 9), (18, 18), (9, 9)),
}


def small(**options) -> NAF:
    torch.manual_seed(0)
    return NAF(**{"dim": 32, "rope_heads": 4, "kernel_size": 5, **options}).eval()


@pytest.mark.parametrize("name", CASES)
def test_a_window_is_what_the_model_does_there(name):
    options, grid, size, at = CASES[name]
    model = small(**options)
    image, features = torch.rand(1, 3, 40, 44), torch.randn(1, 10, *grid)
    window = query_window(model, image, features, at, size)
    with torch.no_grad():
        expected, logits = model.filter_with_logits(model.normalize(image), features, size)
    assert torch.allclose(window.weights.sum((1, 2)), torch.ones(model.num_heads))
    assert torch.allclose(window.output(), expected[0, :, at[0], at[1]], atol=1e-5)
    assert torch.allclose(window.logits.flatten(1), logits[0, :, at[0], at[1]], atol=1e-5)
    assert torch.allclose(window.on_grid().sum((1, 2)), torch.ones(model.num_heads))
    assert window.on_grid().shape == (model.num_heads, *window.grid)


def test_distances_are_to_the_cells_centres():
    model = small()
    window = query_window(
        model, torch.rand(3, 18, 18), (9, 9), (8, 1)
    )  # a quarter of a cell from two centres
    down, along = window.offsets()
    assert down.tolist() == [-1.75, -0.75, 0.25, 1.25, 2.25]
    assert along.tolist() == [-0.25, 0.75, 1.75, 2.75, 3.75]  # shifted inward at the border
    assert float(window.distances()[1, 0]) == pytest.approx((0.75**2 + 0.25**2) ** 0.5)
    assert window.pixels() == (slice(4, 14), slice(0, 10))


@pytest.mark.parametrize(("y", "x"), [(8, 10), (1, 18)])
def test_the_spectrum_is_that_of_appendix_a(y, x):
    tensors, stored = golden("naf_dim256_intermediates"), golden("naf_spectral")
    stored = {
        k.removeprefix(f"q{y}_{x}."): v.float() for k, v in stored.items() if k.startswith(f"q{y}_{x}.")
    }
    model = NAF(normalize=False).eval()
    model.load_state_dict(released_state())
    window = query_window(model, tensors["i.image"], tensors["i.features"], (y, x), (18, 20))
    found, turns = spectrum(model, window), rotation(model, window)
    scale = 64**0.5
    assert torch.allclose(found.bands().flatten(1, 2) * scale, stored["contribution"], atol=3e-3)
    assert torch.allclose(found.bands().sum((1, 2)), window.logits, atol=1e-4)
    assert torch.allclose(found.up_to(16), window.logits, atol=1e-4)
    assert torch.allclose(
        found.amplitudes[:, 0].flatten(1) * scale, stored["amplitude"].mean((2, 3)), rtol=1e-3
    )
    assert torch.allclose(turns.mean_cos(), stored["cos_dphi_mean_channel"], atol=1e-4)
    assert torch.allclose(turns.mean_sin(), stored["sin_dphi_mean_channel"], atol=1e-4)
    head, group, axis, frequency = pair = found.strongest_pair()
    maps = pair_maps(model, window, pair)
    pooled = maps.dot_cells[window.rows][:, window.columns], maps.cross_cells[window.rows][:, window.columns]
    assert group == 0
    assert torch.allclose(pooled[0], stored["dot"][head, 16 * axis + frequency], rtol=1e-3, atol=1e-3)
    assert torch.allclose(pooled[1], stored["cross"][head, 16 * axis + frequency], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"rope_heads": 8, "num_heads": 2, "dim": 64}, {"num_heads": 2}, {"num_heads": 2, "locality": 0.8}],
)
def test_bands_add_up_where_heads_share_rotations(options):
    model = small(**options)
    window = query_window(model, torch.rand(1, 3, 27, 30), (9, 10), (3, 20))
    found = spectrum(model, window)
    assert torch.allclose(found.bands().sum((1, 2)) + found.nearness, window.logits, atol=1e-5)
    assert torch.allclose(found.up_to(found.wavelengths.shape[1]), window.logits, atol=1e-5)
    assert found.nearness.any() == ("locality" in options)
    assert found.contributions.shape[1] == model.image_encoder.rope.heads // model.num_heads
    assert found.wavelengths[:, 0].tolist() == [4.5, 5.0]  # half the map, in cells


@pytest.mark.parametrize(
    ("options", "word"),
    [({"spatial": "none"}, "spatial"), ({"rope_heads": 1, "num_heads": 4}, "rope_heads=1")],
)
def test_models_without_a_spectrum_say_so(options, word):
    model = small(**options)
    window = query_window(model, torch.rand(1, 3, 27, 30), (9, 10), (3, 20))
    for look in (spectrum, rotation):
        with pytest.raises(ValueError, match=word):
            look(model, window)


@pytest.mark.parametrize(
    ("images", "at", "word"), [(1, (27, 0), "outside"), (1, (0, -1), "outside"), (2, (0, 0), "one image")]
)
def test_bad_queries_are_told(images, at, word):
    with pytest.raises(ValueError, match=word):
        query_window(small(), torch.rand(images, 3, 27, 30), (9, 10), at)


@pytest.fixture(scope="module")
def looked_at():
    pytest.importorskip("matplotlib")
    model = small()
    image = torch.rand(3, 27, 30)
    return model, image, query_window(model, image, torch.randn(1, 8, 9, 10), (0, 20))


@pytest.mark.parametrize("view", ["window", "spectrum", "distance", "pair"])
def test_figures_say_what_they_show(looked_at, view):
    from naf_hub_naf.window_figures import FIGURES

    figure = FIGURES[view](*looked_at)
    drawn = [axes for axes in figure.get_axes() if axes.axison and axes.has_data()]
    assert len(drawn) >= 6
    for axes in drawn:
        assert axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    maps = [axes for axes in drawn if axes.images and "cells" in axes.get_xlabel()]
    assert maps
    for axes in maps:
        (bar,) = axes.child_axes
        assert bar.get_ylabel()


def test_the_window_is_drawn_as_it_is(looked_at):
    from naf_hub_naf.window_figures import window_figure

    window = looked_at[2]
    panels = {axes.get_title(): axes for axes in window_figure(*looked_at).get_axes()}
    (title,) = [title for title in panels if title.startswith("weights, head 2")]
    shown = panels[title].images[0]
    assert np.allclose(
        shown.get_array(), window.weights[2].numpy(), atol=1e-6
    )  # at a whole ratio slots are cells
    assert shown.get_extent() == [4 - 0.5, 8 + 0.5, 4 + 0.5, 0 - 0.5]
    logits = panels["logits, mean of heads"].images[0].get_array()
    assert np.allclose(logits, window.logits.mean(0).numpy(), atol=1e-6)


def test_marks_at_the_border_are_whole(looked_at):
    from naf_hub_naf.window_figures import window_figure

    marks = [mark for axes in window_figure(*looked_at).get_axes() for mark in (*axes.lines, *axes.patches)]
    assert marks
    assert not any(mark.get_clip_on() for mark in marks)


def photo(folder: Path) -> Path:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(folder / "photo.png")
    return folder / "photo.png"


def attention(*arguments: object):
    return CliRunner().invoke(cli, ["attention", *map(str, arguments)])


def test_the_command_writes_figures_and_never_over_others(tmp_path):
    pytest.importorskip("matplotlib")
    asked = [photo(tmp_path), "--at", "59,0", "-o", tmp_path / "views", "--size", "32", "--view", "pair"]
    result = attention(*asked, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["row"], found["column"], found["size"]) == (0, 47, [32, 48])
    assert [Path(file).name for file in found["files"]] == ["photo_x59_y0_pair.png"]
    assert len(found["heads"]) == 4
    assert 0 < found["heads"][0]["entropy"] < 81
    before = Path(found["files"][0]).read_bytes()
    again = attention(*asked)
    assert again.exit_code == 1
    assert "--force" in again.stderr
    assert Path(found["files"][0]).read_bytes() == before
    assert attention(*asked, "--force").exit_code == 0
    Path(found["files"][0]).write_bytes(b"mine")
    assert "is no result of naf-hub; it stays" in attention(*asked, "--force").stderr
    assert Path(found["files"][0]).read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["--at", "60,0"], 1, "x goes from 0 to 59 and y from 0 to 39"),
        (["--at", "5"], 2, "is not x,y"),
        (["--at", "5,5", "--upsampler", "bilinear"], 2, "of NAF alone"),
        (["--at", "5,5", "--upsampler", "naf_denoiser"], 2, "naf_denoiser"),
        (["--at", "5,5", "--size", "big"], 2, "is not N, HxW"),
    ],
)
def test_what_has_no_attention_is_one_line(tmp_path, arguments, status, word):
    result = attention(photo(tmp_path), "-o", tmp_path / "views", *arguments)
    assert result.exit_code == status
    assert word in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "views").exists()


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = attention(photo(tmp_path), "--at", "5,5", "-o", tmp_path / "views")
    assert result.exit_code == 1
    assert result.stderr == "naf-hub: figures of attention need matplotlib: pip install 'naf-hub[eval]'\n"
