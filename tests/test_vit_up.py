"""ViT-Up: outputs of the authors' code, alone and behind a backbone with adapters, weights, memory, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from formula_weights import formula_tensor
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import naf_hub
from naf_hub.measuring import make_features
from naf_hub.registry import registry
from naf_hub_timm.backbone import TimmBackbone
from naf_hub_vit_up import register_upsamplers
from naf_hub_vit_up.positions import OffsetWaves, in_cells, nearest_cells, pixel_centres, rotary_phases
from naf_hub_vit_up.vit_up import ViTUp

GOLDENS = Path(__file__).parent / "goldens" / "upsamplers"
OUTPUT = 1e-5
SMALL = {"channels": 32, "num_heads": 2, "depth": 6}
TINY = {**SMALL, "rank": 4, "alpha": 8, "hidden_size": 64, "query_size": 128}


def meta(file: str) -> dict:
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as opened:
        return json.loads(opened.metadata()["meta"])


def published_names(model: ViTUp) -> dict[str, str]:
    """The authors' names by this model's; what they are is pinned by the released layout in the goldens."""
    named = {}
    for own in model.state_dict():
        first, *rest = own.split(".")
        if first == "decoder_mlp":
            rest.insert(1, "mlp")
        if first == "vit_up_blocks":
            rest = [p for part in rest for p in ((part, "mlp") if part.endswith("mlp") else (part,))]
        if first == "adapters":
            where = ["embeddings"] if rest[0] != "layer" else []
            if rest[0] == "layer":
                rest.insert(2, "attention")
            first = ".".join(["backbone.base_model.model", *where])
            rest = [*rest, "default", "weight"]
        named[own] = ".".join([first, *rest])
    return named


def by_formula(model: ViTUp) -> ViTUp:
    """The model with the weights that the goldens were recorded with."""
    state = model.state_dict()
    names = {own: name for own, name in published_names(model).items() if not own.startswith("adapters.")}
    found = {
        name: formula_tensor(name, tuple(state[own].shape))
        for own, name in names.items()
        if "freqs" not in own
    }
    kept = {own: state[own] for own in state if own.startswith("adapters.") or "freqs" in own}
    model.load_weights({**found, **kept})
    return model.eval().requires_grad_(False)


def features_of(model: ViTUp, hidden: Tensor, patches: Tensor) -> dict[str, Tensor]:
    """What the model gathers, of the authors' tensors (layers, B, h, w, C) and (B, H, W, C)."""
    maps = hidden.movedim(-1, 2)
    named = dict(zip(model.hidden_names, maps[1:], strict=True))
    return {"token[-1]": maps[-1], **named, "patches": patches.movedim(-1, 1)}


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def record() -> naf_hub.UpsamplerRecord:
    found: list[naf_hub.UpsamplerRecord] = []
    register_upsamplers(found.append)
    return found[0]


@pytest.fixture(scope="module")
def small() -> ViTUp:
    return by_formula(ViTUp(**SMALL))


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDENS / "vit_up_small.safetensors")


def gathered(model: ViTUp, golden: dict[str, Tensor], case: str) -> dict[str, Tensor]:
    return features_of(model, golden[f"{case}/in/hidden"], golden[f"{case}/in/patch_embed"])


CASES = ("square", "nonsquare_batch2", "dense_grid", "border", "halfway", "outside", "one_query")


@pytest.mark.filterwarnings("ignore:points outside")
@pytest.mark.parametrize("case", CASES)
def test_outputs(small: ViTUp, golden: dict[str, Tensor], case: str):
    found = small.query(gathered(small, golden, case), golden[f"{case}/in/coords"])
    assert apart(torch.stack(found), golden[f"{case}/out/layers"]) < OUTPUT


def test_full_configuration():
    golden = load_file(GOLDENS / "vit_up_full_splus_d384_formula.safetensors")
    model = by_formula(ViTUp())
    found = model.query(features_of(model, golden["case/in/hidden"], golden["case/in/patch_embed"]),
                        golden["case/in/coords"])  # fmt: skip
    assert apart(torch.stack(found), golden["case/out/layers"]) < 2 * OUTPUT


def test_positions(golden: dict[str, Tensor]):
    grid = (6, 6)
    at = in_cells(golden["square/in/coords"], grid)
    phases = rotary_phases(at, 16)
    for found, name in zip(phases, ("cos", "sin"), strict=True):
        assert apart(found.repeat_interleave(2, -1), golden[f"square/mid/rope_q_{name}"]) < OUTPUT
    centres = in_cells(pixel_centres(*grid, at), grid)
    cos, _ = rotary_phases(centres, 16)
    assert apart(cos.repeat_interleave(2, -1)[None], golden["square/mid/rope_grid_cos"]) < OUTPUT
    assert (
        apart(
            OffsetWaves()(nearest_cells(golden["square/in/coords"], grid)[1]),
            golden["square/mid/rel_pos_enc"],
        )
        < OUTPUT
    )


