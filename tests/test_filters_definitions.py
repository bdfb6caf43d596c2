"""The filters against plain loops and other libraries, and what happens at borders and tiny sizes."""

from __future__ import annotations

import math

import kornia
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import naf_hub
import naf_hub_filters.joint_bilateral_upsampling as kopf
import naf_hub_filters.window_average as windows
from naf_hub_filters.bilateral import Bilateral, bilateral_filter, joint_bilateral_filter
from naf_hub_filters.blur import Blur
from naf_hub_filters.borders import pad
from naf_hub_filters.guided import (
    FastGuidedFilter,
    GuidedFilter,
    box_mean,
    guided_filter,
    inverse_of_definite,
)
from naf_hub_filters.interpolation import BilinearBlocks, Interpolation, lanczos_matrix, resize
from naf_hub_filters.jbu import JBU
from naf_hub_filters.joint_bilateral import JointBilateral
from naf_hub_filters.joint_bilateral_upsampling import JointBilateralUpsampling

SIZES = st.tuples(*[st.integers(1, 12)] * 2, *[st.integers(1, 18)] * 2)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reflect(i: int, n: int, radius: int) -> int:
    """Mirrored without the edge, or the edge repeated where there is too little to mirror."""
    if n <= radius:
        return min(max(i, 0), n - 1)
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


def test_lanczos_is_pillows():
    x = rand(13, 10).float()
    for height, width in ((40, 31), (5, 4), (13, 10)):
        pillow = Image.fromarray(x.numpy()).resize((width, height), Image.Resampling.LANCZOS)
        found = resize(x[None, None], (height, width), "lanczos")[0, 0]
        assert np.abs(found.numpy() - np.asarray(pillow)).max() < 1e-6


def test_lanczos_widens_only_when_shrinking():
    assert (lanczos_matrix(8, 32)[16] != 0).sum() == 6
    assert (lanczos_matrix(32, 8)[4] != 0).sum() == 24


def test_blur_mixes_each_cell_with_the_mean_around_it():
    features = rand(1, 2, 6, 7)
    found = Blur(radius=1, share=0.25)(rand(1, 3, 6, 7), features)
    for y, x in ((0, 0), (3, 4), (5, 2)):
        around = features[0, :, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean((1, 2))
        assert torch.allclose(found[0, :, y, x], 0.75 * features[0, :, y, x] + 0.25 * around)
    assert torch.allclose(
        Blur()(rand(1, 3, 6, 7), features.float()), Blur()(rand(1, 3, 6, 7), features).float()
    )


def test_joint_bilateral_is_kornias():
    features, guidance = rand(2, 6, 14, 11), rand(2, 3, 14, 11, seed=1)
    for distance in ("l1", "l2"):
        wanted = kornia.filters.joint_bilateral_blur(
            features, guidance, (7, 7), 0.3, (2.0, 2.0), color_distance_type=distance
        )
        found = joint_bilateral_filter(features, guidance, 7, 0.3, 2.0, distance)
        assert (found - wanted).abs().max() < 1e-12


def test_guided_filter_is_kornias():
    features, guidance = rand(1, 4, 16, 13), rand(1, 3, 16, 13, seed=1)
    wanted = kornia.filters.guided_blur(guidance, features, 7, 1e-3)
    found = guided_filter(features, guidance, 3, 1e-3, border="reflect101")
    assert (found - wanted).abs().max() < 1e-10


def test_guided_filter_keeps_precision_at_a_large_offset():
    """Features far from zero: the covariance must not be lost in E[xy] - E[x] E[y]."""
    ramp = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    features, guidance = rand(1, 2, 20, 20) + 1000, ramp + 0.02 * rand(1, 3, 20, 20, seed=1)
    rounded = features.float(), guidance.float()
    wanted = guided_filter(rounded[0].double(), rounded[1].double(), 2, 1e-5)
    found = guided_filter(*rounded, 2, 1e-5)
    assert (found - wanted).abs().max() < 3e-4


def test_fast_guided_upsampler_is_the_filter_of_the_interpolated_features():
    image, features = rand(2, 3, 45, 38), rand(2, 5, 6, 7, seed=1)
    wanted = guided_filter(resize(features, (45, 38)), image, 16, 1e-2, factor=4)
    assert (FastGuidedFilter()(image, features) - wanted).abs().max() < 1e-12


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 2), st.integers(1, 4))
def test_box_means_against_loops(size, radius):
    x = rand(1, 1, *size)
    for border in ("shrink", "symmetric", "reflect101"):
        found = box_mean(x, radius, border)[0, 0]
        for y in range(size[0]):
            for z in range(size[1]):
                total, count = 0.0, 0
                for i in range(y - radius, y + radius + 1):
                    for j in range(z - radius, z + radius + 1):
                        if border == "shrink":
                            if not (0 <= i < size[0] and 0 <= j < size[1]):
                                continue
                            at = i, j
                        elif border == "reflect101":
                            at = reflect(i, size[0], radius), reflect(j, size[1], radius)
                        else:
                            at = _symmetric(i, size[0], radius), _symmetric(j, size[1], radius)
                        total, count = total + x[0, 0, at[0], at[1]].item(), count + 1
                assert math.isclose(found[y, z].item(), total / count, abs_tol=1e-12)


