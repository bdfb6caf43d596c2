"""Graphs with sizes left open: torch.export, torch.compile and ONNX against the model itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

import naf_hub
from naf_hub import onnx_export
from naf_hub.commands.main import cli
from naf_hub.parts.constants import constant_for_compilers
from naf_hub_naf.any_size import axis_tables
from naf_hub_naf.graph_operators import guidance_in_graph
from naf_hub_naf.model import NAF
from naf_hub_naf.onnx_graph import filter_maps
from naf_hub_naf.windows import window_slots

SMALL = {"naf": {"dim": 16, "num_blocks": 1, "kernel_size": 5}}
SHAPES = [(1, (33, 46), (5, 7)), (4, (40, 61), (10, 12))]


def load(name: str) -> naf_hub.Upsampler:
    torch.manual_seed(0)
    return naf_hub.load(name, weights=None, **SMALL.get(name, {}))


def inputs(batch, image, grid):
    return torch.rand(batch, 3, *image), torch.randn(batch, 6, *grid)


def export(model, size=None):
    class Call(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image, features):
            return self.model(image, features, size)

    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        return torch.export.export(
            Call().eval(), inputs(2, (48, 36), (6, 4)), dynamic_shapes=(free, free), strict=False
        ).module()


@pytest.mark.parametrize(
    "options", [{"spatial": "gaussian", "locality": 1.5}, {"guidance_scale": 1}], ids=str
)
def test_output_of_a_fixed_size(options):
    model = NAF(**SMALL["naf"], **options).eval().requires_grad_(False)
    program = export(model, (32, 48))
    for shape in [
        *SHAPES,
        (3, (150, 90), (2, 3)),
    ]:  # the last image is shrunk, its grid smaller than the kernel
        given = inputs(*shape)
        torch.testing.assert_close(program(*given), model(*given, (32, 48)), atol=5e-5, rtol=0)


def test_only_the_batch_left_open():
    model, batch = load("naf"), {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        model, inputs(4, (20, 24), (5, 6)), dynamic_shapes=(batch, batch), strict=False
    ).module()
    given = inputs(3, (20, 24), (5, 6))
    torch.testing.assert_close(program(*given), model(*given), atol=5e-5, rtol=0)


def test_compiled_once_for_all_sizes():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    # PyTorch 2.8 takes every graph for one to export, which has no operators of ours.
    probe = torch.compile(lambda x: x + torch.compiler.is_exporting(), backend="eager")
    tells_apart = not probe(torch.zeros(1)).item()

    def check(model: torch.nn.Module, operators: int) -> None:
        compiled = torch.compile(model, backend=backend, dynamic=True, fullgraph=True)
        for shape in [*SHAPES[1:], (2, (48, 36), (6, 4))]:
            given = inputs(*shape)
            torch.testing.assert_close(compiled(*given), model(*given), atol=5e-5, rtol=0)
        (graph,) = graphs
        found = sum(str(node.target).startswith("naf_hub_naf.") for node in graph.graph.nodes)
        assert found == (operators if tells_apart else 0)
        graphs.clear()

    model = load("naf")
    check(model, 2)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    check(NAF(**SMALL["naf"], encoder="pixel", residual=True, locality=1.5).eval().requires_grad_(False), 2)
    check(NAF(**SMALL["naf"], spatial="gaussian").eval().requires_grad_(False), 1)  # a weight of its own
    check(model.requires_grad_(True), 0)  # an operator would cut its gradients off


@pytest.mark.parametrize("residual", [False, True])
def test_operators_of_graphs_are_what_they_promise(residual: bool):
    torch.manual_seed(0)
    image, queries, keys, values = (
        torch.rand(shape) for shape in ((2, 3, 9, 7), (2, 9, 7, 8), (2, 3, 2, 8), (2, 3, 2, 6))
    )
    encoder = NAF(**SMALL["naf"], residual=residual).image_encoder
    weights = [weight for branch in encoder.branches for weight in branch.parameters()]
    guided = torch.ops.naf_hub_naf.guidance
    torch.library.opcheck(guided, (image, 5, 4, [w.detach() for w in weights], "dual", 1, residual))
    attended = torch.ops.naf_hub_naf.attention
    for locality in (None, 1.5):
        torch.library.opcheck(attended, (queries, keys, values, 2, 3, 2**20, locality))
    with torch.no_grad():
        found = guidance_in_graph(encoder, image, (5, 4))
        torch.testing.assert_close(found, encoder(image, (5, 4)), atol=1e-5, rtol=0)
    assert all(weight.requires_grad for weight in weights)


def run(*arguments: object):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def test_onnx_file_from_the_command_line(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    file = tmp_path / "bilinear.onnx"
    result = run("export", "bilinear", "-o", file, "--channels", 6)
    assert result.exit_code == 0, result.output
    model, given = load("bilinear"), inputs(*SHAPES[1])
    session = runtime.InferenceSession(str(file))
    (found,) = session.run(["upsampled"], {"image": given[0].numpy(), "features": given[1].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(*given), atol=1e-5, rtol=0)
    assert "exists" in run("export", "bilinear", "-o", file, "--channels", 6).output


def test_channels_say_what_a_model_is_made_for(tmp_path):
    for needed in ("onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    result = run("export", "dysample=none", "-o", tmp_path / "a.onnx", "--channels", 8, "--option", "steps=1")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"residual": True, "rope_heads": 2},
        {"spatial": "gaussian", "locality": 1.5, "num_blocks": 0},
        {"encoder": "pixel", "pooling": "average_conv"},
        {"dim": 16, "pooling": "max", "num_heads": 2},
    ],
    ids=str,
)
def test_what_onnx_files_hold_is_the_model(options):
    torch.manual_seed(0)
    model = NAF(**{"dim": 64, "num_blocks": 2, "kernel_size": 5, **options}).eval().requires_grad_(False)
    # Rows that are no multiple of four, channels that heads do not divide, two rows.
    for batch, image, grid in [*SHAPES, (1, (48, 64), (3, 4)), (2, (2, 6), (1, 2))]:
        given = inputs(batch, image, grid)
        torch.testing.assert_close(
            filter_maps(model, *given, image), model.filter(*given, image), atol=1e-5, rtol=0
        )


def test_onnx_files_save_products_and_passes(tmp_path):
    onnx = pytest.importorskip("onnx")
    for needed in ("onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    torch.manual_seed(0)
    model, file = NAF(dim=64, num_blocks=1, kernel_size=3).eval().requires_grad_(False), tmp_path / "naf.onnx"
    found = onnx_export.export_onnx(model, file, 6, int8=True)
    assert all(made["difference"] < 0.05 for made in found["compared"])
    graph = onnx.load(file).graph
    kinds = [node.op_type for node in graph.node]
    groups = [
        a.i for node in graph.node if node.op_type == "Conv" for a in node.attribute if a.name == "group"
    ]
    assert "InstanceNormalization" not in kinds  # four passes over a map
    assert kinds.count("BatchNormalization") == 4
    assert sorted(groups) == [1, 1, 6, 6]  # two stems, and the sums of rows of two 3x3 convolutions
    stored = {tensor.name for tensor in graph.initializer}
    for number in (1, 2):
        name = f"model.image_encoder.sem_encoder.1.conv{number}.weight"
        assert f"{name}.int8" in stored
        assert name not in stored
    # the 1x1 convolutions, too, which are products by another name
    assert sum(name.endswith(".int8") for name in stored) == 4


class Smooth(naf_hub.Upsampler):
    """A convolution and bilinear interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.promises = naf_hub.Promises(open_sizes=True)
        self.norm, self.conv = torch.nn.GroupNorm(4, 16), torch.nn.Conv2d(16, 16, 3, padding=1)

    def upsample(self, image, features, output_size):
        return F.interpolate(self.conv(self.norm(features)), output_size, mode="bilinear")


