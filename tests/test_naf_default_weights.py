"""The weights that ship for naf and naf_small do what they are for; how well is in docs/results.md."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

import naf_hub
from naf_hub.commands.demo import sample_photo
from naf_hub.commands.main import cli
from naf_hub.reports import Report


@pytest.mark.parametrize("name", ["naf", "naf_local", "naf_small"])
@pytest.mark.parametrize(("radius", "share"), [(40, 0.6), (70, 0.6), (95, 1.0)])
def test_edges_follow_the_image(name: str, radius: int, share: float) -> None:
    """A noisy disk, its mask averaged to 14x14 cells: the mask comes back with under a share of bilinear's error.

    The largest leaves a rim of half a cell at the border, where the weights are hardly better than bilinear.
    """
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    mask = ((y - 100) ** 2 + (x - 120) ** 2 < radius**2).float()[None, None]
    image = 0.2 + mask * torch.tensor([0.6, 0.3, -0.1]).view(1, 3, 1, 1)
    image = (image + 0.02 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    features = F.avg_pool2d(mask, 16).expand(1, 4, -1, -1)
    bilinear, naf = (
        F.mse_loss(naf_hub.load(method)(image, features, (224, 224))[:, :1], mask).item()
        for method in ("bilinear", name)
    )
    assert naf < share * bilinear


def ratio_to_bilinear(side: int, *photos: str) -> float:
    command = ["eval", "reconstruction", "--upsampler", "naf", "--backbone", "pico", "--json"]
    images = [part for photo in photos for part in ("--images", str(sample_photo(photo)))]
    result = CliRunner().invoke(cli, [*command, *images, "--resize", str(side), "--crop", str(side)])
    assert result.exit_code == 0, result.output
    return Report.from_json(result.stdout)["naf"].values["ratio_to_bilinear"] or 9.9


def test_reconstructs_a_photo_better_than_bilinear_zero_shot() -> None:
    assert ratio_to_bilinear(448, "chelsea.png") < 0.95  # neither naf nor pico was trained on it


def test_reconstructs_photos_better_than_bilinear_on_average() -> None:
    """Not each of them: on the motorcycle bilinear is better."""
    photos = "astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"
    assert ratio_to_bilinear(512, *photos) < 0.97
