"""Frozen features: what is shared, what is not, and in which precision they are kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import naf_hub
from naf_hub import Backbone, Upsampler, Want
from naf_hub.interfaces import Features
from naf_hub.store import FeatureStore
from naf_hub.testing.random_backbone import RandomBackbone


class Counting(RandomBackbone):
    """Counts the images that pass."""

    def __init__(self) -> None:
        super().__init__(6, (2, 3), (8, 12))
        self.images = 0

    def extract_maps(self, image: Tensor, wants) -> tuple[Tensor, ...]:
        self.images += len(image)
        return super().extract_maps(image, wants)


class Plain(Upsampler):
    """Any upsampler of the last map."""


class Layers(Upsampler):
    """Wants two maps."""

    wants = (Want(0), Want(kind="class"))


class Mirrored(Upsampler):
    """Gathers in a way of its own."""

    def gather(self, image: Tensor, backbone: torch.nn.Module) -> Features:
        return backbone(image.flip(-1)).flip(-1)


IMAGES = list(torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)))


def test_one_pass_for_all_that_gather_the_same():
    store, backbone = FeatureStore("float32"), Counting()
    first = store.gather(Plain(), backbone, IMAGES, ["a", "b"])
    again = store.gather(naf_hub.load("bilinear"), backbone, IMAGES[::-1], ["b", "a"])
    assert backbone.images == 2
    assert isinstance(first, Tensor)
    assert isinstance(again, Tensor)
    assert torch.equal(first, again.flip(0))
    assert torch.equal(first, backbone(torch.stack(IMAGES)))


def test_other_wants_gathers_views_and_backbones_get_their_own():
    store, backbone, other = FeatureStore("float32"), Counting(), Counting()
    kept = store.gather(Plain(), backbone, IMAGES[:1], ["a"])
    maps = store.gather(Layers(), backbone, IMAGES[:1], ["a"])
    mirrored = store.gather(Mirrored(), backbone, IMAGES[:1], ["a"])
    store.gather(Plain(), backbone, IMAGES[:1], ["a mirrored"])
    assert backbone.images == 4
    store.gather(Plain(), other, IMAGES[:1], ["a"])
    assert other.images == 1
    assert isinstance(maps, dict)
    assert {name: tuple(found.shape) for name, found in maps.items()} == {
        "token[0]": (1, 6, 2, 3),
        "class[-1]": (1, 6, 1, 1),
    }
    assert isinstance(kept, Tensor)
    assert isinstance(mirrored, Tensor)
    assert not torch.equal(kept, mirrored)


def test_only_what_is_missing_is_computed():
    store, backbone = FeatureStore("float32"), Counting()
    store.gather(Layers(), backbone, IMAGES[:1], [0])
    both = store.gather(Layers(), backbone, IMAGES, [0, 1])
    assert backbone.images == 2
    assert isinstance(both, dict)
    whole = backbone.maps(torch.stack(IMAGES), *Layers.wants)
    for found, expected in zip(both.values(), whole, strict=True):
        torch.testing.assert_close(found, expected)
    store.clear()
    store.gather(Layers(), backbone, IMAGES[:1], [0])
    assert backbone.images == 2 + 2 + 1


@pytest.mark.parametrize(("precision", "passes"), [("float32", 2), ("float16", 2), ("auto", 2), ("off", 4)])
def test_precisions(precision: str, passes: int):
    store, backbone = FeatureStore(precision), Counting()
    first, again = (store.gather(Plain(), backbone, IMAGES, [0, 1]) for _ in range(2))
    assert backbone.images == passes
    assert isinstance(first, Tensor)
    assert isinstance(again, Tensor)
    assert again.dtype == torch.float32
    tolerance = 1e-3 if precision == "float16" else 0
    torch.testing.assert_close(first, again, atol=tolerance, rtol=tolerance)
    assert torch.equal(first, again), "what came before must not matter"


def test_auto_keeps_nothing_that_does_not_fit():
    store = FeatureStore("auto", expected=10**12)
    assert store.precision == "auto"
    store.gather(Plain(), Counting(), IMAGES, [0, 1])
    assert store.precision == "off"
    assert not store.kept


class Huge(Backbone):
    """Beyond the range of float16."""

    def __init__(self) -> None:
        super().__init__(1, 4)

    def extract(self, image: Tensor) -> Tensor:
        return torch.full((len(image), 1, 2, 3), 1e6)


def test_features_beyond_float16_are_refused():
    with pytest.raises(ValueError, match="exceed float16"):
        FeatureStore("float16").gather(Plain(), Huge(), IMAGES, [0, 1])
    with pytest.raises(ValueError, match="cache must be"):
        FeatureStore("int8")
