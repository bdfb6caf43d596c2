"""The filters against recorded results of published implementations and float64 references."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from naf_hub_filters.bilateral import bilateral_filter, joint_bilateral_filter
from naf_hub_filters.guided import GuidedFilter, guided_filter
from naf_hub_filters.interpolation import Interpolation
from naf_hub_filters.jbu import JBU
from naf_hub_filters.joint_bilateral import JointBilateral
from naf_hub_filters.joint_bilateral_upsampling import JointBilateralUpsampling

GOLDENS = load_file(str(Path(__file__).parent / "goldens" / "filters.safetensors"))
TOLERANCE = 5e-6

MODES = {
    "nearest_exact": {"mode": "nearest-exact"},
    "nearest_legacy": {"mode": "nearest"},
    "bilinear": {"mode": "bilinear"},
    "bilinear_align_corners": {"mode": "bilinear", "align_corners": True},
    "bicubic": {"mode": "bicubic"},
    "lanczos3": {"mode": "lanczos"},
}


def case(prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in GOLDENS.items() if name.startswith(prefix)}


def gap(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return (found - wanted).abs().max().item()


def size_of(x: Tensor) -> tuple[int, int]:
    return (x.shape[-2], x.shape[-1])


def make_jbu(name: str) -> tuple[JBU, dict[str, Tensor]]:
    data = case(f"jbu_{name}.")
    model = JBU(dim=32, radius=2) if name == "small" else JBU()
    model.load_state_dict({k[len("state.") :]: v for k, v in data.items() if k.startswith("state.")})
    return model.eval(), data


@pytest.mark.parametrize("size", ["int", "frac", "down"])
@pytest.mark.parametrize("mode", MODES)
def test_interpolation(size, mode):
    features, wanted = GOLDENS["interp.input"], GOLDENS[f"interp.{size}.{mode}"]
    image = torch.zeros(len(features), 3, 8, 8)
    assert gap(Interpolation(**MODES[mode])(image, features, size_of(wanted)), wanted) < TOLERANCE


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_bilateral_filters(distance):
    own, joint = case("bilateral."), case("joint_bilateral.")
    found = bilateral_filter(own["input"], 5, 0.5, 1.5, distance)
    assert gap(found, own[distance]) < TOLERANCE
    found = joint_bilateral_filter(joint["input"], joint["guidance"], 5, 0.5, 1.5, distance)
    assert gap(found, joint[distance]) < TOLERANCE


@pytest.mark.parametrize("name", ["jbf_a.", "jbf_b."])
def test_joint_bilateral_is_the_papers_jbf(name):
    data = case(name)
    model = JointBilateral()
    found = model.filter(data["image"], data["features"], size_of(data["output"]))
    assert gap(found, data["output"]) < TOLERANCE
    # The recorded image is normalised; the public interface takes it in [0, 1].
    image = data["image"] * model.normalize.std + model.normalize.mean
    found = model(image, data["features"], size_of(data["output"]))
    assert gap(found, data["output"]) < 1e-5


@pytest.mark.parametrize(("name", "tolerance"), [("default", 2e-4), ("small", 1e-5)])
def test_jbu(name, tolerance):
    model, data = make_jbu(name)
    with torch.no_grad():
        found = model.filter(data["image"], data["features"], size_of(data["output"]))
        spatial = model.bilateral_filter.spatial(model.radius, torch.float32)
    assert gap(found, data["output"]) < tolerance
    assert gap(spatial.reshape(1, -1, 1, 1), data["spatial_kernel"]) < TOLERANCE


def test_jbu_kernel():
    """One-hot features at output resolution read out the weights, reflected taps added up."""
    model, data = make_jbu("small")
    batch, taps, height, width = data["kernel"].shape
    one_hot = torch.eye(height * width).reshape(1, -1, height, width).expand(batch, -1, -1, -1)
    with torch.no_grad():
        found = model.filter(data["image"], one_hot, (height, width))
    pixels = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2), mode="reflect")
    source = torch.nn.functional.unfold(padded, 5).long().reshape(1, taps, height, width)
    wanted = torch.zeros(batch, height * width, height, width)
    wanted.scatter_add_(1, source.expand(batch, -1, -1, -1), data["kernel"])
    assert gap(found, wanted) < 1e-5


def test_jbu_parameters():
    model = JBU()
    assert sum(p.numel() for p in model.parameters()) == 34_305
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4_418


@pytest.mark.parametrize("cell_guidance", ["nearest", "pooled"])
def test_kopf(cell_guidance):
    data = case("kopf_jbu.")
    model = JointBilateralUpsampling(cell_guidance=cell_guidance)
    assert gap(model(data["image"], data["features"]), data[f"{cell_guidance}_guidance"]) < TOLERANCE


@pytest.mark.parametrize("kind", ["gray", "color"])
@pytest.mark.parametrize(
    ("name", "border"), [("shrink", "shrink"), ("cv2", "symmetric"), ("kornia", "reflect101")]
)
def test_guided_filter(kind, name, border):
    data = case("guided.")
    guidance = data["gray" if kind == "gray" else "image"]
    found = guided_filter(data["input"], guidance, radius=3, eps=1e-2, border=border)
    # OpenCV's grey path is itself 1.3e-5 from a float64 reference.
    tolerance = 2e-5 if (kind, name) == ("gray", "cv2") else TOLERANCE
    assert gap(found, data[f"{kind}.{name}"]) < tolerance


def test_fast_guided_filter():
    data = case("guided.")
    found = guided_filter(data["input"], data["image"], radius=4, eps=1e-2, factor=2)
    assert gap(found, data["color.fast_s2"]) < TOLERANCE


@pytest.mark.parametrize(("radius", "eps", "name"), [(1, 1e-2, "r1_eps1e-2"), (2, 1e-3, "r2_eps1e-3")])
def test_guided_upsample(radius, eps, name):
    data = case("guided_upsample.")
    assert gap(GuidedFilter(radius, eps)(data["image"], data["features"]), data[name]) < TOLERANCE
