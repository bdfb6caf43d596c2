"""The weights that ship as naf's default do what they are for; how well is in docs/results.md."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

import naf_hub
from naf_hub.cli import cli
from naf_hub.demo import sample_photo


@pytest.mark.parametrize("radius", [40, 70])
def test_edges_follow_the_image(radius: int) -> None:
    """A noisy disk, its mask averaged to 14x14 cells: the mask comes back with under 0.6 of bilinear's error."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    mask = ((y - 100) ** 2 + (x - 120) ** 2 < radius**2).float()[None, None]
    image = 0.2 + mask * torch.tensor([0.6, 0.3, -0.1]).view(1, 3, 1, 1)
    image = (image + 0.02 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    features = F.avg_pool2d(mask, 16).expand(1, 4, -1, -1)
    bilinear, naf = (
        F.mse_loss(naf_hub.load(name)(image, features, (224, 224))[:, :1], mask).item()
        for name in ("bilinear", "naf")
    )
    assert naf < 0.6 * bilinear


def test_reconstructs_a_photo_better_than_bilinear_zero_shot() -> None:
    photo = str(sample_photo("chelsea.png"))  # neither naf nor pico was trained on it
    command = ["eval", "reconstruction", "--upsampler", "naf", "--backbone", "pico", "--images", photo]
    result = CliRunner().invoke(cli, [*command, "--resize", "448", "--crop", "448", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["methods"]["naf"]["ratio_to_bilinear"] < 0.95