def test_a_grid_of_pixels_is_its_centres(small: ViTUp, golden: dict[str, Tensor]):
    features = gathered(small, golden, "dense_grid")
    found = small(torch.rand(1, 3, 8, 12), features)
    assert apart(found.flatten(2).mT, golden["dense_grid/out/layers"][-1]) < OUTPUT


def test_a_dense_448_grid_has_448_columns_in_half_precision(small: ViTUp, golden: dict[str, Tensor]):
    """In bfloat16 only 353 of them would differ."""
    narrow = ViTUp(**SMALL)
    narrow.load_state_dict(small.state_dict())
    narrow = narrow.bfloat16()
    assert torch.equal(narrow.rel_pos_enc.freqs, small.rel_pos_enc.freqs)
    features = gathered(small, golden, "square")
    low = {name: maps.bfloat16() for name, maps in features.items()}
    found = narrow.requires_grad_(False)(torch.rand(1, 3, 2, 448).bfloat16(), low)
    assert found.dtype == torch.bfloat16
    expected = small(torch.rand(1, 3, 2, 448), features)
    assert (found.float() - expected).norm() / expected.norm() < 0.05


def test_memory_does_not_change_results(small: ViTUp, golden: dict[str, Tensor]):
    image, features = torch.rand(2, 3, 20, 24), gathered(small, golden, "nonsquare_batch2")
    expected = small(image, features, (9, 13))
    narrow = ViTUp(**SMALL, memory="16KiB").requires_grad_(False)
    narrow.load_state_dict(small.state_dict())
    assert apart(narrow(image, features, (9, 13)), expected) < OUTPUT


def test_points_beyond_the_image_are_told(small: ViTUp, golden: dict[str, Tensor]):
    features = gathered(small, golden, "outside")
    with pytest.warns(UserWarning, match=r"points outside \[0, 1\]"):
        small.query(features, golden["outside/in/coords"])
    with pytest.raises(ValueError, match=r"points must have shape \(B, N, 2\), got \(4, 2\)"):
        small.query(features, golden["outside/in/coords"][0])


# --- behind a backbone with adapters ----------------------------------------------------------------------

TIMM = {
    "embeddings.patch_embeddings.base_layer": "patch_embed.proj",
    "attention.o_proj.base_layer": "attn.proj",
    "attention.q_proj.base_layer.bias": "attn.q_bias",
    "attention.v_proj.base_layer.bias": "attn.v_bias",
    "layer_scale1.lambda1": "gamma_1",
    "layer_scale2.lambda1": "gamma_2",
    "mlp.gate_proj": "mlp.fc1_g",
    "mlp.up_proj": "mlp.fc1_x",
    "mlp.down_proj": "mlp.fc2",
    "layer.": "blocks.",
    "register_tokens": "reg_token",
    "embeddings.": "",
}


def dinov3(state: dict[str, Tensor]) -> TimmBackbone:
    """timm's model with weights under the names of the transformers library."""
    model = TimmBackbone(
        "vit_small_plus_patch16_dinov3", embed_dim=32, depth=6, num_heads=2, qkv_bias=True, mlp_ratio=2
    )
    named = {}
    for name, tensor in state.items():
        own = name
        for theirs, timms in TIMM.items():
            own = own.replace(theirs, timms)
        named[f"model.{own}"] = tensor
    named = {k: v for k, v in named.items() if "_proj." not in k and "mask_token" not in k}
    for i in range(6):
        parts = [state[f"layer.{i}.attention.{p}_proj.base_layer.weight"] for p in "qkv"]
        named[f"model.blocks.{i}.attn.qkv.weight"] = torch.cat(parts)
    model.load_weights(named)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tiny() -> dict[str, Tensor]:
    return load_file(GOLDENS / "vit_up_dinov3_tiny_gated.safetensors")


@pytest.fixture(scope="module")
def backbone(tiny: dict[str, Tensor]) -> TimmBackbone:
    prefix = "param/backbone.base_model.model."
    return dinov3(
        {k.removeprefix(prefix): v for k, v in tiny.items() if k.startswith(prefix) and "lora" not in k}
    )


@pytest.fixture(scope="module")
def adapted(tiny: dict[str, Tensor]) -> ViTUp:
    model = by_formula(ViTUp(**TINY))
    state = {k.removeprefix("param/"): v for k, v in tiny.items() if k.startswith("param/") and "lora" in k}
    model.load_weights(
        {**{k: v for k, v in model.state_dict().items() if not k.startswith("adapters.")}, **state}
    )
    return model.eval().requires_grad_(False)


