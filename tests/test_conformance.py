"""Every registered upsampler, and the backbones that are cheap to build, through the public conformance suite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import naf_hub
from naf_hub.testing import BACKBONE_CHECKS, UPSAMPLER_CHECKS, Subject, check_backbone, check_upsampler

# Full-size constructor options would only make the same promises slower to check.
SMALL: dict[str, dict[str, int]] = {
    "naf": {"dim": 32, "num_blocks": 1},
    "naf_local": {"dim": 32, "num_blocks": 1},
    "naf_plus_plus": {"dim": 32, "num_blocks": 1},
    "carafe": {"channels": 8},
    "sapa": {"channels": 8},
    "dysample": {"channels": 8},
    "anyup": {"qk_dim": 32},
    "jafar": {"channels": 8, "qk_dim": 32},
    "loftup": {"channels": 8, "n_freqs": 4},
    "uplift": {"channels": 8, "dim": 24},
    "lift": {"channels": 8, "head_channels": 4},
    "featup_jbu": {"channels": 8, "ratio": 4},
    "featsharp": {"channels": 8, "resolution": 16},
    "upsample_anything": {"steps": 2, "radius": 2},
    "vit_up": {"channels": 8, "num_heads": 1, "depth": 2},
    "featup_implicit": {"views": 4, "steps": 3, "batch": 2, "components": 4, "n_freqs": 3},
}
# These unroll their windows, which takes long to trace; and whose steps depend on the sizes, unless they are told.
SMALL_GRAPHS: dict[str, dict[str, Any]] = {
    "carafe": {"steps": 1, "up_kernel": 3},
    "sapa": {"steps": 1, "up_kernel_size": 3},
    "dysample": {"steps": 1},
    "uplift": {"steps": 1, "encoder_dims": (4, 4)},
    "lift": {"steps": 1},
    "featup_jbu": {"ratio": 2},
    "anyup": {"qk_dim": 16},
    "jafar": {"qk_dim": 16},
    "featsharp": {"inputs": ("bilinear", "tiles")},
    "jbu": {"dim": 16, "radius": 2},
    "joint_bilateral_upsampling": {"radius": 1},
    "joint_bilateral": {"kernel_size": 3},
}
BACKBONES = ("pico", "timm:resnet10t", "timm:vit_tiny_patch16_224")


@pytest.mark.parametrize("check", UPSAMPLER_CHECKS)
@pytest.mark.parametrize("name", naf_hub.list_upsamplers())
def test_upsampler(name: str, check: str):
    small = SMALL_GRAPHS if check in ("export", "open_sizes") else {}
    check_upsampler(name, checks=[check], **(SMALL.get(name, {}) | small.get(name, {})))


@pytest.mark.parametrize("check", BACKBONE_CHECKS)
@pytest.mark.parametrize("name", BACKBONES)
def test_backbone(name: str, check: str):
    check_backbone(name, checks=[check])


# --- the suite itself must notice: one broken method per promise ------------------------------------------


class Good(naf_hub.Upsampler):
    promises = naf_hub.Promises(linear_groups=1, range=True, translation=True, open_sizes=True)

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return torch.nn.functional.interpolate(features, output_size, mode="bilinear")


class WrongShape(Good):
    def upsample(self, image, features, output_size):
        return super().upsample(image, features, output_size)[..., 1:]


class WrongDtype(Good):
    def upsample(self, image, features, output_size):
        return super().upsample(image, features, output_size).float()


class MixesBatch(Good):
    def upsample(self, image, features, output_size):
        output = super().upsample(image, features, output_size)
        return output + output.mean(0, keepdim=True)


class Scales(Good):
    def upsample(self, image, features, output_size):
        return super().upsample(image, features, output_size) * 1.1


class Overshoots(Good):
    def upsample(self, image, features, output_size):
        output = super().upsample(image, features, output_size)
        return output + (output - output.mean((-1, -2), keepdim=True))


class Random(Good):
    def upsample(self, image, features, output_size):
        output = super().upsample(image, features, output_size)
        return output + 1e-3 * torch.randn_like(output)


class WritesInput(Good):
    def upsample(self, image, features, output_size):
        with torch.no_grad():
            features.mul_(1.5)
        return super().upsample(image, features, output_size)


class Detaches(Good):
    def upsample(self, image, features, output_size):
        return super().upsample(image, features.detach(), output_size).requires_grad_()


class GradMatters(Good):
    def upsample(self, image, features, output_size):
        return super().upsample(image, features, output_size) * (1.0 + 0.01 * torch.is_grad_enabled())


class OwnState(Good):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = float(torch.rand(()))
        torch.manual_seed(int(self.hidden * 1e6))

    def upsample(self, image, features, output_size):
        return super().upsample(image, features, output_size) + self.hidden * id(self)


class HalfOverflows(Good):
    def upsample(self, image, features, output_size):
        product = features.flatten(1) @ features.flatten(1).T
        return super().upsample(image, features, output_size) * (
            1.0 if product.dtype == torch.float32 else 1.5
        )


class CountsInHalf(Good):
    def upsample(self, image, features, output_size):
        count = features.new_tensor(257.0) - 256  # in bfloat16 that is 256 - 256
        return super().upsample(image, features, output_size) * count


class NotExportable(Good):
    def upsample(self, image, features, output_size):
        return super().upsample(image, features, output_size) * float(image.mean() > -1)


class HoldsSizes(Good):
    def upsample(self, image, features, output_size):
        return super().upsample(image, features, output_size) * len(range(output_size[0]))


class GroupsMixed(Good):
    """Linear, but each channel takes from its neighbour: not what ``linear_groups`` means."""

    def upsample(self, image, features, output_size):
        output = super().upsample(image, features, output_size)
        return 0.5 * (output + output.roll(1, 1))


class Unchecked(Good):
    def forward(self, image, features, output_size=None):
        return super().upsample(image, features, output_size or tuple(image.shape[-2:]))


class TurnsRows(Good):
    def upsample_rows(self, image, features, output_size, rows):
        for strip in super().upsample_rows(image, features, output_size, rows):
            yield strip.flip(2)


class SwapsCoordinates(Good):
    def upsample_points(self, image, features, output_size, points):
        return super().upsample_points(image, features, output_size, points.flip(-1))


class CutsAtPoints(Good):
    """The right values, but no gradient."""

    def upsample_points(self, image, features, output_size, points):
        return super().upsample_points(image, features.detach(), output_size, points) + 0 * features.sum()


class DividesByDeviation(Good):
    def upsample(self, image, features, output_size):
        return super().upsample(image, features, output_size) * (1 + 0 / image.std())


class FollowsThreads(Good):
    def upsample(self, image, features, output_size):
        return super().upsample(image, features, output_size) * torch.get_num_threads()


class KnowsWhereItIs(Good):
    promises = naf_hub.Promises(linear_groups=1, translation=True)

    def upsample(self, image, features, output_size):
        ramp = torch.linspace(0.5, 1, output_size[1], dtype=features.dtype)
        return super().upsample(image, features, output_size) * ramp


class SwapsChannels(Good):
    """Linear, but channels change places."""

    def upsample(self, image, features, output_size):
        return super().upsample(image, features.roll(1, 1), output_size)


class Offsets(Good):
    """What it adds does not grow with the features."""

    def upsample(self, image, features, output_size):
        return super().upsample(image, features, output_size) + 0.1


BROKEN = {
    "shapes": WrongShape,
    "dtypes": WrongDtype,
    "buffers": TurnsRows,
    "points": SwapsCoordinates,
    "finite": DividesByDeviation,
    "linearity": Offsets,
    "channel_order": SwapsChannels,
    "translation": KnowsWhereItIs,
    "threads": FollowsThreads,
    "batch_independence": MixesBatch,
    "linear_groups": GroupsMixed,
    "constant_features": Scales,
    "feature_range": Overshoots,
    "determinism": Random,
    "gradients": Detaches,
    "gradient_agreement": GradMatters,
    "copies": OwnState,
    "autocast": HalfOverflows,
    "half_precision": CountsInHalf,
    "export": NotExportable,
    "open_sizes": HoldsSizes,
    "bad_input": Unchecked,
}


def subject(cls: type[naf_hub.Upsampler]) -> Subject:
    record = naf_hub.UpsamplerRecord(name="t", summary="t", target="a:B", trainable=False)
    return Subject(lambda: cls().eval(), record)


def test_every_check_has_a_method_it_must_refuse():
    assert set(BROKEN) == set(UPSAMPLER_CHECKS)


@pytest.mark.parametrize("check", UPSAMPLER_CHECKS)
def test_each_check_notices(check: str):
    UPSAMPLER_CHECKS[check](subject(Good))
    with pytest.raises(Exception, match=r".+"):
        UPSAMPLER_CHECKS[check](subject(BROKEN[check]))


class HoldsALambda(Good):
    def __init__(self) -> None:
        super().__init__()
        self.change = lambda x: x


def test_what_cannot_be_pickled_is_noticed():
    with pytest.raises(AssertionError, match="cannot be pickled"):
        UPSAMPLER_CHECKS["copies"](subject(HoldsALambda))


def test_points_without_gradients_are_noticed():
    with pytest.raises(AssertionError, match="gradients through points"):
        UPSAMPLER_CHECKS["points"](subject(CutsAtPoints))


def test_modified_inputs_are_noticed():
    with pytest.raises(AssertionError, match=r"differ|modified"):
        UPSAMPLER_CHECKS["determinism"](subject(WritesInput))


class Squares(Good):
    def upsample(self, image, features, output_size):
        return super().upsample(image, features.square(), output_size)


class WeighsByFeatures(Good):
    """A range-preserving average, but its weights follow the features."""

    def upsample(self, image, features, output_size):
        share = torch.sigmoid(features.mean())
        nearest = torch.nn.functional.interpolate(features, output_size, mode="nearest")
        return share * super().upsample(image, features, output_size) + (1 - share) * nearest


class HeadsByPosition(Good):
    """Two channel groups under weights of their own, of which one is promised."""

    def upsample(self, image, features, output_size):
        first, second = features.tensor_split(2, 1)
        smooth = super().upsample(image, first, output_size)
        sharp = torch.nn.functional.interpolate(second, output_size, mode="nearest")
        return torch.cat([smooth, sharp], 1)


@pytest.mark.parametrize("cls", [Squares, WeighsByFeatures, HeadsByPosition])
def test_a_false_promise_of_linear_groups_is_noticed(cls):
    with pytest.raises(AssertionError, match="linear_groups=1"):
        UPSAMPLER_CHECKS["linear_groups"](subject(cls))


def test_true_groups_pass():
    HeadsByPosition.promises = naf_hub.Promises(linear_groups=2)
    try:
        UPSAMPLER_CHECKS["linear_groups"](subject(HeadsByPosition))
    finally:
        HeadsByPosition.promises = Good.promises


def test_what_is_not_promised_is_not_checked():
    class Promisesless(MixesBatch, Detaches):
        promises = naf_hub.Promises(None, False, False, False, False, False)

    for check in (
        "batch_independence",
        "linear_groups",
        "linearity",
        "channel_order",
        "translation",
        "constant_features",
        "feature_range",
        "gradients",
        "export",
        "open_sizes",
    ):
        UPSAMPLER_CHECKS[check](subject(Promisesless))


def test_the_random_backbone_is_one():
    from naf_hub.testing.random_backbone import RandomBackbone

    image = torch.rand(2, 3, 24, 36)
    backbone = RandomBackbone(5, (4, 6), (24, 36))
    last, key, token = backbone.maps(image, naf_hub.Want(), naf_hub.Want(-1, "key"), naf_hub.Want(0, "class"))
    assert last.shape == key.shape == (2, 5, 4, 6)
    assert token.shape == (2, 5, 1, 1)
    assert not torch.equal(last, key)
    assert torch.equal(backbone(image), last)
    assert backbone(image[..., :12, :18]).shape == (2, 5, 2, 3)


# --- one broken backbone per check ------------------------------------------------------------------------


class GoodBackbone(naf_hub.Backbone):
    def __init__(self):
        super().__init__(embed_dim=3, patch_size=4)

    def extract(self, image):
        return torch.nn.functional.avg_pool2d(image, 4)


class BackboneWrongGrid(GoodBackbone):
    def extract(self, image):
        return super().extract(image)[..., 1:]


class BackboneTrains(GoodBackbone):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))


class BackboneMixesBatch(GoodBackbone):
    def extract(self, image):
        return super().extract(image) + image.mean()


class BackboneForgetsState(GoodBackbone):
    def __init__(self):
        super().__init__()
        self.offset = torch.rand(3, 1, 1)  # no buffer, so no state_dict has it

    def extract(self, image):
        return super().extract(image) + self.offset


class BackboneDividesByDeviation(GoodBackbone):
    def extract(self, image):
        return super().extract(image) / image.std((-2, -1), keepdim=True)


class BackboneFollowsThreads(GoodBackbone):
    def extract(self, image):
        return super().extract(image) * torch.get_num_threads()


class BackboneThroughNumpy(GoodBackbone):
    def extract(self, image):
        return super().extract(image) * float(image.detach().numpy().max() > -100)


class BackboneAcceptsAnything(GoodBackbone):
    def forward(self, image):
        return self.extract(image.float().expand(-1, 3, -1, -1))


class BackboneOtherMaps(GoodBackbone):
    def extract_maps(self, image, wants):
        return tuple(self.extract(image) for _ in wants)  # any layer, any kind


BROKEN_BACKBONES = {
    "backbone_shapes": BackboneWrongGrid,
    "backbone_finite": BackboneDividesByDeviation,
    "backbone_threads": BackboneFollowsThreads,
    "backbone_frozen": BackboneTrains,
    "backbone_batch_independence": BackboneMixesBatch,
    "backbone_copies": BackboneForgetsState,
    "backbone_export": BackboneThroughNumpy,
    "backbone_bad_input": BackboneAcceptsAnything,
    "backbone_maps": BackboneOtherMaps,
}


@pytest.mark.parametrize("check", BACKBONE_CHECKS)
def test_each_backbone_check_notices_a_broken_one_and_passes_a_good_one(check: str):
    record = naf_hub.BackboneRecord(name="x", summary="x", target="x:x", learned=False)
    BACKBONE_CHECKS[check](Subject(lambda: GoodBackbone().eval(), record))
    # Export fails in errors of its own.
    with pytest.raises(Exception if check == "backbone_export" else AssertionError):
        BACKBONE_CHECKS[check](Subject(lambda: BROKEN_BACKBONES[check]().eval(), record))
