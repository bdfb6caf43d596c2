"""AnyUp: outputs of the authors' code, both windows, weights of every layout, memory, precision, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import released_weights
import torch
from formula_weights import formula_state
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import naf_hub
from naf_hub.testing import UPSAMPLER_CHECKS, Subject
from naf_hub_jafar import register_upsamplers
from naf_hub_jafar.anyup import AnyUp
from naf_hub_jafar.averaged_attention import CrossDecoder
from naf_hub_jafar.open_attention import attend_at_any_size
from naf_hub_jafar.unification import FeatureUnification, derivatives_of_gaussians
from naf_hub_jafar.visible_cells import visible_runs

GOLDENS = Path(__file__).parent / "goldens" / "upsamplers"
SMALL = ("anyup_small", "anyup_small_lfu24_k3", "anyup_small_window0", "anyup_small_window03")
OUTPUT = 1e-5


def meta(file: str) -> dict:
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as opened:
        return json.loads(opened.metadata()["meta"])


def tensors(file: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{file}.safetensors")


def parameters(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("param/"): v for k, v in found.items() if k.startswith("param/")}


def recorded(file: str, **options) -> AnyUp:
    config = {k: v for k, v in meta(file)["config"].items() if k != "input_dim"}
    model = AnyUp(**config, **options).eval().requires_grad_(False)
    model.load_weights(parameters(tensors(file)) or formula_state(model.state_dict()))
    return model


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def record() -> naf_hub.UpsamplerRecord:
    found: list[naf_hub.UpsamplerRecord] = []
    register_upsamplers(found.append)
    return found[0]


@pytest.mark.parametrize("file", [*SMALL, "anyup_full_formula"])
def test_outputs(file: str):
    found, model = tensors(file), recorded(file)
    for case in meta(file)["cases"]:
        image, features, output = (found[f"{case}/{part}"] for part in ("in/image", "in/features", "out"))
        assert apart(model.filter(image, features, output.shape[-2:]), output) < OUTPUT, case


def test_intermediate_maps():
    found = {k.removeprefix("square/"): v for k, v in tensors("anyup_small").items()}
    model = recorded("anyup_small")
    features, mid = found["in/features"], {k[4:]: v for k, v in found.items() if k.startswith("mid/")}
    encoded = model.image_encoder(found["in/image"])
    assert apart(encoded, mid["image_encoder"]) < OUTPUT
    assert apart(model.rope(encoded).flatten(2).mT, mid["rope"]) < OUTPUT
    queries, keys = model.guidance(found["in/image"], (16, 16), (5, 5))
    assert apart(queries, mid["query_pooled"]) < OUTPUT
    assert apart(model.cross_decode.conv2d(queries), mid["query_conv"]) < OUTPUT
    assert apart(model.keys(keys, features), mid["key_aggregated"]) < OUTPUT
    unit = torch.nn.functional.normalize(features, dim=1)
    assert apart(model.key_features_encoder[0](unit), mid["lfu"]) < OUTPUT


def test_unification_reads_its_responses_as_the_weights_know_it():
    found = tensors("anyup_lfu")
    layer = FeatureUnification(6, 5)
    layer.load_state_dict(parameters(found))
    for case in ("c1", "c5", "c6", "c7", "c12"):
        features = found[f"{case}/in"]
        assert apart(layer(features), found[f"{case}/out"]) < OUTPUT, case
        assert apart(layer(features, memory=1), found[f"{case}/out"]) < OUTPUT, f"{case} row by row"
    order = torch.arange(12).flip(0)
    assert apart(layer(found["c12/in"][:, order]), found["c12/out"]) > 1e-2


def test_filters_may_start_from_derivatives_of_gaussians():
    for name, basis in tensors("anyup_gauss_init").items():
        count, side = (int(n) for n in name.split("_")[1:])
        assert apart(derivatives_of_gaussians(count, side), basis) < 1e-6, name
    basis = AnyUp(16, init_gaussian_derivatives=True).key_features_encoder[0].basis
    assert apart(basis, derivatives_of_gaussians(16, 5)) == 0


def test_windows_are_the_published_ones():
    masks = tensors("anyup_window_masks")
    for name, height, width, h, w, ratio in meta("anyup_window_masks")["specs"]:
        axes = []
        for cells, pixels in ((h, height), (w, width)):
            first, stop = visible_runs(cells, pixels, ratio, "cropped")
            cell = np.arange(cells)
            axes.append((cell >= first[:, None]) & (cell < stop[:, None]))
        seen = (axes[0][:, None, :, None] & axes[1][None, :, None, :]).reshape(height * width, h * w)
        assert np.array_equal(seen, masks[f"mask/{name}"].numpy() == 0), name


@pytest.mark.parametrize("memory", [2**14, 2**26])
def test_both_windows_of_the_attention(memory: int):
    found = tensors("anyup_natten_block")
    for case, options in meta("anyup_natten_block")["cases"].items():
        decoder = CrossDecoder(options["qk_dim"], options["num_heads"])
        decoder.load_state_dict(parameters(found))
        operands = [found[f"{case}/in/{part}"] for part in "qkv"]
        for window, name in (("shifted", "natten"), ("cropped", "masked")):
            expected = found.get(f"{case}/out_{name}")
            if expected is not None:
                with torch.no_grad():
                    output = decoder(*operands, ratio=options["window_ratio"], window=window, memory=memory)
                assert apart(output, expected) < 2 * OUTPUT, f"{case} {window}"


@released_weights.needed
@pytest.mark.parametrize("name", ["paper", "multi_backbone"])
def test_released_weights(name: str):
    """Weights anyup_NAME.safetensors, and outputs of the authors' code, golden_anyup_NAME.npz."""
    folder = released_weights.FOLDER
    model = AnyUp().eval().requires_grad_(False)
    model.load_weights(load_file(folder / f"anyup_{name}.safetensors"))
    golden = {k: torch.from_numpy(v) for k, v in np.load(folder / f"golden_anyup_{name}.npz").items()}
    for output, size in ((golden["out_full"], (64, 96)), (golden["out_32x48"], (32, 48))):
        assert apart(model.filter(golden["image"], golden["features"], size), output) < 1e-4