def _symmetric(i: int, n: int, radius: int) -> int:
    if n < radius:
        return min(max(i, 0), n - 1)
    return -i - 1 if i < 0 else 2 * n - 1 - i if i >= n else i


def test_padding_is_torchs_and_repeats_the_edge_of_short_axes():
    x = rand(1, 2, 6, 5)
    assert torch.equal(pad(x, 4), F.pad(x, (4, 4, 4, 4), mode="reflect"))
    short = pad(x[..., :4], 4)
    assert torch.equal(short[0, 0, 4], F.pad(x[0, 0, :1, :4], (4, 4), mode="replicate")[0])
    assert torch.equal(short[0, 0, :, 4], F.pad(x[0, 0, :, :1].T, (4, 4), mode="reflect")[0])


@settings(max_examples=20, deadline=None)
@given(SIZES, st.randoms(use_true_random=False))
def test_bilinear_blocks_are_parts_of_the_whole_map(size, random):
    features = rand(2, 3, *size[:2])
    rows = sorted(random.choices(range(size[2]), k=4))
    cols = random.choices(range(size[3]), k=5)
    whole = F.interpolate(features, size[2:], mode="bilinear")
    found = BilinearBlocks(features, (size[2], size[3]))(torch.tensor(rows), torch.tensor(cols))
    assert (found - whole[:, :, rows][..., cols]).abs().max() < 1e-12


@settings(max_examples=10, deadline=None)
@given(SIZES)
def test_jbu_against_loops(size):
    torch.manual_seed(0)
    model = JBU(dim=16, radius=2).double().eval()
    kernel = model.bilateral_filter
    image, features = rand(1, 3, 9, 8), rand(1, 2, *size[:2], seed=1)
    with torch.no_grad():
        kernel.range_temp += 1.5
        kernel.sigma_spatial -= 0.4
        found = model(image, features, size[2:])
        guidance = F.interpolate(model.normalize(image), size[2:], mode="bilinear")
        keys = kernel.range_proj(guidance)[0]
        values = F.interpolate(features, size[2:], mode="bilinear")[0]
        spatial = kernel.spatial(2, torch.float64).flatten()
    for y in range(size[2]):
        for x in range(size[3]):
            window = [
                (reflect(y + dy, size[2], 2), reflect(x + dx, size[3], 2))
                for dy in range(-2, 3)
                for dx in range(-2, 3)
            ]
            scores = torch.stack([keys[:, i, j] @ keys[:, y, x] for i, j in window])
            weight = torch.softmax(scores * math.exp(1.5), 0) * spatial
            wanted = sum(w * values[:, i, j] for w, (i, j) in zip(weight / weight.sum(), window, strict=True))
            assert (found[0, :, y, x] - wanted).abs().max() < 1e-10


def test_jbu_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = JBU(dim=32, radius=1)
    image, features = rand(1, 3, 12, 12).float(), torch.randn(1, 4, 3, 3)
    with torch.no_grad():
        model.bilateral_filter.range_temp += 4
        assert torch.equal(model.eval()(image, features), model(image, features))
        assert not torch.equal(model.train()(image, features), model(image, features))


