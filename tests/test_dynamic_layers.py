"""CARAFE, SAPA and DySample as layers: outputs and gradients of the authors' code, strips, borders, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from formula_weights import formula_state
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from naf_hub.parts.cell_windows import join_cells, products, split_cells, surround, weighted_sums
from naf_hub.parts.sizes import max_columns, resize_matrix
from naf_hub.parts.strip_layer import StripLayer
from naf_hub_dynamic.carafe import CARAFELayer
from naf_hub_dynamic.dysample import DySampleLayer
from naf_hub_dynamic.sapa import SAPALayer

GOLDENS = Path(__file__).parent / "goldens" / "upsamplers"
OUTPUT = 1e-5
LAYERS = {"carafe": CARAFELayer, "sapa": SAPALayer, "dysample": DySampleLayer}
README = Path(__file__).parent.parent / "plugins" / "naf_hub_dynamic" / "README.md"


def meta(file: str) -> dict:
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as opened:
        return json.loads(opened.metadata()["meta"])


def tensors(file: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{file}.safetensors")


def below(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def filled(layer: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """With recorded weights, or where there are none with those of the formula."""
    own = layer.state_dict()
    # 1x1 convolutions and linear layers are the same; buffers of the formula keep what they are.
    state = state or formula_state({k: v for k, v in own.items() if k != "init_pos"})
    layer.load_state_dict({**own, **{k: v.reshape(own[k].shape) for k, v in state.items()}})
    return layer.requires_grad_(False)


def maps(found: dict[str, Tensor]) -> list[Tensor]:
    """The features, and the guidance where there is one, as :meth:`StripLayer.make` takes them."""
    return [found[name] for name in ("in/features", "in/guidance") if name in found]


CASES = [
    (file, case)
    for name in LAYERS
    for file in (f"{name}_small", f"{name}_full_formula")
    for case in meta(file)["cases"]
]


@pytest.mark.parametrize(("file", "case"), CASES, ids=lambda text: text)
def test_outputs_whole_and_row_by_row(file: str, case: str):
    about, found = meta(file)["cases"][case], below(tensors(file), f"{case}/")
    layer = LAYERS[file.partition("_")[0]](**about["args"])
    assert "params" not in about or sum(p.numel() for p in layer.parameters()) == about["params"]
    if case == "uniform":
        nn.init.zeros_(layer.content_encoder.weight)
    else:
        filled(layer, below(found, "param/"))
    for memory in (None, 1):
        assert apart(layer.make(*maps(found), memory=memory), found["out"]) < OUTPUT, memory


@pytest.mark.parametrize("case", ["base_gn", "base_nonorm"])
def test_outputs_of_the_extension_of_sapa(case: str):
    found = below(tensors("sapa_ext_small"), f"{case}/")
    args = dict(meta("sapa_ext_small")["cases"][case]["args"])
    args["norm"] = "group" if args.pop("norm", True) else "none"
    layer = filled(SAPALayer(**args, embedding_dim=32), below(found, "param/"))
    assert apart(layer(found["in/guidance"], found["in/features"]), found["out"]) < OUTPUT
    assert apart(layer.make(*maps(found), memory=1), found["out"]) < OUTPUT


def test_intermediate_maps():
    found = below(tensors("carafe_small"), "s2_default_c12/")
    carafe = filled(CARAFELayer(12, compressed_channels=16), below(found, "param/"))
    weights = carafe.weights((0, 4), found["in/features"])
    assert apart(join_cells(weights.flatten(-2)[:, :, :, 0], 2), found["mid/mask"]) < OUTPUT
    found = below(tensors("sapa_small"), "sapa_rgb/")
    sapa = filled(SAPALayer(3, 16), below(found, "param/"))
    raw, guidance = (found[f"in/{name}"].permute(0, 2, 3, 1) for name in ("features", "guidance"))
    queries = sapa.queries(sapa.norm_y(guidance), raw, sapa.norm_x(raw))
    assert apart(queries, split_cells(found["mid/q"], 2)) < OUTPUT
    assert apart(sapa.k(sapa.norm_x(raw)), found["mid/k"]) < OUTPUT
    for case, about in meta("dysample_small")["cases"].items():
        found = below(tensors("dysample_small"), f"{case}/")
        layer = filled(DySampleLayer(**about["args"]), below(found, "param/"))
        if "mid/offset_with_init_pos" in found:
            assert apart(layer.offsets(found["in/features"]), found["mid/offset_with_init_pos"]) < OUTPUT


@pytest.mark.parametrize("case", meta("carafe_ops")["cases"])
def test_reassembly_and_its_gradients(case: str):
    about, found = meta("carafe_ops")["cases"][case], below(tensors("carafe_ops"), f"{case}/")
    side, groups, scale = (about[key] for key in ("kernel_size", "group_size", "scale_factor"))
    features, mask = (found[f"in/{name}"].requires_grad_() for name in ("features", "mask"))
    height = features.shape[2]
    surrounded = surround(features.permute(0, 2, 3, 1), (0, height), side // 2, height)
    weights = split_cells(mask.permute(0, 2, 3, 1), scale).unflatten(-1, (groups, side, side)).transpose(3, 4)
    output = join_cells(weighted_sums(surrounded, weights), scale)
    assert apart(output, found["out"]) < OUTPUT
    output.backward(found.get("in/grad_out", torch.ones_like(output)))
    for name, given in (("features", features), ("mask", mask)):
        assert given.grad is not None
        assert apart(given.grad, found[f"grad/{name}"]) < OUTPUT, name


@pytest.mark.parametrize("case", meta("sapa_ops")["cases"])
def test_products_and_means_of_sapa(case: str):
    about, found = meta("sapa_ops")["cases"][case], below(tensors("sapa_ops"), f"{case}/")
    side, scale = about["kernel_size"], about["scale"]
    height = found["in/k"].shape[1]
    keys, values = (surround(found[f"in/{n}"], (0, height), side // 2, height) for n in "kv")
    logits = products(keys, split_cells(found["in/q"], scale), side).flatten(-2)
    assert apart(logits, split_cells(found["mid/sim"], scale)) < OUTPUT
    weights = logits.softmax(-1).unflatten(-1, (1, side, side)).transpose(3, 4)
    output = join_cells(weighted_sums(values, weights), scale)
    assert apart(output.permute(0, 2, 3, 1), found["out"]) < OUTPUT


def make(name: str, **options) -> StripLayer:
    torch.manual_seed(0)
    return SAPALayer(3, 8, **options) if name == "sapa" else LAYERS[name](8, **options)


def inputs(name: str, height: int = 5, width: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 8, height, width, generator=generator)
    guidance = torch.randn(2, 3, 2 * height, 2 * width, generator=generator)
    return [features, guidance] if name == "sapa" else [features]


@pytest.mark.parametrize("name", LAYERS)
def test_the_seed_decides_the_start(name: str):
    first, second = make(name), make(name)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    features = inputs(name)[0]
    start = {"mode": "bilinear"} if name == "dysample" else {"mode": "nearest"}
    blurred = features if name == "dysample" else F.avg_pool2d(features, 5, 1, 2)
    assert apart(first.make(*inputs(name)), F.interpolate(blurred, scale_factor=2, **start)) < 0.05


@pytest.mark.parametrize("name", ["carafe", "sapa"])
def test_published_borders_fade_and_replicated_ones_do_not(name: str):
    ones = [torch.ones_like(found) for found in inputs(name, 12, 12)]
    layer = make(name)
    for parameter in layer.requires_grad_(False).parameters():
        nn.init.zeros_(parameter)
    faded = layer.make(*ones)[0, 0]
    assert [float(faded[i]) for i in ((0, 0), (0, 12), (12, 12))] == pytest.approx([0.36, 0.6, 1.0])
    published, mended = make(name), make(name, border="replicate")
    given = inputs(name, 12, 12)
    assert apart(mended.make(ones[0], *given[1:]), ones[0].repeat(1, 1, 2, 2)) < 1e-5
    inner = (..., slice(4, -4), slice(4, -4))
    assert apart(mended.make(*given)[inner], published.make(*given)[inner]) < 1e-5
    assert apart(mended.make(*given, memory=1), mended.make(*given)) < 1e-5


def test_dysample_without_offsets_is_bilinear():
    found = below(tensors("dysample_iter"), "zero_offset/")
    features, layer = found["in/features"], DySampleLayer(12)
    nn.init.zeros_(layer.offset.weight)
    assert apart(layer(features), found["out"]) < OUTPUT
    assert apart(layer(features), F.interpolate(features, scale_factor=2, mode="bilinear")) < 1e-5


def test_a_scope_with_a_bias_loads():
    state = {**DySampleLayer(8, dyscope=True).state_dict(), "scope.bias": torch.full((32,), 3.0)}
    state["offset.bias"] = torch.full((32,), 0.5)
    layer = DySampleLayer(8, dyscope=True)
    layer.load_state_dict(state)
    reach = torch.tensor(3.0).sigmoid() * 0.5 * 0.5
    moved = layer.offsets(torch.zeros(1, 8, 1, 1)) - layer.init_pos
    assert apart(moved, reach.expand(moved.shape)) < 1e-6
    with pytest.raises(RuntimeError, match="Unexpected"):
        DySampleLayer(8).load_state_dict(state)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_by_strips_are_those_of_the_whole(name: str):
    found = []
    for memory in (None, 1):
        layer, given = make(name).double(), [t.double().requires_grad_() for t in inputs(name)]
        layer.make(*given, size=(9, 7), memory=memory).square().sum().backward()
        found.append([p.grad for p in layer.parameters()] + [t.grad for t in given])
    for whole, strips in zip(*found, strict=True):
        assert apart(whole, strips) < 1e-9 * max(1.0, float(whole.abs().max()))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(9, 7), (10, 11), (8, 12), (3, 2)])
@pytest.mark.parametrize("memory", [1, 12_000, None])
def test_shrinking_by_strips_is_that_of_the_whole(name: str, size: tuple[int, int], memory: int | None):
    layer, given = make(name), inputs(name)
    expected = F.interpolate(layer.make(*given), size, mode="bilinear", antialias=True)
    assert apart(layer.make(*given, size=size, memory=memory), expected) < 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_strips_stay_small(name: str, monkeypatch: pytest.MonkeyPatch):
    layer, heights = make(name), []
    whole = layer.strip
    monkeypatch.setattr(
        layer, "strip", lambda rows, *maps: heights.append(rows[1] - rows[0]) or whole(rows, *maps)
    )
    given = inputs(name, 64, 6)
    budget = 4 * 2 * 4 * layer.row_values(6)  # 4 rows of 2 images in float32
    layer.make(*given, memory=budget)
    assert heights == [4] * 16
    heights.clear()
    layer.make(*given, size=(100, 11), memory=budget)
    assert max(heights) <= 4
    assert sum(heights) < 3 * 64


@pytest.mark.parametrize("name", LAYERS)
def test_half_precision(name: str):
    layer, given = make(name), inputs(name)
    for parameter in layer.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    for dtype in (torch.bfloat16, torch.float16):
        narrow = [t.to(dtype) for t in given]
        expected = layer.make(*(t.float() for t in narrow))
        mixed = layer.make(*narrow)
        assert mixed.dtype == dtype
        assert apart(mixed.float(), expected) < 0.02
        half = make(name)
        half.load_state_dict(layer.state_dict())
        assert apart(half.to(dtype).make(*narrow).float(), expected) < 0.2


def test_places_at_large_coordinates_keep_their_fractions_in_half_precision():
    ramp = torch.linspace(0, 1, 600).to(torch.bfloat16).expand(1, 4, 1, 600)
    layer = DySampleLayer(4, groups=1)
    found = layer(ramp).float()
    expected = F.interpolate(ramp.float(), size=(2, 1200), mode="bilinear")
    assert apart(found, expected) < 0.005


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("carafe", {"up_kernel": 4}, "up_kernel must be odd"),
        ("carafe", {"encoder_kernel": 2}, "encoder_kernel must be odd"),
        ("carafe", {"up_group": 3}, "up_group must divide channels"),
        ("carafe", {"border": "reflect"}, "border must be one of zeros, replicate"),
        ("carafe", {"scale_factor": 0}, "scale_factor must be at least 1"),
        ("sapa", {"up_kernel_size": 2}, "up_kernel_size must be odd"),
        ("sapa", {"q_mode": "both"}, "q_mode must be one of"),
        ("sapa", {"norm": "group"}, "norm='group' needs multiples of 32"),
        ("sapa", {"norm": "batch"}, "norm must be one of"),
        ("sapa", {"embedding_dim": 0}, "embedding_dim must be at least 1"),
        ("sapa", {"border": "wrap"}, "border must be one of"),
        ("dysample", {"style": "pp"}, "style must be one of lp, pl"),
        ("dysample", {"groups": 3}, "groups must divide in_channels"),
        ("dysample", {"style": "pl", "scale": 3}, "style='pl' needs in_channels that scale"),
        ("dysample", {"scale": 0}, "scale must be at least 1"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(name: str, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="made for 8 feature channels, got 4"):
        make("carafe")(torch.rand(1, 4, 3, 3))
    with pytest.raises(
        ValueError, match=r"guidance must be \(3, 10, 12\) for features \(8, 5, 6\), got \(3, 10, 11\)"
    ):
        features, guidance = inputs("sapa")
        make("sapa")(guidance[..., :-1], features)


def test_the_examples_of_the_readme_run():
    scope = {"image": torch.rand(1, 3, 64, 64), "lr_features": torch.rand(1, 384, 28, 28)}
    for block in README.read_text(encoding="utf-8").split("```python\n")[1:]:
        exec(block.partition("```")[0].replace("(448, 448)", "(56, 60)"), scope)
    assert scope["features"].shape == (1, 384, 56, 60)
    assert scope["logits"].shape == (1, 21, 112, 112)
    assert scope["scores"].shape == (1, 21, 56, 56)
    assert scope["pyramid"].shape == (1, 64, 112, 112)


@pytest.mark.parametrize(("n_in", "n_out"), [(12, 5), (12, 12), (5, 12), (1, 4), (7, 1)])
def test_resizing_by_a_matrix_is_torchs_with_antialias(n_in: int, n_out: int):
    maps = torch.randn(1, 2, n_in, 3)
    expected = F.interpolate(maps, (n_out, 3), mode="bilinear", antialias=True)
    assert apart(resize_matrix(n_in, n_out, maps) @ maps, expected) < 1e-6


@pytest.mark.parametrize(("n_in", "n_out"), [(12, 5), (31, 4), (12, 6), (7, 7), (5, 12), (7, 1)])
def test_adaptive_maxima_by_scattering_are_torchs(n_in: int, n_out: int):
    maps = torch.randn(1, 2, 3, n_in)
    assert torch.equal(max_columns(maps, n_out), F.adaptive_max_pool2d(maps, (3, n_out)))
