"""Features at chosen pixels: those of the map, without making it."""

from __future__ import annotations

import pytest
import torch

import naf_hub
from naf_hub_filters.blur import Blur
from naf_hub_filters.interpolation import Interpolation
from naf_hub_naf.model import NAF

SHAPES = [  # image, features, output
    ((33, 20), (5, 6), (41, 37)),
    ((50, 46), (14, 25), (16, 20)),
    ((9, 9), (1, 1), (7, 8)),
]


def small(**options) -> NAF:
    torch.manual_seed(0)
    return NAF(**{"dim": 32, "num_blocks": 1, "memory": 100_000} | options).eval().requires_grad_(False)


def every_point(size: tuple[int, int]) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


@pytest.mark.parametrize(
    "model",
    [
        *(Interpolation(mode) for mode in ("nearest-exact", "nearest", "bilinear", "bicubic", "lanczos")),
        Interpolation("bicubic", align_corners=True),
        small(),
        small(spatial="gaussian", pooling="average_conv", kernel_size=5),
        small(locality=0.8),
        small(spatial="none", pooling="max", encoder="pixel"),
        Blur(radius=2),
        naf_hub.load("joint_bilateral"),
    ],
    ids=repr,
)
def test_every_pixel_is_the_maps(model):
    for image, grid, size in SHAPES:
        picture, features = torch.rand(2, 3, *image), torch.randn(2, 6, *grid)
        whole = model(picture, features, size)
        found = model.features_at(picture, features, every_point(size), size)
        torch.testing.assert_close(found, whole.flatten(2), atol=5e-6, rtol=0)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Numbers in the largest tensor that any operation gives."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return result


@pytest.mark.parametrize("model", [small(dim=16), naf_hub.load("bicubic")], ids=["naf", "bicubic"])
def test_no_map_is_made(model):
    image, features = torch.rand(1, 3, 48, 48), torch.randn(1, 100, 6, 6)
    with LargestTensor() as watch:
        model.features_at(image, features, [(3, 4), (47, 0)])
    assert watch.numbers < 100 * 48 * 48 / 2


def test_a_pipeline_and_controls_answer_at_points(install_plugin):
    from reconstruction_world import BACKBONE

    from naf_hub.controls import add_controls

    install_plugin("tiny-plugin", BACKBONE)
    model = naf_hub.load("bilinear", backbone="tiny_backbone")
    image, points = torch.rand(1, 3, 24, 32), [(31, 0), (4, 23)]
    torch.testing.assert_close(model.features_at(image, points), model(image)[:, :, [0, 23], [31, 4]])
    features = torch.randn(1, 4, 3, 4)
    for name in ("grey", "other"):
        # The control "other" is guided by what it saw before: each call by a fresh one.
        one, other = (add_controls({"": small()}, [name])[f" ({name})"] for _ in range(2))
        found = one.features_at(image, features, points)
        torch.testing.assert_close(found, other(image, features)[:, :, [0, 23], [31, 4]])


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ([(0.5, 0.5)], TypeError, "whole pixels"),
        ([(32, 0)], ValueError, r"point \(x=32, y=0\) is not on the output, 32 wide and 24 high"),
        ([(0, 1), (3, -1)], ValueError, r"x=3, y=-1"),
        (torch.zeros(0, 2, dtype=torch.long), ValueError, "N > 0"),
        ([(0, 1, 2)], ValueError, r"got \(1, 3\)"),
        (torch.zeros(2, 1, 2, dtype=torch.long), ValueError, "points have 2"),
    ],
)
def test_points_that_are_none(points, error, message):
    with pytest.raises(error, match=message):
        small().features_at(torch.rand(1, 3, 24, 32), torch.randn(1, 4, 3, 4), points)