def test_jbu_training_drops_the_same_channels_in_every_block(monkeypatch):
    """Whole and in blocks, forward and backward, the same seed gives the same training step."""
    image, features = rand(2, 3, 20, 24).float(), torch.randn(2, 4, 5, 6)
    results = []
    for size in (2**30, 1):
        monkeypatch.setattr(windows, "WORKING_BYTES", size)
        torch.manual_seed(0)
        model = JBU(dim=32, radius=2).train()
        output = model(image, features)
        output.square().sum().backward()
        grads = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(g is not None and g.abs().sum() > 0 for g in grads)
        results.append([output.detach(), *grads])
    for whole, blocks in zip(*results, strict=True):
        torch.testing.assert_close(whole, blocks, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(SIZES)
def test_bilateral_upsampler_is_the_plain_filter_in_standard_deviations(size):
    features = rand(2, 4, *size[:2]) * 7 + 50
    image = rand(2, 3, 8, 8)
    # Measured about the channel means, over all channels and cells of a sample.
    centred = features - features.mean((2, 3), keepdim=True)
    deviation = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
    upsampled = F.interpolate(features, size[2:], mode="bilinear")
    for sample in range(2):
        unit = max(deviation[sample].item(), 1e-150) * math.sqrt(features.shape[1])
        wanted = bilateral_filter(upsampled[sample : sample + 1] / unit, 5, 0.1, 1.5, "l2") * unit
        found = Bilateral()(image, features, size[2:])[sample : sample + 1]
        if size[:2] == (1, 1):
            wanted = upsampled[sample : sample + 1]
        assert (found - wanted).abs().max() < 1e-9


@settings(max_examples=12, deadline=None)
@given(SIZES, st.sampled_from(["pooled", "nearest"]), st.integers(0, 2))
def test_kopf_against_loops(size, cell_guidance, radius):
    h, w, height, width = size
    image, features = rand(1, 3, height, width), rand(1, 2, h, w, seed=1)
    sd, sr = 0.6, 0.3
    found = JointBilateralUpsampling(radius, sd, sr, cell_guidance)(image, features)[0]
    if cell_guidance == "pooled":
        cells = F.adaptive_avg_pool2d(image, (h, w))[0]
    else:
        rows = [math.floor((j + 0.5) * height / h) for j in range(h)]
        cols = [math.floor((j + 0.5) * width / w) for j in range(w)]
        cells = image[0][:, rows][:, :, cols]
    for y in range(height):
        for x in range(width):
            low = ((y + 0.5) * h / height, (x + 0.5) * w / width)
            total, norm = torch.zeros(2, dtype=torch.float64), 0.0
            for i in range(math.floor(low[0]) - radius, math.floor(low[0]) + radius + 1):
                for j in range(math.floor(low[1]) - radius, math.floor(low[1]) + radius + 1):
                    if not (0 <= i < h and 0 <= j < w):
                        continue
                    apart = (low[0] - 0.5 - i) ** 2 + (low[1] - 0.5 - j) ** 2
                    colour = (image[0, :, y, x] - cells[:, i, j]).square().sum().item()
                    weight = math.exp(-apart / (2 * sd**2) - colour / (2 * sr**2))
                    total, norm = total + weight * features[0, :, i, j], norm + weight
            assert (found[:, y, x] - total / norm).abs().max() < 1e-10


def test_kopf_survives_guidance_unlike_every_cell():
    """All weights underflow in float32, yet the average must stay one of its cells' values."""
    image = torch.zeros(1, 3, 16, 16)
    image[..., ::4, ::4] = 1
    features = torch.randn(1, 3, 4, 4)
    output = JointBilateralUpsampling(sigma_color=0.005)(image, features)
    assert torch.isfinite(output).all()
    assert output.min() >= features.min() - 1e-6
    assert output.max() <= features.max() + 1e-6


@pytest.mark.parametrize("radius", [0, 2])
def test_kopf_in_blocks_is_the_whole(monkeypatch, radius):
    model = JointBilateralUpsampling(radius)
    for size in ((24, 28), (23, 31), (3, 4)):
        image, features = rand(2, 3, *size), rand(2, 5, 6, 7, seed=1)
        whole = model(image, features)
        with monkeypatch.context() as patch:
            patch.setattr(kopf, "WORKING_BYTES", 1)
            assert torch.equal(model(image, features), whole) or torch.allclose(
                model(image, features), whole, rtol=0, atol=1e-12
            )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Blur(radius=0),
        lambda: Blur(share=1.5),
        lambda: Interpolation("cubic"),
        lambda: Interpolation("lanczos", align_corners=True),
        lambda: Interpolation("lanczos", lobes=0),
        lambda: Bilateral(kernel_size=4),
        lambda: Bilateral(sigma_color=0.0),
        lambda: JointBilateral(sigma_spatial=-1.0),
        lambda: JointBilateral(color_distance="l3"),
        lambda: JointBilateralUpsampling(radius=-1),
        lambda: JointBilateralUpsampling(sigma_color=0.0),
        lambda: JointBilateralUpsampling(cell_guidance="mean"),
        lambda: JBU(dim=10),
        lambda: JBU(radius=0),
        lambda: GuidedFilter(radius=0),
        lambda: GuidedFilter(eps=0.0),
        lambda: GuidedFilter(border="wrap"),
        lambda: FastGuidedFilter(factor=0),
        lambda: guided_filter(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 5)),
        lambda: joint_bilateral_filter(torch.zeros(2, 1, 4, 4), torch.zeros(1, 3, 4, 4)),
    ],
)
def test_bad_parameters(make):
    with pytest.raises(ValueError, match=r"must|is for"):
        make()


@pytest.mark.parametrize("size", [1, 3, 5])
def test_inverses_of_definite_matrices(size):
    root = torch.randn(4, 7, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrices = root @ root.mT + 1e-4 * torch.eye(size, dtype=torch.float64)
    expected = torch.linalg.inv(matrices)
    torch.testing.assert_close(inverse_of_definite(matrices), expected, rtol=1e-6, atol=1e-8)


def test_guided_filters_export_without_a_linear_algebra_library():
    for name in ("guided_filter", "fast_guided_filter"):
        inputs = (torch.rand(1, 3, 32, 32), torch.randn(1, 4, 8, 8))
        program = torch.export.export(naf_hub.load(name), inputs, strict=False)
        assert not [node for node in program.graph.nodes if "linalg" in str(node.target)]
