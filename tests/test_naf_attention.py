"""The attention of NAF against explicit loops, its windows, its memory budget and its precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from naf_reference import axis_window, loop_attention
from torch.utils._python_dispatch import TorchDispatchMode

from naf_hub_naf.attention import CrossScaleAttention
from naf_hub_naf.model import NAF
from naf_hub_naf.windows import plan_tiles, source_cells, tile_axis, window_slots

TOLERANCE = 5e-5
ROOMY = 2**30


def operands(grid, size, *, batch=1, dim=16, channels=8, seed=0, dtype=torch.float32):
    """Random queries peaked enough for windows to matter, keys pooled from them, and values."""
    generator = torch.Generator().manual_seed(seed)
    queries = 2 * torch.randn(batch, dim, *size, generator=generator, dtype=torch.float64)
    keys = 2 * torch.randn(batch, dim, *grid, generator=generator, dtype=torch.float64)
    values = torch.randn(batch, channels, *grid, generator=generator, dtype=torch.float64)
    return tuple(t.permute(0, 2, 3, 1).contiguous().to(dtype) for t in (queries, keys, values))


def attend(queries, keys, values, *, heads=4, kernel=9, memory=ROOMY, **options):
    return CrossScaleAttention(
        queries, keys, values, heads=heads, kernel_size=kernel, memory=memory, **options
    )


SHAPES = {
    "x4 on 9x9": ((9, 9), (36, 36), 9),
    "x3 x2 non-square": ((10, 13), (30, 26), 9),
    "x4.5 x4.4": ((16, 16), (72, 70), 9),
    "x3.6 x4.5": ((14, 20), (50, 90), 9),
    "x1.4": ((9, 10), (13, 14), 5),
    "ratio 1": ((15, 17), (15, 17), 7),
    "grid smaller than the kernel": ((6, 5), (24, 20), 9),
    "thin": ((1, 12), (7, 40), 9),
    "one cell": ((1, 1), (6, 5), 9),
}


@pytest.mark.parametrize("fused", [False, True], ids=["products", "fused"])
@pytest.mark.parametrize("name", SHAPES)
def test_matches_loops(name, fused):
    grid, size, kernel = SHAPES[name]
    queries, keys, values = operands(grid, size)
    expected, _ = loop_attention(*(t[0].permute(2, 0, 1) for t in (queries, keys, values)), 4, kernel)
    output = attend(queries, keys, values, kernel=kernel, fused=fused).output()
    assert (output[0].permute(2, 0, 1) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("border", ["zero", "masked"])
@pytest.mark.parametrize("name", ["x4 on 9x9", "x4.5 x4.4", "ratio 1"])
def test_padded_windows_are_told_apart(name, border):
    """Negative control: the popular padded variants must fail the comparison above, and by far."""
    grid, size, kernel = SHAPES[name]
    queries, keys, values = operands(grid, size)
    padded, _ = loop_attention(
        *(t[0].permute(2, 0, 1) for t in (queries, keys, values)), 4, kernel, border=border
    )
    output = attend(queries, keys, values, kernel=kernel).output()
    assert (output[0].permute(2, 0, 1) - padded).abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("name", ["x3 x2 non-square", "x1.4", "ratio 1", "grid smaller than the kernel"])
def test_logits_in_slot_order(name):
    grid, size, kernel = SHAPES[name]
    queries, keys, values = operands(grid, size)
    _, expected = loop_attention(*(t[0].permute(2, 0, 1) for t in (queries, keys, values)), 4, kernel)
    output, logits = attend(queries, keys, values, kernel=kernel, memory=40_000).output_and_logits()
    for head in range(4):
        for pixel, scores in enumerate(expected[head]):
            ours = logits[0, head].flatten(0, 1)[pixel]
            assert (ours - torch.from_numpy(scores)).abs().max() < 3e-4
    assert torch.allclose(output, attend(queries, keys, values, kernel=kernel).output(), atol=1e-5)


def test_source_cells_round_as_pytorch_does():
    for cells in range(1, 33):
        for size in (*range(cells, 3 * cells), 7 * cells + 3, 97, 224, 257):
            index = torch.arange(cells, dtype=torch.float32).view(1, 1, cells, 1).expand(1, 4, cells, 2)
            index = index.contiguous(memory_format=torch.channels_last)
            expected = F.interpolate(index, (size, 2), mode="nearest-exact")[0, 0, :, 0].long()
            assert source_cells(cells, size).tolist() == expected.tolist(), (cells, size)


@given(st.integers(1, 12), st.integers(0, 60), st.sampled_from([1, 3, 5, 9]), st.integers(1, 16))
def test_tiles_cover_the_windows(cells, more, kernel, tile):
    size = cells + more
    windows = window_slots(cells, size, kernel)
    index = source_cells(cells, size)
    for i in range(size):
        slots = axis_window(size, cells, kernel, i, "shifted")
        assert windows[i].tolist() == [int(index[p]) for p in slots if p is not None]
    plan = tile_axis(cells, size, kernel, min(tile, size))
    for i in range(size):
        t, j = divmod(i, plan.tile)
        assert [plan.cells[t][s] for s in plan.slots[t][j]] == windows[i].tolist()
        bias = plan.bias[t][j] if plan.bias is not None else [0.0] * plan.union
        expected = [windows[i].tolist().count(c) for c in plan.cells[t]]
        assert [round(math.exp(b)) for b in bias] == expected
        assert plan.cells[t][0] >= 0
        assert plan.cells[t][-1] < cells


def test_integer_ratios_need_no_mask():
    y, x = plan_tiles(28, 28, 448, 448, 9, 2**22)
    assert y.bias is None
    assert x.bias is None
    assert (y.union, x.union) == (9, 9)


@pytest.mark.parametrize("memory", [30_000, 400_000, 3_000_000])
@pytest.mark.parametrize("name", ["x4 on 9x9", "x4.5 x4.4", "x1.4", "ratio 1", "one cell"])
def test_budget_does_not_change_results(name, memory):
    grid, size, kernel = SHAPES[name]
    tensors = operands(grid, size, batch=3, channels=10)
    whole = attend(*tensors, kernel=kernel)
    parts = attend(*tensors, kernel=kernel, memory=memory)
    assert torch.allclose(whole.output(), parts.output(), atol=1e-5)
    tracked = [t.clone().requires_grad_() for t in tensors]
    assert torch.allclose(attend(*tracked, kernel=kernel, memory=memory).output(), parts.output(), atol=1e-5)


def test_hopeless_budget_goes_pixel_by_pixel():
    tensors = operands((3, 4), (5, 7), batch=2)
    output = attend(*tensors, kernel=3, memory=1).output()
    assert torch.allclose(output, attend(*tensors, kernel=3).output(), atol=1e-5)


def chunk_count(attention: CrossScaleAttention) -> int:
    return sum(len(line) for block in attention.chunks() for line in block)


def test_smaller_budgets_make_more_chunks():
    tensors = operands((9, 9), (36, 36), batch=2)
    counts = [chunk_count(attend(*tensors, memory=m)) for m in (1, 50_000, 500_000, ROOMY)]
    assert counts[0] > counts[1] > counts[2] > counts[3] == 1


class LargestAllocation(TorchDispatchMode):
    """Bytes of the largest tensor that any operation allocates."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def test_full_resolution_filter_in_bounded_memory():
    """Ratio 1 with kernel 15 on 448x448, as in denoising: scores of all windows would take 180 MB a head."""
    memory, size = 8 * 2**20, (448, 448)
    queries, keys, values = torch.randn(1, *size, 4), torch.randn(1, *size, 4), torch.rand(1, *size, 3)
    with LargestAllocation() as watch:
        output = attend(queries, keys, values, heads=1, kernel=15, memory=memory).output()
    assert watch.bytes <= memory
    y, x = 3, 440  # a corner, where the window is shifted
    window = (0, slice(0, 15), slice(433, 448))
    scores = (keys[window] * queries[0, y, x]).sum(-1) / 2
    expected = (scores.flatten().softmax(0)[:, None] * values[window].flatten(0, 1)).sum(0)
    assert torch.allclose(output[0, y, x], expected, atol=1e-5)


