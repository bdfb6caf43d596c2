"""Reading RADIO's released files, and refusing others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_radio_goldens import OPTIONS, TOLERANCE, radio, read

import naf_hub
from naf_hub.weights.files import load_into, read_state_dict, save_weights
from naf_hub.weights.fill import stream_into
from naf_hub_radio.backbone import Radio

PLAIN, GIANT = "radio_v25_tiny", "radio_v25_g_tiny"
BLOCK = "radio_model.model.blocks.1.mlp.fc2.weight"


def test_missing_and_unexpected_keys_are_named_and_nothing_is_loaded(goldens: Path):
    state, _ = read(goldens, PLAIN)
    state["radio_model.model.blocks.1.mlp.fc9.weight"] = state.pop(BLOCK)
    model = Radio(**OPTIONS[PLAIN])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(naf_hub.WeightsError) as caught:
        model.load_weights(state)
    assert f"missing {BLOCK}" in str(caught.value)
    assert "unexpected radio_model.model.blocks.1.mlp.fc9.weight" in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [PLAIN, GIANT])
def test_every_key_is_needed_or_known_to_be_unused(goldens: Path, name: str):
    state, _ = read(goldens, name)
    model = Radio(**OPTIONS[name])
    unused = set()
    for key in state:
        try:
            model.load_weights({k: v for k, v in state.items() if k != key})
        except naf_hub.WeightsError as error:
            assert f"missing {key}" in str(error)
        else:
            unused.add(key.removeprefix("radio_model."))
    assert unused == {"summary_idxs"} | ({"model.inner.mask_token"} if name == GIANT else set())


def test_misshapen_tensors_are_named_in_the_released_shape(goldens: Path):
    state, _ = read(goldens, PLAIN)
    state["radio_model.model.patch_generator.pos_embed"] = torch.zeros(1, 255, 48)
    expected = r"pos_embed has shape \(1, 255, 48\), expected \(1, 256, 48\)"
    with pytest.raises(naf_hub.WeightsError, match=expected):
        Radio(**OPTIONS[PLAIN]).load_weights(state)


@pytest.mark.parametrize(("built", "given"), [(PLAIN, GIANT), (GIANT, PLAIN)])
def test_another_model_is_refused(goldens: Path, built: str, given: str):
    state, _ = read(goldens, given)
    with pytest.raises(naf_hub.WeightsError, match="do not fit this RADIO model"):
        Radio(**OPTIONS[built]).load_weights(state)


def test_keys_of_nobody_are_refused():
    with pytest.raises(naf_hub.WeightsError, match="unexpected patch_embed"):
        Radio(**OPTIONS[PLAIN]).load_weights({"patch_embed.proj.weight": torch.zeros(1)})


@torch.no_grad()
def test_teacher_heads_and_normalisers_are_left_out(goldens: Path):
    state, recorded = read(goldens, PLAIN)
    for key in (
        "adaptors.clip.head.weight",
        "feature_normalizer.mean",
        "feature_normalizer.tx",
        "inter_feature_normalizer.rotation",
        "model.head.weight",
        "model.reg_token",
    ):
        state[f"radio_model.{key}"] = torch.full((48,), 9.0)
    model = Radio(**OPTIONS[PLAIN]).eval()
    model.load_weights(state)
    torch.testing.assert_close(
        model(recorded["input.wide_96x160"]), recorded["output.wide_96x160"], **TOLERANCE
    )


@torch.no_grad()
def test_the_stored_normalisation_is_applied_once(goldens: Path):
    state, recorded = read(goldens, PLAIN)
    image = recorded["input.square_128x128"]
    state["radio_model.input_conditioner.norm_mean"] = torch.full((3, 1, 1), 0.25)
    state["radio_model.input_conditioner.norm_std"] = torch.full((3, 1, 1), 0.5)
    model = Radio(**OPTIONS[PLAIN]).eval()
    model.load_weights(state)
    (expected,) = model.network.forward_intermediates(
        (image - 0.25) / 0.5, indices=1, norm=True, intermediates_only=True
    )
    torch.testing.assert_close(model(image), expected)
    assert (expected - recorded["output.square_128x128"]).abs().max() > 0.01


@torch.no_grad()
def test_tokens_and_layer_scale_come_from_the_weights(goldens: Path):
    """Where a release has more of them than its record says, the features are still those recorded."""
    for name, unaware in (("cradio_v3_tiny", {"layer_scale": False}), (GIANT, {"prefix_tokens": 8})):
        state, recorded = read(goldens, name)
        model = Radio(**{**OPTIONS[name], **unaware}).eval().requires_grad_(False)
        model.load_weights(state)
        assert not any(p.requires_grad for p in model.parameters())
        assert not model.network.training
        size = "wide_84x154" if name == GIANT else "wide_96x160"
        torch.testing.assert_close(model(recorded[f"input.{size}"]), recorded[f"output.{size}"], **TOLERANCE)


def test_layer_scale_cannot_go_missing(goldens: Path):
    state, _ = read(goldens, GIANT)
    bare = {key: value for key, value in state.items() if ".ls" not in key}
    with pytest.raises(naf_hub.WeightsError, match=r"missing .*\.ls1\.grandma"):
        Radio(**OPTIONS[GIANT]).load_weights(bare)


@torch.no_grad()
def test_both_names_of_the_layer_scale_are_read(goldens: Path):
    state, recorded = read(goldens, GIANT)
    model = Radio(**OPTIONS[GIANT]).eval()
    model.load_weights({key.replace("grandma", "gamma"): value for key, value in state.items()})
    torch.testing.assert_close(
        model(recorded["input.wide_84x154"]), recorded["output.wide_84x154"], **TOLERANCE
    )


@pytest.mark.parametrize("name", [PLAIN, GIANT])
@torch.no_grad()
def test_our_own_folder_round_trips(goldens: Path, tmp_path: Path, name: str):
    model, recorded, _ = radio(goldens, name)
    folder = save_weights(tmp_path / "radio", model, name="radio_tiny", options=OPTIONS[name])
    fresh = Radio(**OPTIONS[name]).eval()
    load_into(fresh, read_state_dict(folder / "model.safetensors"), "radio_tiny weights")
    image = next(value for key, value in recorded.items() if key.startswith("input."))
    assert torch.equal(fresh(image), model(image))


@pytest.mark.parametrize("name", [PLAIN, GIANT, "cradio_v3_tiny"])
@torch.no_grad()
def test_a_model_built_on_the_meta_device_is_filled(goldens: Path, tmp_path: Path, name: str):
    """From the file, in either precision; LayerScale and tokens that the options do not say come from it too."""
    state, recorded = read(goldens, name)
    save_file(state, tmp_path / "model.safetensors")
    usual, _, _ = radio(goldens, name)
    unaware = OPTIONS[name] | {"layer_scale": False, "prefix_tokens": 8}
    size = next(key.removeprefix("input.") for key in recorded if key.startswith("input."))
    expected = recorded[f"output.{size}"]
    for dtype in (torch.float32, torch.bfloat16):
        with torch.device("meta"):
            model = Radio(**unaware)
        assert stream_into(model, tmp_path / "model.safetensors", dtype, None, "test")
        held = [*model.parameters(), *model.buffers()]
        assert not any(value.is_meta for value in held)
        found = model.eval()(recorded[f"input.{size}"])
        if dtype == torch.float32:
            assert torch.equal(found, usual(recorded[f"input.{size}"]))
        else:
            assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
            assert ((found.float() - expected).norm() / expected.norm()).item() < 0.05