def test_an_onnxscript_older_than_the_extra_allows_is_told(tmp_path, monkeypatch):
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    file = tmp_path / "a.onnx"
    monkeypatch.setattr(onnx_export, "version", {"onnxscript": "0.5.0"}.__getitem__)
    result = run("export", "bilinear", "-o", file, "--channels", 4)
    assert result.exit_code == 1
    asked = "exporting needs onnxscript 0.7 or newer, and 0.5.0 is installed: pip install --upgrade 'naf-hub[export]'"
    assert asked in result.output
    assert not file.exists()


def test_weights_as_int8_and_known_shapes(tmp_path):
    onnx = pytest.importorskip("onnx")
    for needed in ("onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    torch.manual_seed(0)
    model, file = Smooth().eval().requires_grad_(False), tmp_path / "int8.onnx"
    found = onnx_export.export_onnx(model, file, 16, int8=True)
    assert found["weights"] == "int8"
    assert all(1e-5 < made["difference"] < 0.02 for made in found["compared"])
    graph = onnx.load(file).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    whole, scale = (stored[f"model.conv.weight.{part}"] for part in ("int8", "scale"))
    assert (whole.dtype, scale.shape) == ("int8", (16, 1, 1, 1))
    assert "model.conv.weight" not in stored
    assert (abs(whole * scale - model.conv.weight.numpy()) <= scale / 1.99).all()
    # The norm's product, too, is known to have the features' shape: onnxruntime then multiplies in place.
    shapes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input)
    }
    (norm,) = (node for node in graph.node if node.op_type == "InstanceNormalization")
    (back,) = (node for node in graph.node if node.input[0] == norm.output[0])
    assert shapes[back.output[0]] == shapes["features"]