@pytest.mark.parametrize("case", [((3, 3), (6, 6), 3), ((3, 4), (5, 7), 3), ((4, 3), (4, 3), 3)])
@pytest.mark.parametrize("memory", [5_000, ROOMY])
def test_gradcheck(case, memory):
    grid, size, kernel = case
    tensors = [t.requires_grad_() for t in operands(grid, size, dim=4, channels=3, dtype=torch.float64)]
    chunks = chunk_count(attend(*tensors, heads=2, kernel=kernel, memory=memory))
    assert (chunks == 1) == (memory == ROOMY)
    assert torch.autograd.gradcheck(
        lambda *t: attend(*t, heads=2, kernel=kernel, memory=memory).output(), tensors
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.02), (torch.float16, 0.005)])
@pytest.mark.parametrize("name", ["x4 on 9x9", "x4.5 x4.4"])
def test_half_precision_features(name, dtype, bound):
    grid, size, kernel = SHAPES[name]
    queries, keys, values = operands(grid, size)
    exact = attend(queries.double(), keys.double(), values.double(), kernel=kernel).output()
    output = attend(queries, keys, values.to(dtype), kernel=kernel).output()
    assert output.dtype == dtype
    assert (output - exact).abs().max() < bound


@pytest.mark.parametrize("channels", [1, 3, 5, 7, 8])
def test_channels_are_split_as_tensor_split(channels):
    grid, size = (5, 6), (10, 12)
    queries, keys, values = operands(grid, size, channels=channels)
    expected, _ = loop_attention(*(t[0].permute(2, 0, 1) for t in (queries, keys, values)), 4, 3)
    output = attend(queries, keys, values, kernel=3).output()
    assert (output[0].permute(2, 0, 1) - expected).abs().max() < TOLERANCE


