"""The weights of naf_denoiser that ship do what they are for; how well is in docs/denoise.md."""

from __future__ import annotations

from importlib.resources import files

import pytest
from torch import Tensor

import naf_hub
from naf_hub.commands.demo import sample_photo
from naf_hub.images import read_image
from naf_hub.records import RestorerRecord
from naf_hub.registry import registry
from naf_hub_restoration.likeness import psnr
from naf_hub_restoration.noise import Kind, Noise

RECORD = registry().find("naf_denoiser", RestorerRecord)
SHIPPED = sorted(name for name, weights in RECORD.weights.items() if weights.source.startswith("package://"))

if not SHIPPED:
    pytest.skip("no weights of naf_denoiser are packaged", allow_module_level=True)


@pytest.fixture(scope="module")
def clean() -> Tensor:
    """(1, 3, 128, 128) of a photo that nothing was trained on."""
    return read_image(sample_photo("astronaut.png"))[None, :, 32:160, 160:288]


@pytest.mark.parametrize("name", SHIPPED)
def test_clean_images_stay_as_they_are(name: str, clean: Tensor) -> None:
    restored = naf_hub.load_restorer("naf_denoiser", weights=name)(clean)
    assert psnr(restored, clean) >= 35


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("level", [0.1, 0.5, 0.6])  # of training 0.1 to 0.5
def test_noise_is_taken_away_beyond_the_range_of_training_too(name: str, level: float, clean: Tensor) -> None:
    kind: Kind = "salt_and_pepper" if "salt" in name else "gaussian"
    noisy = Noise(kind, level, level).add(clean, 0)
    restored = naf_hub.load_restorer("naf_denoiser", weights=name)(noisy)
    assert psnr(restored, clean) > psnr(noisy, clean) + 5


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_and_have_a_card(name: str) -> None:
    package, _, folder = RECORD.weights[name].source.removeprefix("package://").partition("/")
    place = files(package) / folder
    assert len((place / "model.safetensors").read_bytes()) <= 3_000_000
    assert "## Training" in (place / "README.md").read_text("utf-8")
