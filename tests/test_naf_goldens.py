"""NAF against the published model: outputs, logits, gradients and intermediate maps on stored cases."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from naf_reference import golden, golden_cases, released_state

from naf_hub_naf.model import NAF
from naf_hub_naf.rope import RoPE

CASES = golden_cases("naf_dim256_cases")
OUTPUT, LOGITS, GRADIENT = 5e-5, 3e-4, 1e-4


def released(**options) -> NAF:
    model = NAF(**options).eval()
    model.load_state_dict(released_state())
    return model


def apart(a, b) -> float:
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("gradients", [False, True], ids=["streamed", "plain"])
@pytest.mark.parametrize("name", CASES)
def test_outputs(name, gradients):
    case, tensors = CASES[name], golden("naf_dim256_cases")
    model = released(kernel_size=case["k"])
    with torch.set_grad_enabled(gradients):
        output = model.filter(
            tensors[f"{name}.image"], tensors[f"{name}.features"], tuple(case["output_size"])
        )
    assert output.shape == tensors[f"{name}.output"].shape
    assert apart(output, tensors[f"{name}.output"]) < OUTPUT


def test_intermediate_maps():
    tensors = {k.removeprefix("i."): v for k, v in golden("naf_dim256_intermediates").items()}
    image, features, size = tensors["image"], tensors["features"], (18, 20)
    model = released()
    pixel, context = (branch(image) for branch in model.image_encoder.branches)
    assert apart(pixel[:, :8], tensors["pixel_branch_first8"]) < OUTPUT
    assert apart(context[:, :8], tensors["context_branch_first8"]) < OUTPUT
    assert apart(model.guidance(image, size), tensors["guidance_before_rope"]) < OUTPUT
    queries, keys, _ = model.operands(image, features, size)
    assert apart(queries.permute(0, 3, 1, 2), tensors["queries"]) < OUTPUT
    assert apart(keys.permute(0, 3, 1, 2), tensors["keys"]) < OUTPUT
    output, logits = model.filter_with_logits(image, features, size)
    assert apart(output, tensors["output"]) < OUTPUT
    assert logits.shape == tensors["attention_logits"].shape
    assert apart(logits, tensors["attention_logits"]) < LOGITS


def test_coordinates():
    coordinates = golden("naf_dim256_intermediates")["i.rope_coords"]
    rope = RoPE(256)
    grid = torch.cartesian_prod(rope.coordinates(18), rope.coordinates(20))
    assert apart(grid, coordinates) < 1e-6


def test_rotation_in_evaluation_and_training(monkeypatch):
    tensors = {k.removeprefix("rope."): v for k, v in golden("naf_dim64").items() if k.startswith("rope.")}
    rope = RoPE(64).eval()
    maps = tensors["input"].permute(0, 2, 3, 1)
    assert apart(rope(maps).permute(0, 3, 1, 2), tensors["eval_output"]) < OUTPUT
    with torch.no_grad():  # in place, and where the layout forbids it
        assert apart(rope(maps.clone(), overwrite=True), rope(maps)) < 1e-6
        assert apart(rope(maps.contiguous(), overwrite=True), rope(maps)) < 1e-6
    rope.train()
    monkeypatch.setattr(rope, "draw_factor", lambda: tensors["train_scale"].float())
    assert apart(rope(maps).permute(0, 3, 1, 2), tensors["train_output"]) < OUTPUT


def test_training_draws_a_factor_for_every_forward():
    rope = RoPE(64, rescale=2.0).train()
    draws = torch.stack([torch.as_tensor(rope.draw_factor()) for _ in range(400)]).log()
    assert len(draws.unique()) > 390
    assert draws.abs().max() <= math.log(2) + 1e-6
    assert abs(float(draws.mean())) < 0.1  # log-uniform: as often smaller as larger
    assert abs(float(draws.std()) - math.log(2) / math.sqrt(3)) < 0.05
    assert rope.eval().draw_factor() == 1.0


def test_gradients():
    tensors = golden("naf_dim64")
    model = NAF(dim=64).eval()
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    model.load_state_dict(state)
    image, features = (tensors[f"c.{n}"].clone().requires_grad_() for n in ("image", "features"))
    output = model.filter(image, features, (22, 20))
    assert apart(output, tensors["c.output"]) < OUTPUT
    output.backward(tensors["c.grad_output"])

    def relative(a, b):
        return float((a - b).norm() / b.norm())

    assert relative(image.grad, tensors["c.grad_image"]) < GRADIENT
    assert relative(features.grad, tensors["c.grad_features"]) < GRADIENT
    for name, parameter in model.named_parameters():
        assert relative(parameter.grad, tensors[f"c.grad.{name}"]) < GRADIENT, name


@pytest.mark.parametrize("rope_heads", [1, 4])
def test_denoising(rope_heads):
    tensors, name = golden("naf_denoise"), f"f_rope{rope_heads}"
    model = NAF(num_heads=1, rope_heads=rope_heads, kernel_size=15).eval()
    model.load_state_dict(released_state() | {"image_encoder.rope.periods": tensors[f"{name}.periods"]})
    assert apart(RoPE(256, rope_heads).periods, tensors[f"{name}.periods"]) < 1e-4
    with torch.no_grad():
        output = model.filter(tensors[f"{name}.image"], tensors[f"{name}.features"], (20, 22))
    assert apart(output, tensors[f"{name}.output"]) < OUTPUT


@pytest.mark.parametrize(("y", "x"), [(8, 10), (1, 18)])
def test_spectral_identity(y, x):
    """Appendix A: logits are sums of cosines and sines weighted by dot and cross products of the guidance."""
    tensors, spectral = golden("naf_dim256_intermediates"), golden("naf_spectral")
    model, size, grid = released().double(), (18, 20), (9, 10)
    with torch.no_grad():
        maps = model.guidance(tensors["i.image"].double(), size)[0]
        logits = model.filter_with_logits(tensors["i.image"].double(), tensors["i.features"].double(), size)[
            1
        ]
    rope = model.image_encoder.rope
    rows, columns = rope.angles(*size)
    count = len(rope.periods)
    phase = torch.cat([rows[:, None].expand(-1, 20, -1), columns[None].expand(18, -1, -1)], -1)
    a, b = maps.unflatten(0, (4, 2, 2 * count)).unbind(1)  # (heads, pairs, H, W)
    shift = (phase - phase[y, x]).permute(2, 0, 1)
    dot = a[:, :, y, x, None, None] * a + b[:, :, y, x, None, None] * b
    cross = a[:, :, y, x, None, None] * b - b[:, :, y, x, None, None] * a
    bands = F.adaptive_avg_pool2d(dot * shift.cos() - cross * shift.sin(), grid)
    top, left = spectral[f"q{y}_{x}.window_origin"].tolist()
    bands = bands[:, :, top : top + 9, left : left + 9]
    assert apart(bands, spectral[f"q{y}_{x}.contribution"]) < LOGITS
    total = bands.sum(dim=1) / math.sqrt(4 * count)
    assert apart(total, spectral[f"q{y}_{x}.logits"]) < LOGITS
    assert apart(logits[0, :, y, x].unflatten(-1, (9, 9)), total) < 1e-9
