"""``naf_hub.wrap``: any module as a backbone, or one line on what it gave and what to write."""

from __future__ import annotations

import collections
import re

import pytest
import torch
from torch import Tensor, nn

import naf_hub
from naf_hub import MapError

SMALL = 32  # side of the trial, in pixels


class Tokens(nn.Module):
    """Patches of 8 pixels as tokens behind two others, in the shapes that published models give."""

    def __init__(self, prefix: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 5, 8, 8)
        self.prefix = prefix

    def forward(self, image: Tensor) -> Tensor:
        return self.forward_features(image)["cls"]

    def forward_features(self, image: Tensor) -> dict[str, Tensor]:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([patches[:, :1].expand(-1, self.prefix, -1), patches], dim=1)
        return {"cls": tokens[:, 0], "x_norm_patchtokens": patches, "last_hidden_state": tokens}

    def hidden(self, image: Tensor, shift: float = 0.0) -> collections.OrderedDict[str, Tensor]:
        return collections.OrderedDict(
            last_hidden_state=self.forward_features(image)["last_hidden_state"] + shift
        )

    def tokens(self, image: Tensor) -> Tensor:
        return self.forward_features(image)["last_hidden_state"]

    def last(self, image: Tensor) -> Tensor:
        return self.patches(image).movedim(1, -1)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        found = self.patches(image)
        return [found.repeat_interleave(2, -1).repeat_interleave(2, -2), found]


@pytest.fixture(scope="module")
def module() -> Tokens:
    torch.manual_seed(0)
    return Tokens()


@pytest.mark.parametrize(
    "options",
    [
        {"call": "forward_features", "output": "x_norm_patchtokens"},
        {"call": "hidden", "output": "last_hidden_state", "prefix_tokens": 2, "patch_size": 8},
        {"call": "tokens", "prefix_tokens": 2},
        {"call": "last", "channels_last": True},
        {"call": "pyramid", "output": -1},
        {"call": "patches"},
    ],
    ids=lambda options: options["call"],
)
def test_whatever_shape_a_module_gives_its_backbone_gives_the_map(module: Tokens, options: dict):
    backbone = naf_hub.wrap(module, trial_size=SMALL, **options)
    image = torch.rand(2, 3, 24, 40)
    assert (backbone.embed_dim, backbone.patch_size) == (5, 8)
    expected = module.patches(backbone.normalize(image))
    torch.testing.assert_close(backbone(image), expected)
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())
    assert naf_hub.load("bilinear", backbone=backbone)(image).shape == (2, 5, 24, 40)


def test_normalisation_and_arguments_are_passed_on(module: Tokens):
    image = torch.rand(1, 3, 16, 16)
    backbone = naf_hub.wrap(
        module,
        call="hidden",
        output="last_hidden_state",
        prefix_tokens=2,
        trial_size=SMALL,
        shift=2.0,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    torch.testing.assert_close(backbone(image), module.patches(image) + 2)
    ours = naf_hub.wrap(module, call="patches", trial_size=SMALL)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(ours(image), module.patches((image - mean) / std))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "Tokens gave (1, 5), which is no map; write naf_hub.wrap(module, call='forward_features')"),
        (
            {"call": "forward_features"},
            "Tokens.forward_features gave dict of cls (1, 5), x_norm_patchtokens (1, 16, 5), last_hidden_state "
            "(1, 18, 5), which is no map; write naf_hub.wrap(module, output='x_norm_patchtokens')",
        ),
        ({"call": "hidden"}, "write naf_hub.wrap(module, output='last_hidden_state')"),
        ({"call": "tokens"}, "Tokens.tokens gave 18 tokens of a square picture, which is no square grid; write "
         "naf_hub.wrap(module, prefix_tokens=2)"),
        ({"call": "last"}, "gave (1, 4, 4, 5) of a square picture, which is no square map (B, C, h, w); write "
         "naf_hub.wrap(module, channels_last=True)"),
        ({"call": "pyramid"}, "write naf_hub.wrap(module, output=-1)"),
        ({"call": "patches", "patch_size": 16}, "4x4 cells of 32x32 pixels, which are not 16 pixels each"),
        ({"call": "patches", "trial_size": 42}, "5x5 cells of 42x42 pixels, no whole number of pixels a cell"),
        ({"call": "forward_features", "output": "x_prenorm"}, "which has no 'x_prenorm'"),
        ({"call": "patches", "trial_size": 4}, "Tokens.patches fails on a picture (1, 3, 4, 4): RuntimeError: "),
        ({"call": "tokens", "shift": 1}, "; if it takes another size, write naf_hub.wrap(module, trial_size=...)"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_is_no_map_is_refused_with_what_to_write(module: Tokens, options: dict, says: str):
    with pytest.raises(MapError, match=re.escape(says)) as raised:
        naf_hub.wrap(module, **{"trial_size": SMALL, **options})
    assert "\n" not in str(raised.value)


def test_other_things_than_modules_are_refused(module: Tokens):
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, got function"):
        naf_hub.wrap(lambda image: image)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="Tokens has no method 'encode'"):
        naf_hub.wrap(module, call="encode")


def test_a_plain_module_in_place_of_a_backbone_is_told_of_wrap(module: Tokens):
    model = naf_hub.load("bilinear", backbone=module)
    with pytest.raises(
        MapError, match=r"Tokens gave \(1, 5\), but features must be a map.*naf_hub\.wrap\(module\)"
    ):
        model(torch.rand(1, 3, 16, 16))


def test_a_module_whose_cells_depend_on_the_size_is_told(module: Tokens):
    backbone = naf_hub.wrap(nn.AdaptiveAvgPool2d(4), trial_size=SMALL)
    with pytest.raises(MapError, match=r"gave \(1, 3, 4, 4\) of 64x64 pixels, expected \(B, 3, 8, 8\)"):
        backbone(torch.rand(1, 3, 64, 64))


def test_a_module_of_one_size_says_at_which_to_call_it():
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    backbone = naf_hub.wrap(network, call="forward_features", prefix_tokens=1)
    model = naf_hub.FeaturePipeline(backbone, naf_hub.load("bilinear"))
    image = torch.rand(1, 3, 480, 640)
    with pytest.raises(
        naf_hub.MapError, match=r"takes no picture of 480x640.*image_size=\(224, 224\).*dynamic_"
    ):
        model(image)
    assert model(image, image_size=(224, 224)).shape == (1, 192, 224, 224)
