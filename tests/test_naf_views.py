"""What one pixel of NAF attends to, against the attention itself and the stored decomposition of appendix A."""

from __future__ import annotations

import pytest
import torch
from naf_reference import golden, released_state

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


@pytest.mark.parametrize("options", [{"rope_heads": 8, "num_heads": 2, "dim": 64}, {"num_heads": 2}])
def test_bands_add_up_where_heads_share_rotations(options):
    model = small(**options)
    window = query_window(model, torch.rand(1, 3, 27, 30), (9, 10), (3, 20))
    found = spectrum(model, window)
    assert torch.allclose(found.bands().sum((1, 2)), window.logits, atol=1e-5)
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
