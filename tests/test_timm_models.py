"""``timm:<name>``: any timm model, its options, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import naf_hub
from naf_hub import Want
from naf_hub.testing import check_backbone
from naf_hub_timm.backbone import TimmBackbone

VIT = "timm:test_vit"  # timm's smallest: 160 pixels, patch 16, 64 channels


def random_weights(model: str) -> dict[str, Tensor]:
    """A state dict as timm publishes it: classifier and all layers."""
    torch.manual_seed(1)
    state = timm.create_model(model).state_dict()
    return {
        key: torch.rand_like(value) if value.is_floating_point() else value for key, value in state.items()
    }


def saved(folder: Path, state: dict[str, Tensor]) -> Path:
    path = folder / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("test_vit", (96, 64), (6, 4)),
        ("test_vit2", (48, 80), (3, 5)),
        ("test_resnet", (96, 64), (3, 2)),
        ("test_convnext", (96, 64), (3, 2)),
        ("test_efficientnet", (96, 64), (3, 2)),
        ("swin_tiny_patch4_window7_224", (96, 160), (3, 5)),
    ],
)
def test_any_family_any_size(name: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = naf_hub.load_backbone(f"timm:{name}", weights=None)
    record = naf_hub.info(f"timm:{name}")
    assert isinstance(record, naf_hub.BackboneRecord)
    assert (record.embed_dim, record.patch_size) == (model.embed_dim, model.patch_size)
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        features = model(image)
    assert features.shape == (2, model.embed_dim, *grid)
    assert torch.isfinite(features).all()


def test_features_are_timms_own() -> None:
    """Against timm called by hand: normalisation, final norm and the order of tokens are right."""
    torch.manual_seed(0)
    model = naf_hub.load_backbone(VIT, weights=None)
    assert isinstance(model, TimmBackbone)
    config = timm.get_pretrained_cfg("test_vit")
    image = torch.rand(1, 3, 48, 80)
    normalised = (image - torch.tensor(config.mean).view(3, 1, 1)) / torch.tensor(config.std).view(3, 1, 1)
    with torch.no_grad():
        tokens = model.model.forward_features(normalised)[:, model.model.num_prefix_tokens :]
        features = model(image)
    torch.testing.assert_close(features, tokens.transpose(1, 2).reshape(1, -1, 3, 5))


def test_conformance() -> None:
    check_backbone(VIT)


def test_half_precision_and_double() -> None:
    model = naf_hub.load_backbone(VIT, weights=None)
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        exact = model.double()(image.double())
        assert exact.dtype == torch.float64
        torch.testing.assert_close(model.bfloat16()(image.bfloat16()).double(), exact, atol=0.1, rtol=0.1)


def test_stride_and_layer_choose_the_map() -> None:
    for stride, channels in ((4, 64), (16, 256)):
        model = naf_hub.load_backbone("timm:resnet10t", weights=None, stride=stride)
        assert (model.patch_size, model.embed_dim) == (stride, channels)
        with torch.no_grad():
            assert model(torch.rand(1, 3, 64, 96)).shape == (1, channels, 64 // stride, 96 // stride)
    first = naf_hub.load_backbone(VIT, weights=None, layer=0)
    assert isinstance(first, TimmBackbone)
    assert len(first.model.blocks) == 1, "later blocks are kept for nothing"


@pytest.mark.parametrize(("name", "layer"), [(VIT, 1), ("timm:resnet10t", 2)])
@torch.no_grad()
def test_layer_norm_behind_any_layer(name: str, layer: int) -> None:
    """Of the default map and of every map that norms follow; maps without norm stay as they are."""
    options: dict[str, Any] = {"weights": None, "layer": layer, "norm": False}
    torch.manual_seed(0)
    plain = naf_hub.load_backbone(name, **options)
    normed = naf_hub.load_backbone(name, **options, layer_norm=True)
    normed.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 64, 64)
    expected = F.layer_norm(plain(image).movedim(1, -1), (plain.embed_dim,)).movedim(-1, 1)
    torch.testing.assert_close(normed(image), expected)
    last, other, raw = normed.maps(image, Want(), Want(0), Want(0, norm=False))
    torch.testing.assert_close(last, expected)
    (inner,) = plain.maps(image, Want(0, norm=False))
    torch.testing.assert_close(raw, inner)
    torch.testing.assert_close(other, F.layer_norm(inner.movedim(1, -1), inner.shape[1:2]).movedim(-1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 5}, "feature maps of stride 2, 4, 8, 16, 32, not 5"),
        ({"layer": 9}, "layers 0 to 4, not 9"),
        ({"layer": 1, "stride": 4}, "not both"),
    ],
)
def test_wrong_layer(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        naf_hub.load_backbone("timm:resnet10t", weights=None, **options)


def test_unknown_option() -> None:
    with pytest.raises(TypeError, match=r"backbone 'timm:resnet10t' has no option 'colour'$"):
        naf_hub.load_backbone("timm:resnet10t", weights=None, colour=3)
    with pytest.raises(TypeError, match=r"cannot be built with in_chans = 'x' \(TypeError: "):
        naf_hub.load_backbone("timm:resnet10t", weights=None, in_chans="x")


def test_fixed_size_model_resizes_and_says_so() -> None:
    model = naf_hub.load_backbone("timm:convit_tiny", weights=None)
    with torch.no_grad(), pytest.warns(UserWarning, match="64x96 to 224x224.*img_size="):
        features = model(torch.rand(1, 3, 64, 96))
    assert tuple(features.shape[-2:]) == model.grid(64, 96) == model.grid(224, 224) == (14, 14)
    smaller = naf_hub.load_backbone("timm:convit_tiny", weights=None, img_size=96)
    with torch.no_grad():
        assert smaller(torch.rand(1, 3, 96, 96)).shape == (1, smaller.embed_dim, 6, 6)


def test_fixed_size_that_the_stride_does_not_divide() -> None:
    image = torch.rand(1, 3, 224, 224)
    model = naf_hub.load_backbone("timm:levit_128s", weights=None)
    with pytest.raises(
        ValueError, match="224x224 images only, not divisible by its stride 64; pass stride=16 or 32"
    ):
        model(image)
    with torch.no_grad():
        assert naf_hub.load_backbone("timm:levit_128s", weights=None, stride=32)(image).shape == (
            1,
            256,
            7,
            7,
        )


def test_model_without_a_norm_to_apply() -> None:
    model = naf_hub.load_backbone("timm:hiera_tiny_224", weights=None)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 224, 224)).shape == (1, 768, 7, 7)


def test_model_whose_cells_do_not_tile_the_image() -> None:
    model = naf_hub.load_backbone("timm:inception_v3", weights=None, stride=8)
    with torch.no_grad(), pytest.raises(ValueError, match="do not tile the image"):
        model(torch.rand(1, 3, 96, 96))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_smal_patch16_224", "did you mean .*timm:vit_small_patch16_224"),
        ("vit_small_patch16_224.dinoo", "no tag 'dinoo'; known: .*vit_small_patch16_224.dino"),
        ("resnet10t.nothing", "no tag 'nothing'"),
    ],
)
def test_unknown_model(name: str, message: str) -> None:
    with pytest.raises(naf_hub.UnknownNameError, match=message):
        naf_hub.info(f"timm:{name}")


def test_default_weights_are_timms_on_the_hub() -> None:
    weights = naf_hub.info("timm:mobilenetv1_100").weights["default"]
    assert weights.source == "hf://timm/mobilenetv1_100.ra4_e3600_r224_in1k/model.safetensors"
    assert weights.license == "apache-2.0"


def test_published_file_loads_without_its_head(tmp_path: Path) -> None:
    state = random_weights("test_vit")
    model = naf_hub.load_backbone(VIT, weights=saved(tmp_path, state))
    assert "head.weight" in state
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key.removeprefix("model.")], rtol=0, atol=0)


def test_truncated_convolutional_checkpoint(tmp_path: Path) -> None:
    """A file without classifier, last layers and batch counters serves a model cut at stride 16."""
    torch.manual_seed(2)
    whole = timm.create_model("mobilenetv1_100", pad_type="same", bn_eps=1e-3)
    with torch.no_grad():
        whole.train()(torch.rand(4, 3, 64, 64))  # statistics other than the initial ones
    state = whole.state_dict()
    kept = {k: v for k, v in state.items() if not k.startswith(("classifier", "blocks.4.1"))}
    kept = {k: v for k, v in kept.items() if not k.endswith("num_batches_tracked")}
    assert any(k.startswith("blocks.4.0") for k in kept)
    path = saved(tmp_path, kept)
    model = naf_hub.load_backbone(
        "timm:mobilenetv1_100", weights=path, pad_type="same", bn_eps=1e-3, stride=16
    )
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        x = whole.eval().bn1(whole.conv_stem(image * 2 - 1))
        expected = whole.blocks[:4](x)
        assert expected.shape == (1, 512, 4, 6)
        torch.testing.assert_close(model(image), expected)
        # Symmetric padding would be another network: the option must have reached timm.
        other = naf_hub.load_backbone("timm:mobilenetv1_100", weights=path, stride=16, bn_eps=1e-3)
        assert not torch.allclose(other(image), expected, rtol=1e-2, atol=1e-2)


def test_own_folder_round_trip(tmp_path: Path) -> None:
    from naf_hub.weights.files import save_weights

    torch.manual_seed(3)
    model = naf_hub.load_backbone(VIT, weights=None, layer=1)
    save_weights(tmp_path / "kept", model, name=naf_hub.info(VIT).name, options={"layer": 1})
    again = naf_hub.load_backbone(VIT, weights=tmp_path / "kept")
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(image), model(image))


def test_own_folder_of_a_model_with_a_norm_in_its_head(tmp_path: Path) -> None:
    from naf_hub.weights.files import save_weights

    shallow = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    torch.manual_seed(3)
    model = naf_hub.load_backbone("dinov3_cnx_t", weights=None, **shallow)
    save_weights(tmp_path / "kept", model, name="dinov3_cnx_t", options=shallow)
    image = torch.rand(1, 3, 64, 64)
    for dtype, tolerance in ((None, 0), (torch.bfloat16, 0.2)):
        again = naf_hub.load_backbone("dinov3_cnx_t", weights=tmp_path / "kept", dtype=dtype)
        with torch.no_grad():
            torch.testing.assert_close(again(image), model(image), atol=tolerance, rtol=0)


def test_positions_are_resampled_for_another_image_size(tmp_path: Path) -> None:
    state = random_weights("test_vit")
    model = naf_hub.load_backbone(VIT, weights=saved(tmp_path, state), img_size=96)
    assert isinstance(model, TimmBackbone)
    assert model.model.pos_embed.shape[1] < state["pos_embed"].shape[1]
    with torch.no_grad():
        assert torch.isfinite(model(torch.rand(1, 3, 96, 96))).all()


def without(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: without(s, "blocks.0.attn.qkv.weight"), "missing blocks.0.attn.qkv.weight"),
        (lambda s: s | {"blocks.77.weight": torch.ones(2)}, "unexpected blocks.77.weight"),
        (lambda s: s | {"norm.weight": torch.ones(5)}, r"norm.weight has shape \(5,\), expected \(64,\)"),
        (lambda s: {}, "missing .* and .* more"),
    ],
)
def test_wrong_weights_name_the_keys(damage, message: str) -> None:
    model = TimmBackbone("test_vit")
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(naf_hub.WeightsError, match=message):
        model.load_weights(damage(random_weights("test_vit")))
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items()), "half-loaded"


def test_weights_of_another_model(tmp_path: Path) -> None:
    path = saved(tmp_path, random_weights("test_resnet"))
    with pytest.raises(naf_hub.WeightsError, match="'test_vit'"):
        naf_hub.load_backbone(VIT, weights=path)


def test_streaming_gives_the_same_model(tmp_path: Path) -> None:
    """In bfloat16 the model is filled tensor by tensor; RoPE tables, in no file, are computed anew."""
    for model in ("test_vit", "vit_pe_core_tiny_patch16_384"):
        path = saved(tmp_path, random_weights(model))
        streamed = naf_hub.load_backbone(f"timm:{model}", weights=path, dtype=torch.bfloat16)
        usual = naf_hub.load_backbone(f"timm:{model}", weights=path)
        expected = dict(usual.named_parameters())
        for key, value in streamed.named_parameters():
            assert torch.equal(value, expected.pop(key).to(torch.bfloat16)), key
        assert not expected
        for key, value in streamed.named_buffers():
            assert torch.equal(value, usual.get_buffer(key)), key
        with torch.no_grad():
            features = streamed(torch.rand(1, 3, 48, 64))
        assert features.dtype == torch.float32
        assert torch.isfinite(features).all()