def test_from_an_image_to_the_output(tiny: dict[str, Tensor], adapted: ViTUp, backbone: TimmBackbone):
    image, before = tiny["case/in/image01"], {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.warns(UserWarning, match="resized"):  # the plain map, of the image as it is
        features = adapted.gather(image, backbone)
    expected = features_of(adapted, tiny["case/mid/hidden"], tiny["case/mid/patch_embed"])
    for name, maps in expected.items():
        if name != "token[-1]":
            assert apart(features[name], maps) < 2 * OUTPUT, name
    found = adapted.query(features, tiny["case/in/coords"])
    assert apart(torch.stack(found), tiny["case/out/layers"]) < 2 * OUTPUT
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items()), (
        "the backbone was changed"
    )


def test_the_reference_is_the_plain_backbone(tiny: dict[str, Tensor], adapted: ViTUp, backbone: TimmBackbone):
    square = torch.nn.functional.interpolate(tiny["case/in/image01"], (64, 64), mode="bilinear")
    reference = adapted.reference(adapted.gather(square, backbone))
    assert torch.equal(reference, backbone(square))
    assert apart(reference, tiny["case/mid/hidden_no_lora"][-1].movedim(-1, 1)) < 2 * OUTPUT


def test_features_kept_for_one_set_of_adapters_are_not_those_of_another(adapted: ViTUp):
    other = ViTUp(**TINY)
    assert other.gather_key != adapted.gather_key
    other.load_state_dict(adapted.state_dict())
    assert other.gather_key == adapted.gather_key


def test_what_it_is_timed_on_looks_like_what_it_gathers(adapted: ViTUp, backbone: TimmBackbone):
    image = torch.rand(1, 3, 64, 64)
    example = make_features(adapted, image, (32, 4, 4))
    gathered = adapted.gather(image, backbone)
    assert {k: v.shape for k, v in example.items()} == {k: v.shape for k, v in gathered.items()}


def test_gradients_reach_the_adapters(backbone: TimmBackbone):
    model = ViTUp(**TINY)
    image = torch.rand(1, 3, 64, 64)
    model(image, model.gather(image, backbone), 3).square().mean().backward()
    reached = {name: p.grad for name, p in model.adapters.named_parameters() if "lora_B" in name}
    # Queries and keys of the first block move its output little, but not by nothing.
    assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in reached.values())
    assert all(p.grad is None for p in backbone.parameters())


def test_what_the_adapters_do_not_fit_is_refused(adapted: ViTUp):
    image = torch.rand(1, 3, 32, 32)
    for other in (torch.nn.Conv2d(3, 32, 16, 16), TimmBackbone("vit_tiny_patch16_224", depth=6),
                  TimmBackbone("resnet10t")):  # fmt: skip
        with pytest.raises(
            naf_hub.MapError, match=r"with 6 blocks of 32 channels and patches of 16 pixels; \w+ is none"
        ):
            adapted.gather(image, other)
    with pytest.raises(ValueError, match="hidden layers of its adapted backbone, not on a plain map"):
        adapted(image, torch.randn(1, 32, 2, 2))
    wrong = {name: torch.randn(1, 8, 2, 2) for name in ("token[-1]", *adapted.hidden_names, "patches")}
    with pytest.raises(ValueError, match=r"made for 32 channels here, got 8 in token\[-1\]"):
        adapted(image, wrong)


# --- weights ----------------------------------------------------------------------------------------------

LAYOUTS = json.loads((GOLDENS / "vit_up_layouts.json").read_text())


@pytest.mark.parametrize(
    ("name", "file"), [("dinov3_splus", "vit_up_dinov3_splus"), ("dinov3_b", "vit_up_dinov3_base")]
)
def test_records_fit_the_released_layouts(name: str, file: str):
    weights, layout = record().weights[name], LAYOUTS[file]
    assert weights.source == f"hf://Krispin/vit-up/{file}.safetensors"
    assert weights.license == "none stated"
    info = naf_hub.info(name)
    assert isinstance(info, naf_hub.BackboneRecord)
    assert weights.options["channels"] == info.embed_dim
    with torch.device("meta"):
        model = ViTUp(**weights.options)
    shapes = {key: tuple(shape) for key, shape in layout["shapes"].items()}
    state = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert {own: shapes[key] for own, (key, _) in model.plan_weights(shapes).items()} == state
    adapters = sum(p.numel() for p in model.adapters.parameters())
    assert adapters == layout["lora_parameters"]
    assert sum(p.numel() for p in model.parameters()) - adapters == layout["vit_up_parameters"]
    assert published_names(model).keys() == state.keys()
    assert set(published_names(model).values()) == set(shapes)


