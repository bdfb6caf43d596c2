"""NAF at ratio 1: its attention against explicit loops, its gradients, and guidance made in rows."""

from __future__ import annotations

import pytest
import torch
from naf_reference import loop_attention
from torch.utils._python_dispatch import TorchDispatchMode

from naf_hub_naf.attention import CrossScaleAttention
from naf_hub_naf.denoiser import NAFDenoiser
from naf_hub_naf.guidance_rows import GuidanceRows
from naf_hub_naf.pixel_attention import attend, pixel_attention

# Height, width, kernel: tiles that fit and that do not, sides below tile, kernel and half of it.
SHAPES = [(20, 23, 15), (33, 16, 9), (10, 18, 15), (7, 15, 15), (1, 9, 15), (1, 1, 15), (5, 3, 3), (9, 8, 1)]


def operands(height: int, width: int, *, batch: int = 1, dim: int = 16, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(batch, height, width, dim, generator=generator, dtype=torch.float64)
    values = torch.randn(batch, height, width, 3, generator=generator, dtype=torch.float64)
    return maps.to(dtype), values.to(dtype)


@pytest.mark.parametrize(("height", "width", "kernel"), SHAPES)
def test_attention_matches_loops(height, width, kernel):
    maps, values = operands(height, width, dtype=torch.float32)
    first = (t[0].permute(2, 0, 1) for t in (maps, maps, values))
    expected, _ = loop_attention(*first, 1, kernel)
    assert (attend(maps, values, kernel)[0].permute(2, 0, 1) - expected).abs().max() < 5e-6


@pytest.mark.parametrize("border", ["zero", "masked"])
def test_windows_at_borders_are_shifted(border):
    maps, values = operands(9, 11, dtype=torch.float32)
    wrong, _ = loop_attention(*(t[0].permute(2, 0, 1) for t in (maps, maps, values)), 1, 7, border)
    assert (attend(maps, values, 7)[0].permute(2, 0, 1) - wrong).abs().max() > 0.1


@pytest.mark.parametrize(("height", "width", "kernel"), SHAPES)
def test_gradients_are_those_of_the_attention_that_autograd_records(height, width, kernel):
    maps, values = (t.requires_grad_() for t in operands(height, width, batch=2))
    recorded = CrossScaleAttention(maps, maps, values, heads=1, kernel_size=kernel, memory=2**30).output()
    upstream = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=values.dtype)
    expected = torch.autograd.grad(recorded, (maps, values), upstream)
    found = torch.autograd.grad(pixel_attention(maps, values, kernel), (maps, values), upstream)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("rows", [range(3), range(5, 21), range(29, 30)])
def test_rows_alone(rows):
    maps, values = operands(30, 19)
    part = attend(maps, values, 15, rows)
    assert (part - attend(maps, values, 15)[:, rows.start : rows.stop]).abs().max() < 1e-12


class LargestTensor(TorchDispatchMode):
    """Numbers in the largest storage that anything computed."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.untyped_storage().nbytes() // result.element_size())
        return result


def test_backward_keeps_no_scores():
    maps, values = (t.requires_grad_() for t in operands(64, 64, dim=16))
    with LargestTensor() as largest:
        pixel_attention(maps, values, 15).sum().backward()
    assert largest.numbers <= 8 * 8 * 8 * 22 * 22, "more than the scores of one line of tiles"


@pytest.mark.parametrize("size", [(64, 20), (9, 40), (1, 9), (1, 1)])
@pytest.mark.parametrize("memory", ["none held", "context held", "all held"])
def test_guidance_in_rows(size, memory):
    torch.manual_seed(0)
    model = NAFDenoiser(dim=32, rope_heads=2).eval().requires_grad_(False)
    image = torch.randn(1, 3, *size)
    branch = size[0] * size[1] * 16 * 4
    budget = {"none held": branch, "context held": branch * 3 // 2, "all held": branch * 4}[memory]
    guidance = GuidanceRows.within(model.image_encoder, image, budget)
    expected = model.queries(image)[0]
    for start in range(0, size[0], 7):
        stop = min(start + 7, size[0])
        found = model.rope(guidance.rows(start, stop), within=(start, size[0]))[0]
        assert (found - expected[start:stop]).abs().max() < 2e-5


def test_what_is_computed_again_is_not_held():
    model = NAFDenoiser(dim=16, num_blocks=1, kernel_size=3).eval().requires_grad_(False)
    image, sizes = torch.randn(1, 3, 200, 16), {}
    for memory in (30_000, 600_000):
        model.memory = memory
        with LargestTensor() as largest:
            model(image)
        sizes[memory] = largest.numbers
    assert sizes[30_000] < 200 * 16 * 8 <= sizes[600_000]


def test_results_stay_within_the_window_in_training_too():
    model = NAFDenoiser(dim=16, num_blocks=1).train()
    image = torch.rand(1, 3, 24, 20)
    restored = model(image)
    restored.square().mean().backward()
    assert image.min() <= restored.min()
    assert restored.max() <= image.max()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
