"""FeatUp: outputs of the authors' code, weights of every layout, any size, precision, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import released_weights
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import naf_hub
from naf_hub.loading import load_upsampler
from naf_hub.testing import UPSAMPLER_CHECKS, Subject
from naf_hub_featup import register_upsamplers
from naf_hub_featup.jbu_stack import JBUStack
from naf_hub_featup.jbu_stage import JBUStage

GOLDEN = load_file(Path(__file__).parent / "goldens" / "upsamplers" / "featup.safetensors")
OUTPUT = 2e-5
STATE = {k.removeprefix("state."): v for k, v in GOLDEN.items() if k.startswith("state.")}
NO_NORM = {k: v for k, v in STATE.items() if not k.startswith("model.")}


def stack(state: dict[str, Tensor] | None = None, **options) -> JBUStack:
    torch.manual_seed(0)
    model = JBUStack(**{"channels": 8, **options})
    if state is not None:
        model.load_weights(state)
    return model.eval().requires_grad_(False)


def records() -> dict[str, naf_hub.UpsamplerRecord]:
    found: list[naf_hub.UpsamplerRecord] = []
    register_upsamplers(found.append)
    return {record.name: record for record in found}


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("case", ["patch16", "patch14"])
def test_outputs(case: str):
    image, features = GOLDEN[f"{case}.image"], GOLDEN[f"{case}.features"]
    model = stack(NO_NORM, channels=3)  # the file's channels count
    guidance = F.adaptive_avg_pool2d(image, (8, 10))
    taps = model.up1.range_taps(guidance, (0, 8))
    assert apart(taps, GOLDEN[f"{case}.stage1_kernel_before_fixup"]) < OUTPUT
    assert apart(model.up1.taps(guidance, (2, 5)), GOLDEN[f"{case}.stage1_kernel"][:, :, 2:5]) < OUTPUT
    assert apart(model.up1(features, guidance), GOLDEN[f"{case}.stage1"]) < OUTPUT
    assert apart(model.filter(image, features), GOLDEN[f"{case}.output"]) < OUTPUT
    resized = F.interpolate(GOLDEN[f"{case}.output"], (50, 33), mode="bilinear")
    assert apart(model.filter(image, features, (50, 33)), resized) < OUTPUT


def test_layer_normed_features_and_their_space():
    model = stack(STATE)
    features = GOLDEN["patch16.features"]
    assert apart(model.reference(features), GOLDEN["normed.channelnorm"]) < OUTPUT
    assert apart(model.filter(GOLDEN["patch16.image"], features), GOLDEN["normed.output"]) < OUTPUT
    assert model.promises.linear_groups is None


@pytest.mark.parametrize("ratio", [2, 4])
def test_fewer_steps(ratio: int):
    found = stack(NO_NORM, ratio=ratio).filter(GOLDEN["patch16.image"], GOLDEN["patch16.features"])
    assert apart(found, GOLDEN[f"ratio{ratio}.output"]) < OUTPUT


@pytest.mark.parametrize("grid", [(5, 13), (1, 6), (2, 3), (9, 4)])
def test_a_step_is_bicubic_upsampling_and_a_filter_of_each_pixel(grid: tuple[int, int]):
    torch.manual_seed(1)
    stage, (h, w) = JBUStage().eval().requires_grad_(False), grid
    features, guidance = torch.randn(2, 5, h, w), torch.randn(2, 3, 2 * h, 2 * w)
    up = F.interpolate(features, (2 * h, 2 * w), mode="bicubic")
    up = F.pad(up, (0, 0, 3, 3), "reflect" if h > 1 else "replicate")
    up = F.pad(up, (3, 3, 0, 0), "reflect")
    windows = F.unfold(up, 7).view(2, 5, 49, 2 * h, 2 * w)
    expected = (windows * stage.taps(guidance, (0, 2 * h))[:, None]).sum(2)
    assert apart(stage(features, guidance), expected) < OUTPUT


@pytest.mark.parametrize(
    ("width", "norm", "count"), [(384, False, 172_772), (384, True, 173_540), (512, False, 287_588)]
)
def test_parameters_are_the_papers(width: int, norm: bool, count: int):
    assert sum(p.numel() for p in JBUStack(width, norm).parameters()) == count


def test_every_layout_of_weights_loads():
    image, features = GOLDEN["patch16.image"], GOLDEN["patch16.features"]
    bare = {k.removeprefix("upsampler."): v for k, v in NO_NORM.items()}
    checkpoint = {**NO_NORM, "scale_net.net.weight": torch.ones(1), "downsampler.w": torch.ones(2),
                  "model.0.blocks.weight": torch.ones(3)}  # fmt: skip
    for state in (bare, checkpoint):
        assert apart(stack(state).filter(image, features), GOLDEN["patch16.output"]) < OUTPUT
    of_naf = {**bare, **{f"norm.norm.{k}": STATE[f"model.1.norm.{k}"] for k in ("weight", "bias")}}
    assert apart(stack(of_naf).filter(image, features), GOLDEN["normed.output"]) < OUTPUT
    own = stack(STATE)
    assert apart(stack(own.state_dict(), norm=True).filter(image, features), GOLDEN["normed.output"]) < OUTPUT
    # A checkpoint without the norm that it was trained with: the norm was frozen as it started.
    plain = stack(bare, norm=True)
    expected = F.layer_norm(features.movedim(1, -1), (8,)).movedim(-1, 1)
    assert apart(plain.reference(features), expected) < OUTPUT
    steps = {k: v for k, v in bare.items() if k.startswith("up")}
    with pytest.raises(naf_hub.WeightsError, match="fixup_proj"):
        stack(steps)
    assert (
        apart(stack(steps, projection=False)(image, features), stack(bare, projection=False)(image, features))
        == 0
    )


def test_steps_alone_take_features_of_any_backbone():
    model = stack(NO_NORM, projection=False, ratio=2)
    assert model.promises.linear_groups == 1
    assert model(torch.rand(1, 3, 16, 16), torch.randn(1, 5, 4, 4)).shape == (1, 5, 16, 16)
    with pytest.raises(ValueError, match="for features of 8 channels, got 5"):
        stack(NO_NORM)(torch.rand(1, 3, 16, 16), torch.randn(1, 5, 4, 4))


def by_definition(
    state: dict[str, Tensor], image: Tensor, features: Tensor, transposed: bool = False
) -> Tensor:
    """Two steps and the projection in float64, pixel windows written out; ``transposed`` swaps rows and columns of the
    taps on their way into the network that corrects them and out of it."""

    def network(name: str, x: Tensor) -> Tensor:
        first, second = ((state[f"{name}.{i}.weight"][..., 0, 0], state[f"{name}.{i}.bias"]) for i in (0, 3))
        return F.linear(F.gelu(F.linear(x, *first)), *second)

    def windows(x: Tensor) -> Tensor:  # (C, H, W) -> (H, W, 7, 7, C)
        return (
            F.pad(x[None], (3, 3, 3, 3), "reflect")[0].unfold(1, 7, 1).unfold(2, 7, 1).permute(1, 2, 3, 4, 0)
        )

    def swap(taps: Tensor) -> Tensor:
        return taps.unflatten(-1, (7, 7)).mT.flatten(-2) if transposed else taps

    u = torch.linspace(-1, 1, 7, dtype=torch.float64) ** 2
    for step in ("up1", "up2"):
        up = F.interpolate(features[None], scale_factor=2, mode="bicubic")[0]
        colours = F.adaptive_avg_pool2d(image, up.shape[1:]).permute(1, 2, 0)
        keys = network(f"{step}.range_proj", colours)
        alike = torch.einsum("hwijk,hwk->hwij", windows(keys.permute(2, 0, 1)), keys).flatten(-2)
        near = torch.exp(-(u[:, None] + u) / (2 * state[f"{step}.sigma_spatial"] ** 2)).flatten()
        taps = (alike * state[f"{step}.range_temp"].exp().clamp(1e-4, 1e4)).softmax(-1) * near
        taps = taps / taps.sum(-1, keepdim=True).clamp(min=1e-7)
        taps = taps + 0.1 * swap(network(f"{step}.fixup_proj", torch.cat([swap(taps), colours], -1)))
        features = torch.einsum("hwijc,hwij->chw", windows(up), taps.unflatten(-1, (7, 7)))
    weight, bias = state["fixup_proj.1.weight"][..., 0, 0], state["fixup_proj.1.bias"]
    return features + 0.1 * F.linear(features.permute(1, 2, 0), weight, bias).permute(2, 0, 1)


@released_weights.needed
@pytest.mark.parametrize("name", ["clip", "maskclip"])
def test_released_weights(name: str):
    """Against the definition, whose result the order of the taps decides."""
    state = load_file(released_weights.FOLDER / f"{name}_jbu_stack_cocostuff.safetensors")
    drawn = torch.Generator().manual_seed(0)
    image, features = torch.randn(3, 24, 28, generator=drawn), torch.randn(512, 4, 5, generator=drawn)
    doubled = {key: value.double() for key, value in state.items()}
    expected, swapped = (
        by_definition(doubled, image.double(), features.double(), way).float() for way in (False, True)
    )
    found = stack(state, ratio=4).filter(image[None], features[None])[0]
    assert apart(found, expected) < 10 * OUTPUT
    assert apart(swapped, expected) > 100 * OUTPUT
    model = stack(state)
    assert sum(p.numel() for p in model.parameters()) == 287_588
    # Filters of a trained stack hardly change a constant; those of a stack that is wired otherwise would.
    output = model.up1(torch.ones(1, 1, 4, 5), torch.rand(1, 3, 8, 10))
    assert apart(output, torch.ones_like(output)) < 0.5


def test_records_name_the_releases():
    record = records()["featup_jbu"]
    assert not record.backbone_agnostic
    addresses = {name: weights.source.partition("pretrained/")[2] for name, weights in record.weights.items()}
    assert addresses["dino_s16"] == "dino16_jbu_stack_cocostuff.ckpt"
    assert addresses["maskclip_no_norm"] == "no_norm/maskclip_jbu_stack_cocostuff.ckpt"
    assert len(set(addresses.values())) == len(addresses) == 11
    for name in ("dino_s16", "dinov2_s"):
        backbone = naf_hub.info(name)
        assert isinstance(backbone, naf_hub.BackboneRecord)
        assert record.weights[name].options == {"channels": backbone.embed_dim, "norm": True}


def test_sets_named_by_no_backbone_are_offered_as_weights():
    """Nobody can name them as a backbone."""
    for asked in ("pico", None):
        with pytest.raises(naf_hub.WeightsError) as told:
            load_upsampler("featup_jbu", made_for=asked)
        assert "dino_s16, dinov2_s; further sets: featup_jbu=clip, " in str(told.value)
        assert ", vit" not in str(told.value)


def test_channels_are_those_of_the_backbone_or_of_the_file():
    made = load_upsampler("featup_jbu", weights=None, made_for="pico")
    assert made.reference(torch.zeros(1, 256, 4, 4)).shape[1] == 256
    assert made(torch.rand(1, 3, 16, 16), torch.randn(1, 256, 3, 3), 8).shape == (1, 256, 8, 8)


def test_dropout_is_one_draw_for_all_pieces(monkeypatch):
    model, features, image = stack(NO_NORM).train(), torch.randn(2, 8, 3, 4), torch.rand(2, 3, 48, 64)
    outputs = []
    for budget in (1, 2**30):
        monkeypatch.setattr("naf_hub_featup.jbu_stage.WORKING_BYTES", budget)
        torch.manual_seed(3)
        outputs.append(model(image, features))
    assert apart(*outputs) < OUTPUT
    assert apart(outputs[0], model(image, features)) > 1e-3


def test_half_precision_keeps_its_dtype():
    image, features = torch.rand(1, 3, 32, 32), torch.randn(1, 8, 4, 4)
    for dtype in (torch.bfloat16, torch.float16):
        found = stack(NO_NORM)(image, features.to(dtype))
        assert found.dtype == dtype
        assert apart(found.float(), stack(NO_NORM)(image, features.to(dtype).float())) < 0.05
        assert stack(NO_NORM).to(dtype)(image.to(dtype), features.to(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 3}, "ratio must be one of 2, 4, 8, 16; got 3"),
        ({"channels": 0}, "channels must be positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        JBUStack(**options)


@pytest.mark.parametrize("check", ["linear_groups", "shapes"])
def test_the_steps_alone_keep_their_promises(check: str):
    UPSAMPLER_CHECKS[check](
        Subject(lambda: stack(NO_NORM, projection=False, ratio=4), records()["featup_jbu"], None)
    )