def test_each_head_mixes_its_own_channels():
    queries, keys, values = operands((5, 6), (10, 12))
    base = attend(queries, keys, values, kernel=3).output()
    changed = values.clone()
    changed[..., 2:4] *= -3
    output = attend(queries, keys, changed, kernel=3).output()
    assert torch.allclose(output[..., 2:4], -3 * base[..., 2:4], atol=1e-5)
    assert torch.equal(output[..., :2], base[..., :2])
    assert torch.equal(output[..., 4:], base[..., 4:])


MODEL = NAF(dim=16, num_blocks=1).eval()


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 65), st.integers(1, 65)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 2),
    st.sampled_from([4, 5, 12]),
)
def test_any_shape(size, grid, batch, channels):
    image, features = torch.rand(batch, 3, 17, 23), torch.randn(batch, channels, *grid)
    with torch.no_grad():
        output = MODEL(image, features, size)
        ones = MODEL(image, torch.ones_like(features), size)
        alone = MODEL(image[-1:], features[-1:], size)
    assert output.shape == (batch, channels, *size)
    assert torch.allclose(ones, torch.ones_like(ones), atol=1e-5)
    low, high = features.amin(dim=(2, 3), keepdim=True), features.amax(dim=(2, 3), keepdim=True)
    assert (output >= low - 1e-5).all()
    assert (output <= high + 1e-5).all()
    assert torch.allclose(alone, output[-1:], atol=1e-5)


@pytest.mark.parametrize("size", [(3, 20), (20, 4), (2, 3), (1, 1)])
def test_output_smaller_than_features(size):
    """Defined as: average the features to the output size on that axis, then filter at ratio 1 there."""
    image, features = torch.rand(1, 3, 24, 24), torch.randn(1, 8, 9, 10)
    grid = (min(9, size[0]), min(10, size[1]))
    with torch.no_grad():
        expected = MODEL(image, F.adaptive_avg_pool2d(features, grid), size)
        assert torch.allclose(MODEL(image, features, size), expected, atol=1e-6)


try:
    from natten import na2d  # pyright: ignore[reportMissingImports]
except ImportError:
    na2d = None


@pytest.mark.skipif(
    na2d is None or not torch.cuda.is_available(), reason="needs NATTEN's compiled library and CUDA"
)
@pytest.mark.parametrize("name", ["x4 on 9x9", "x4.5 x4.4", "ratio 1"])
def test_matches_natten(name):
    """The published formulation on the published operator: blown-up keys and values, dilated windows."""
    assert na2d is not None
    grid, size, kernel = SHAPES[name]
    queries, keys, values = (t.cuda() for t in operands(grid, size, dim=128, channels=128))

    def heads(maps):
        maps = F.interpolate(maps.permute(0, 3, 1, 2), size, mode="nearest-exact")
        return maps.permute(0, 2, 3, 1).unflatten(-1, (4, 32)).contiguous()

    dilation = (size[0] // grid[0], size[1] // grid[1])
    expected = na2d(heads(queries), heads(keys), heads(values), (kernel, kernel), dilation=dilation)
    output = attend(queries, keys, values, kernel=kernel).output()
    assert (output - expected.flatten(-2)).abs().max() < 1e-3