@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 5, 9])
def test_tiles_of_open_sizes_hold_every_window(kernel_size, tight):
    for cells, size in [
        (1, 1),
        (2, 34),
        (4, 9),
        (4, 68),
        (6, 102),
        (7, 7),
        (10, 166),
        (9, 16),
        (28, 70),
        (31, 33),
        (28, 448),
        (28, 224),
        (5, 160),
    ]:
        tiles = axis_tables(cells, size, kernel_size, torch.zeros(()), tight)
        slots = window_slots(cells, size, kernel_size).shape[1]
        torch.testing.assert_close(tiles.bias.exp().sum(-1), torch.full(tiles.positions.shape, float(slots)))


@pytest.mark.parametrize(
    ("cells", "size", "union"), [(28, 448, 9), (28, 224, 10), (14, 448, 9), (28, 452, 10)]
)
def test_tiles_of_whole_cells_hold_nothing_but_windows(cells, size, union):
    tiles = axis_tables(cells, size, 9, torch.zeros(()), tight=True)
    assert tiles.bias.shape[-1] == union
    assert bool(tiles.bias.isfinite().all()) == (size == 448)


def test_what_cannot_be_exported_is_told(tmp_path, monkeypatch):
    file = tmp_path / "a.onnx"
    assert "--channels N" in run("export", "bilinear", "-o", file).output
    assert "no weights large enough" in run("export", "nearest", "-o", file, "--channels", 4, "--int8").output
    assert "is not N, HxW or 'native'" in run("export", "bilinear", "-o", file, "--size", "4x").output
    model = load("nearest")
    monkeypatch.setattr(model, "promises", naf_hub.Promises(export=False))
    with pytest.raises(ValueError, match="promises no graph that serves every size"):
        onnx_export.export_onnx(model, file, 4)
    for name, options, why in (
        ("carafe", {"channels": 4}, "say how often by steps="),
        ("loftup", {"channels": 4, "num_heads": 1, "lr_pe_type": "learnable"}, "table of places"),
        ("upsample_anything", {}, "fits Gaussians"),
    ):
        with pytest.raises(ValueError, match=why):
            onnx_export.export_onnx(naf_hub.load(name, weights=None, **options), file, 4)
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxruntime" else True)
    with pytest.raises(naf_hub.NafHubError, match=r"onnxruntime: pip install 'naf-hub\[export\]'"):
        onnx_export.export_onnx(load("nearest"), file, 4)
    assert not file.exists()


def test_loading_and_running_import_no_compiler():
    compilers = {"torch._dynamo", "triton", "sympy"}
    code = (
        # PyTorch 2.8 itself imports sympy for a layer without storage, which loading builds first.
        "import sys, torch; torch.nn.Conv2d(1, 1, 1, device='meta'); before = set(sys.modules);"
        "import naf_hub; naf = naf_hub.load('naf');"
        "naf(torch.rand(1, 3, 16, 16), torch.randn(1, 4, 4, 4));"
        f"print({compilers} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_constants_are_marked_as_torch_marks_them():
    ours, torchs = constant_for_compilers(lambda: 1), torch.compiler.assume_constant_result(lambda: 1)
    assert vars(ours) == vars(torchs) != {}
