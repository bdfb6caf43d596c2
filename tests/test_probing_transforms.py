"""Geometry of images and labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from naf_hub_probing.transforms import Geometry, resize_image, resize_label

GOLDEN = load_file(Path(__file__).parent / "goldens" / "segmentation_transforms.safetensors")


@pytest.mark.parametrize("size", [48, 96])
@pytest.mark.parametrize("case", ["landscape", "portrait"])
def test_shorter_side_and_crop_match_golden(case: str, size: int) -> None:
    image = GOLDEN[f"{case}_image_raw"].permute(2, 0, 1).float() / 255
    label = GOLDEN[f"{case}_label_raw"].long()
    image, label = Geometry(size).apply(image, label)
    torch.testing.assert_close(image, GOLDEN[f"{case}_image_{size}"], atol=1.5 / 255, rtol=0)
    assert torch.equal(label, GOLDEN[f"{case}_label_{size}"][0].long())


def test_a_stretch_of_the_whole_image_is_not_the_golden() -> None:
    image = GOLDEN["landscape_image_raw"].permute(2, 0, 1).float() / 255
    stretched = resize_image(image, (48, 48))
    assert (stretched - GOLDEN["landscape_image_48"]).abs().max() > 0.1


def test_whole_image_keeps_the_label_at_its_own_size() -> None:
    image, label = Geometry((8, 12)).apply(torch.rand(3, 30, 40), torch.arange(1200).view(30, 40))
    assert image.shape == (3, 8, 12)
    assert torch.equal(label, torch.arange(1200).view(30, 40))


def test_label_resize_is_nearest_and_keeps_large_and_ignored_values() -> None:
    label = torch.tensor([[-1, 300], [7, 65_000]])
    assert torch.equal(resize_label(label, (4, 4)), label.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_a_cropped_image_needs_a_cropped_label() -> None:
    with pytest.raises(ValueError, match="must both be"):
        Geometry(448, (360, 480))
    with pytest.raises(ValueError, match="must both be"):
        Geometry((384, 512), 448)
