"""Every registered filter as an upsampler: tiny sizes, precision, gradients and memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import naf_hub
import naf_hub.parts.pieces as assembly
import naf_hub_filters.joint_bilateral_upsampling as kopf
import naf_hub_filters.window_average as windows
from naf_hub_filters import RECORDS
from naf_hub_filters.bilateral import joint_bilateral_filter
from naf_hub_filters.guided import guided_filter

NAMES = [record.name for record in RECORDS]
IN_PIECES = [name for name in NAMES if name not in ("nearest", "bilinear", "bicubic", "blur")]


def make(name: str) -> naf_hub.Upsampler:
    torch.manual_seed(0)
    return naf_hub.load(name, weights=None)


def inputs(channels: int, grid: int, side: int, dtype: torch.dtype = torch.float32, batch: int = 1):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, side, side, generator=generator)
    return image.to(dtype), torch.randn(batch, channels, grid, grid, generator=generator).to(dtype)


def test_names():
    assert {
        "nearest", "bilinear", "bicubic", "lanczos", "blur", "bilateral", "joint_bilateral",
        "joint_bilateral_upsampling", "jbu", "guided_filter", "fast_guided_filter",
    } <= set(naf_hub.list_upsamplers())  # fmt: skip


def test_registration_imports_nothing_heavy():
    code = "import naf_hub_filters, sys; print({'torch', 'kornia', 'timm'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_jbu_has_no_default_weights():
    with pytest.raises(naf_hub.WeightsError):
        naf_hub.load("jbu")


@pytest.mark.parametrize("name", NAMES)
def test_every_combination_of_tiny_sizes(name):
    model = make(name)
    for h, w, height, width in (
        (1, 1, 1, 1),
        (1, 1, 5, 3),
        (2, 1, 1, 7),
        (1, 3, 2, 2),
        (5, 4, 1, 1),
        (2, 2, 64, 3),
    ):
        features = torch.randn(1, 2, h, w)
        with torch.no_grad():
            output = model(torch.rand(1, 3, 2, 1), features, (height, width))
            constant = model(torch.rand(1, 3, 2, 1), torch.full_like(features, 3.0), (height, width))
        assert output.shape == (1, 2, height, width)
        assert torch.isfinite(output).all()
        assert (constant - 3).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_costs_one_rounding(name, dtype):
    model = make(name)
    image, features = inputs(8, 9, 37, dtype)
    with torch.no_grad():
        exact = model(image.double(), features.double())
        found = model.to(dtype)(image, features) if name != "jbu" else model(image, features)
    assert found.dtype == dtype
    # Half an ulp at the largest value, and float32 rounding before it.
    bound = torch.finfo(dtype).eps * exact.abs().max().item()
    assert (found.double() - exact).abs().max().item() <= bound


def test_half_precision_parameters():
    model = make("jbu").to(torch.bfloat16)
    image, features = inputs(4, 5, 20, torch.bfloat16)
    assert model(image, features).dtype == torch.bfloat16
    assert torch.isfinite(model(image, features)).all()


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name):
    """Weights and distances are computed in float32 whatever the surrounding autocast."""
    model = make(name)
    image, features = inputs(4, 6, 24)
    with torch.no_grad():
        exact = model(image, features)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(image, features)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_mixed_dtypes(name):
    model = make(name)
    image, features = inputs(4, 5, 20)
    with torch.no_grad():
        exact = model(image, features)
        assert (model(image.double(), features) - exact).abs().max() < 1e-4
        assert model(image, features.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    options = {"dim": 16, "radius": 1} if name == "jbu" else {}
    torch.manual_seed(0)
    model = naf_hub.load(name, weights=None, **options).double()
    image, features = inputs(2, 3, 5, torch.float64)
    # Not at 0 or 1, and no ties, so that finite differences see no kinks.
    image = (0.1 + 0.8 * image).requires_grad_(
        name not in ("nearest", "bilinear", "bicubic", "lanczos", "blur", "bilateral")
    )
    features.requires_grad_()
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(
        lambda *_: model(image, features), (image, features, *parameters), fast_mode=True
    )


def test_gradcheck_of_the_plain_filters():
    features, guidance = torch.rand(1, 2, 4, 5).double(), torch.rand(1, 3, 4, 5).double()
    inputs = (features.requires_grad_(), guidance.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda f, g: joint_bilateral_filter(f, g, 3, 0.5, 1.0, "l2"), inputs, fast_mode=True
    )
    assert torch.autograd.gradcheck(lambda f, g: guided_filter(f, g, 1, 1e-2), inputs, fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda f, g: guided_filter(f, g, 2, 1e-2, factor=2), inputs, fast_mode=True
    )


@pytest.mark.parametrize("name", IN_PIECES)
def test_pieces_agree_with_the_whole(name, monkeypatch):
    model = make(name).double()
    image, features = inputs(6, 5, 26, torch.float64, batch=2)
    features.requires_grad_()
    whole = model(image, features, (26, 23))
    (expected,) = torch.autograd.grad(whole.square().sum(), features)
    for module in (assembly, windows, kopf):
        monkeypatch.setattr(module, "WORKING_BYTES", 1)
    pieces = model(image, features, (26, 23))
    pieces.square().sum().backward()
    assert features.grad is not None
    assert (pieces - whole).abs().max() < 1e-10
    assert (features.grad - expected).abs().max() < 1e-8


class LargeStorages(TorchDispatchMode):
    """Addresses of the storages that operations make and that hold at least ``size`` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage().nbytes() >= self.size:
                self.found.add(x.untyped_storage().data_ptr())
        return result


@pytest.mark.parametrize("name", NAMES)
def test_memory_beside_the_result_is_bounded(name, monkeypatch):
    """Nothing but the result is as large as half of it: temporaries do not grow with channels times pixels."""
    for module in (assembly, windows, kopf):
        monkeypatch.setattr(module, "WORKING_BYTES", 2**20)
    model = make(name)
    image, features = inputs(128, 8, 128)
    # The result lives to the end, so a temporary cannot hide at its address.
    with torch.no_grad(), LargeStorages(128 * 128 * 128 * 4 // 2) as large:
        result = model(image, features)
    assert large.found == {result.untyped_storage().data_ptr()}


@pytest.mark.parametrize("filter_", [joint_bilateral_filter, guided_filter])
def test_memory_of_the_plain_filters_is_bounded(filter_, monkeypatch):
    monkeypatch.setattr(assembly, "WORKING_BYTES", 2**20)
    guidance, features = inputs(128, 128, 128)
    with torch.no_grad(), LargeStorages(features.numel() * 4 // 2) as large:
        result = filter_(features, guidance)
    assert large.found - {features.untyped_storage().data_ptr()} == {result.untyped_storage().data_ptr()}