def test_parameters_are_the_papers():
    shapes = {name: list(tensor.shape) for name, tensor in AnyUp().state_dict().items()}
    assert sum(p.numel() for p in AnyUp().parameters()) == 878_080
    assert len(shapes) == 73
    assert shapes["cross_decode.cross_attn.attention.in_proj_weight"] == [384, 128]


def test_record_names_the_releases():
    weights = record().weights
    assert {n: (Path(w.source).name, w.size, w.license) for n, w in weights.items()} == {
        "default": ("anyup_paper.pth", 3540612, "CC-BY-4.0"),
        "multi_backbone": ("anyup_multi_backbone.pth", 3541624, "CC-BY-4.0"),
    }
    assert record().state_dict_keys == ("anyup",)


@pytest.fixture(scope="module")
def model() -> AnyUp:
    torch.manual_seed(0)
    return AnyUp(32).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 33, 47, generator=generator), torch.randn(2, 7, 5, 6, generator=generator)


def test_weights_of_the_variant_for_natten_load(model: AnyUp, inputs):
    state = dict(model.state_dict())
    place = "cross_decode.cross_attn."
    for kind in ("weight", "bias"):
        parts = state.pop(f"{place}attention.in_proj_{kind}").chunk(3)
        state |= {f"{place}{name}_proj.{kind}": part for name, part in zip("qk", parts, strict=False)}
        del state[f"{place}attention.out_proj.{kind}"]
    state |= {f"cross_decode.norm_{part}.weight": state.pop(f"{place}norm_{part}.weight") for part in "qk"}
    assert sum(tensor.numel() for tensor in state.values()) == model_size(model) - 2 * (32 * 32 + 32)
    other = AnyUp(32).eval()
    other.load_weights(state)
    assert apart(other(*inputs), model(*inputs)) == 0
    del state[f"{place}k_proj.bias"]
    with pytest.raises(naf_hub.WeightsError, match="k_proj"):
        AnyUp(32).load_weights(state)