def test_weights_load_in_published_older_and_own_names(small: ViTUp, golden, tmp_path: Path):
    features, points = gathered(small, golden, "square"), golden["square/in/coords"]
    names, state = published_names(small), small.state_dict()
    published = {names[own]: value for own, value in state.items()}
    older = {
        key.replace("vit_up_blocks.0.transition_mlp.", "q_proj.0.")
        .replace("vit_up_blocks.1.featx.", "local_feature_decoder.1.")
        .replace("vit_up_blocks.2.cross_attention.", "global_local_cross_attention.2.global_cross_attention.")
        .replace("vit_up_blocks.2.norm_post.", "global_local_cross_attention.2.norm_post."): value
        for key, value in published.items()
    }
    assert len(set(older) - set(published)) == 6 + 12 + 8 + 2
    for layout in (published, older, state):
        model = ViTUp(**SMALL)
        model.load_weights(layout)
        assert apart(model.query(features, points)[-1], small.query(features, points)[-1]) == 0
    with pytest.raises(naf_hub.WeightsError, match="unexpected odd"):
        ViTUp(**SMALL).load_weights({**published, "odd": torch.ones(1)})
    save_file(published, tmp_path / "published.safetensors")
    loaded = naf_hub.load("vit_up", weights=tmp_path / "published.safetensors", **SMALL)
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    del published["decoder_mlp.3.mlp.1.bias"]
    with pytest.raises(naf_hub.WeightsError, match=r"missing decoder_mlp\.3\.1\.bias"):
        ViTUp(**SMALL).load_weights(published)


@pytest.mark.parametrize(
    ("backbone", "lacking"),
    [
        ("pico", "hidden layers of a vision transformer"),
        ("timm:resnet10t", "hidden layers of a vision transformer"),
        ("cradio_v3_b", "hidden layers of a vision transformer"),
        ("dinov2_b", "patches of 16 pixels"),
        ("dinov3_7b", "depth of 12 blocks"),
        ("timm:vit_large_patch16_dinov3", "depth of 12 blocks"),
    ],
)
@pytest.mark.parametrize("weights", ["default", None, "dinov3_b"])
def test_a_backbone_that_lacks_what_it_reads_is_refused_first(
    backbone: str, lacking: str, weights: str | None
):
    with pytest.raises(naf_hub.MapError) as told:
        naf_hub.load("vit_up", backbone=backbone, weights=weights)
    message = str(told.value)
    assert message.startswith(f"backbone {backbone!r} has no {lacking}"), message
    assert "vit_up needs; backbones that have: " in message
    assert "dinov3_b" in message
    assert "dinov3_7b," not in message  # of 40 blocks
    assert "\n" not in message


def test_backbones_that_fit_are_those_of_its_depth_and_channels():
    options = {"depth": 24, "channels": 1024}
    fitting = {
        name
        for name in naf_hub.list_backbones()
        if not ViTUp.lacks(registry().find(name, naf_hub.BackboneRecord), options)
    }
    assert fitting == {
        "dinov3_l", "dinov3_l_sat", "mae_l", "siglip2_l16_256", "siglip2_l16_384", "siglip2_l16_512"
    }  # fmt: skip
    with pytest.raises(
        # Those that a set of weights is for come first.
        naf_hub.MapError,
        match=r"has no maps of 768 channels, .* that have: dinov3_b, clip_b16, dino_b16",
    ):
        naf_hub.load("vit_up", backbone="dino_s16", weights="dinov3_b")


def test_heads_have_64_channels_unless_they_are_said():
    assert ViTUp(channels=1024, depth=2).head_dim == 64
    assert ViTUp(channels=32).head_dim == 32


def test_the_backbone_picks_the_weights():
    with pytest.raises(
        naf_hub.WeightsError, match=r"no weights for backbone 'dino_s16'; it has them for: dinov3_b, dino"
    ):
        naf_hub.load("vit_up", backbone="dino_s16")
    with pytest.raises(naf_hub.WeightsError, match=r"has weights per backbone \(dinov3_b, dinov3_splus\)"):
        naf_hub.load("vit_up")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"channels": 30},
            "channels must be a multiple of four times num_heads, got channels=30, num_heads=1",
        ),
        ({"depth": 5}, "depth must be a positive multiple of 2, got 5"),
        ({"rank": 0}, "patch and rank must be at least 1, got patch=16, rank=0"),
        ({"hidden_size": 450}, "hidden_size must be a positive multiple of patch=16, got 450"),
        ({"query_size": 0}, "query_size must be a positive multiple of patch=16, got 0"),
        ({"memory": "much"}, "memory must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message: str):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        ViTUp(**options)