def model_size(model: AnyUp) -> int:
    return sum(p.numel() for p in model.parameters())


def test_a_file_of_weights_loads_by_path(tmp_path: Path, monkeypatch, model: AnyUp, inputs):
    save_file(model.state_dict(), tmp_path / "anyup_paper.safetensors")
    monkeypatch.setattr(naf_hub.registry.registry(), "records", {"anyup": record()}, raising=False)
    loaded = naf_hub.load("anyup", weights=tmp_path / "anyup_paper.safetensors", qk_dim=32)
    assert apart(loaded(*inputs), model(*inputs)) == 0


@pytest.mark.parametrize("window", ["cropped", "shifted"])
@pytest.mark.parametrize("size", [(33, 47), (5, 6), (3, 4), (20, 24)])
def test_memory_does_not_change_results(model: AnyUp, inputs, window: str, size: tuple[int, int]):
    image, features = inputs
    model.window, outputs = window, []
    for memory in ("16KiB", "200KiB", None):
        model.memory = AnyUp(32, memory=memory).memory
        outputs.append(model(image, features, size))
    model.window = "cropped"
    assert apart(outputs[0], outputs[2]) < 1e-4
    assert apart(outputs[1], outputs[2]) < 1e-4


def test_half_precision_of_features_and_weights(inputs):
    image, features = inputs
    expected = AnyUp(32).eval().requires_grad_(False)
    for dtype in (torch.bfloat16, torch.float16):
        model = AnyUp(32).eval().requires_grad_(False)
        model.load_state_dict(expected.state_dict())
        mixed = model(image, features.to(dtype))
        assert mixed.dtype == dtype
        assert apart(mixed.float(), expected(image, features.to(dtype).float())) < 0.03
        narrow = model.to(dtype)(image.to(dtype), features.to(dtype))
        assert narrow.dtype == dtype
        assert apart(narrow.float(), expected(image, features)) < 0.5


def test_the_image_may_be_resized_first(model: AnyUp, inputs):
    image, features = inputs
    resized = torch.nn.functional.interpolate(model.normalize(image), (20, 24), mode="bilinear")
    expected = model.filter(resized, features, (20, 24))
    model.resize_image = True
    found = model(image, features, (20, 24))
    model.resize_image = False
    assert apart(found, expected) < 1e-6
    assert apart(found, model(image, features, (20, 24))) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qk_dim": 20}, "qk_dim must be a positive multiple of 8, got 20"),
        ({"lfu_dim": 3}, "lfu_dim must be"),
        ({"num_heads": 5}, "num_heads must divide qk_dim"),
        ({"window": "natten"}, "window must be one of cropped, shifted"),
        ({"kernel_size": 2}, "kernel_size must be odd"),
        ({"kernel_size_lfu": 4}, "kernel_size_lfu must be odd"),
        ({"memory": "much"}, "memory must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        AnyUp(**options)


@pytest.mark.parametrize("check", ["shapes", "constant_features", "feature_range", "gradient_agreement"])
def test_the_shifted_window_keeps_the_promises(check: str):
    def make() -> AnyUp:
        torch.manual_seed(0)
        return AnyUp(32, window="shifted").eval().requires_grad_(False)

    UPSAMPLER_CHECKS[check](Subject(make, record(), None))


@pytest.mark.parametrize("window", ["cropped", "shifted"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.7])
def test_the_attention_of_open_graphs_is_the_same(window: str, ratio: float):
    torch.manual_seed(0)
    decoder = CrossDecoder(16, 4).requires_grad_(False)
    for (h, w), size in (((5, 7), (33, 46)), ((10, 12), (20, 13)), ((2, 30), (9, 60))):
        operands = torch.randn(2, 16, *size), torch.randn(2, 16, h, w), torch.randn(2, 6, h, w)
        expected = decoder(*operands, ratio=ratio, window=window, memory=2**26)
        assert apart(attend_at_any_size(*operands, decoder, ratio, window), expected) < OUTPUT
