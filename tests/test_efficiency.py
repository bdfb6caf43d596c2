"""Operations in the paper's convention, sweeps, the largest ratio under a limit, and the command that reports them."""

from __future__ import annotations

import os
import re
import subprocess
import types
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from ready_python import python_for_scripts
from torch import nn

import naf_hub
from naf_hub.commands.bench import METRICS
from naf_hub.commands.main import cli
from naf_hub.efficiency import Setting, fitting, largest_ratio, parse_sweep, sweep
from naf_hub.efficiency_plot import draw_sweeps
from naf_hub.flops import Flops, count
from naf_hub.measuring import spread
from naf_hub.reports import Report, Row

ROOT = Path(__file__).parents[1]


# As published (GFLOPs of the official result file): guidance as large as the output, 28 x 28 cells.
@pytest.mark.parametrize(
    ("ratio", "published"), [(2, 4.14), (4, 16.57), (8, 66.28), (16, 265.12), (32, 1060.49)]
)
def test_operations_of_naf_are_the_published_ones(ratio, published):
    model = naf_hub.load("naf", weights=None)
    size = 28 * ratio
    image, features = torch.empty(1, 3, size, size, device="meta"), torch.empty(1, 384, 28, 28, device="meta")
    found = model.flops(image, features, (size, size))
    assert found.paper / 1e9 == pytest.approx(published, abs=0.005)
    assert found.full - found.paper == 2 * 81 * (256 + 384) * size**2


def test_stated_operations_of_naf_are_those_that_run():
    model = naf_hub.load("naf", weights=None, dim=32)
    image = torch.rand(2, 3, 20, 24)
    stated = model.flops(image, torch.rand(2, 5, 5, 6), (20, 24))
    assert count(lambda: model.image_encoder(image, (20, 24))).paper == stated.paper


def test_products_are_counted_with_their_biases():
    x = torch.rand(3, 4)
    assert count(lambda: nn.Linear(4, 5)(x)) == Flops(2 * 3 * 5 * (4 + 1), 2 * 3 * 5 * (4 + 1))
    assert count(lambda: x @ x.T).paper == 2 * 3 * 3 * 4
    conv = nn.Conv2d(2, 6, 3)
    assert count(lambda: conv(torch.rand(1, 2, 5, 5))).paper == 2 * 9 * 6 * (2 * 9 + 1)
    assert count(lambda: torch.relu(x).softmax(0)) == Flops(0, 0)


def test_fused_attention_is_no_product_of_the_paper():
    q = torch.rand(1, 2, 8, 16)
    found = count(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert found.full == 2 * (2 * 8 * 8 * 16) * 2
    assert found.paper in (0, found.full)  # without a fused kernel plain products run


def test_sweeps_change_one_factor():
    start = Setting(384, (28, 28), (448, 448), None, threads=2)
    found = dict(sweep(start, [parse_sweep("ratio=2,32"), parse_sweep("cells=14")]))
    assert found["ratio=2"] == Setting(384, (28, 28), (56, 56), None, threads=2)
    assert found["ratio=32"].size == (896, 896)
    assert found["cells=14"] == Setting(384, (14, 14), (224, 224), None, threads=2)
    assert start.vary("size", 64) == Setting(384, (28, 28), (64, 64), None, threads=2)
    assert sweep(start, []) == [("", start)]
    assert start.vary("image", 112).guide == (112, 112)


@pytest.mark.parametrize("text", ["ratio", "ratio=", "ratio=2,x", "ratio=0", "colour=3"])
def test_bad_sweeps(text):
    with pytest.raises(ValueError, match=r"write FACTOR=N|no factor"):
        parse_sweep(text)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 31, 32, 33, 72, 1024, 5000])
def test_largest_ratio_is_found_and_none_tried_twice(limit):
    tried = []

    def fits(ratio):
        tried.append(ratio)
        return ratio <= limit

    assert largest_ratio(fits) == min(limit, 1024)
    assert len(tried) == len(set(tried)) <= 21


def test_spread_is_between_the_quartiles():
    assert spread([1.0]) == 0
    assert spread([1.0, 2.0, 3.0, 4.0, 100.0]) == 2


def bench(*arguments):
    return CliRunner().invoke(
        cli,
        ["bench", *arguments, "--features", "8,6,6", "--repeats", "1", "--device", "cpu", "--threads", "1"],
    )


def test_sweep_with_everything(tmp_path, monkeypatch):
    plot, learned, backward = tmp_path / "plot.png", [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: (learned.append(1), backward(loss))[1])
    pytest.importorskip("matplotlib")
    done = bench(
        "naf", "bilinear", "--sweep", "ratio=2,4", "--backward", "--flops", "--json", "--plot", str(plot)
    )
    assert done.exit_code == 0, done.output
    report = Report.from_json(done.stdout)
    assert [row.label for row in report.rows] == [
        f"{name}, ratio={ratio}" for name in ("naf", "bilinear") for ratio in (2, 4)
    ]
    small, large = report["naf, ratio=2"], report["naf, ratio=4"]
    assert large.values["gflops_paper"] == pytest.approx(4 * small.values["gflops_paper"])
    assert small.values["parameters"] == 662528
    assert min(small.values[key] for key in ("backward_seconds", "seconds")) > 0
    assert len(learned) >= len(report.rows)  # a training step of each was timed
    assert report["bilinear, ratio=4"].values["gflops_full"] == 0
    assert small.extras["swept"] == ["ratio", 2]
    assert plot.read_bytes().startswith(b"\x89PNG")


def swept_report(values):
    """``values``: {contender: {(factor, n): {figure: value}}}."""
    rows = [
        Row(f"{name}, {factor}={n}", found, extras={"swept": [factor, n], "contender": name})
        for name, points in values.items()
        for (factor, n), found in points.items()
    ]
    return Report("bench", 1, {}, METRICS, tuple(rows))


def tick_labels(axis):
    axis.figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    return [
        tick.label1.get_text()
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if tick.label1.get_text() and low <= tick.get_loc() <= high
    ]


def test_plots_have_plain_numbers_and_a_colour_for_each_contender():
    pytest.importorskip("matplotlib")
    channels = (16, 300, 1900, 2000, 4000)
    report = swept_report(
        {
            "bilinear": {("channels", n): {"seconds": n / 2000, "peak_mib": None} for n in channels}
            | {("cells", 7): {"seconds": 1.0, "peak_mib": 0.0}},
            "naf": {("channels", n): {"seconds": 1.0 + n, "peak_mib": 40.0 * n} for n in channels}
            | {("cells", 7): {"seconds": 3e4, "peak_mib": 7.0}},
        }
    )
    figure = draw_sweeps(report)
    seconds, memory, cell_seconds, cell_memory = figure.axes
    assert tick_labels(seconds.xaxis) == ["16", "300", "1900", "4000"]  # 2000 would run into 1900
    assert list(seconds.get_xticks()) == list(channels)
    assert tick_labels(cell_seconds.xaxis) == ["7"]
    assert "1000" in tick_labels(seconds.yaxis)
    assert {"1000", "2000", "5000", "10000", "100000"} <= set(tick_labels(memory.yaxis))
    plain = r"\d+(\.\d+)?"
    assert all(re.fullmatch(plain, text) for axes in figure.axes for text in tick_labels(axes.yaxis))
    assert cell_memory.get_yscale() == "linear"  # which has a place for 0
    assert [list(line.get_ydata()) for line in cell_memory.lines] == [[0.0], [7.0]]
    colours = [{line.get_label(): line.get_color() for line in axes.lines} for axes in figure.axes]
    assert all(found == colours[0] for found in colours)
    assert len(set(colours[0].values())) == 2


@pytest.mark.parametrize(("device", "index"), [("cuda", 3), ("cuda:1", 1)])
def test_the_cap_names_its_card_by_number(device, index, monkeypatch):
    """The allocator takes no device without a number, which ``--device cuda`` is."""
    capped = []
    properties = types.SimpleNamespace(total_memory=80)
    for name, value in {
        "empty_cache": lambda: None,
        "current_device": lambda: 3,
        "get_device_properties": lambda device: properties,
        "set_per_process_memory_fraction": lambda share, number: capped.append((share, number)),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    fits = fitting(lambda ratio: 10 * ratio, 40, device, lambda call: call())
    assert [fits(4), fits(5)] == [True, False]
    assert capped == [(0.5, index)] * 2


def test_an_exported_file_is_timed_beside_its_model():
    for needed in ("onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    done = bench("bilinear", "--onnx", "--size", "12", "--image", "24", "--json")
    (row,) = Report.from_json(done.stdout).rows
    assert row.values["onnx_ratio"] == pytest.approx(row.values["onnx_seconds"] / row.values["seconds"])
    assert "neither --dtype nor --compile" in bench("bilinear", "--onnx", "--dtype", "bfloat16").output


def test_batches_are_swept_with_features_of_as_many_examples():
    done = bench("bilinear", "--size", "12", "--sweep", "batch=1,3", "--json")
    rows = Report.from_json(done.stdout).rows
    assert [row.note for row in rows] == ["", ""]
    assert all(row.values["seconds"] for row in rows)


def test_processor_seconds_and_a_floor_left_out():
    done = bench("naf", "--size", "12", "--no-floor", "--json")
    (row,) = Report.from_json(done.stdout).rows
    assert row.values["processor_seconds"] > 0
    assert row.values["ratio"] is None
    assert "floor" not in row.note


def test_a_report_says_the_threads_that_all_but_a_sweep_had():
    before = torch.get_num_threads()
    try:
        done = bench("nearest", "--size", "12", "--sweep", "threads=2", "--json")
    finally:
        torch.set_num_threads(before)
    assert Report.from_json(done.stdout).protocol["threads"] == 1


@pytest.mark.parametrize("arguments", [("--plot", "mine.png", "--sweep", "ratio=2"), ("--save", "mine.png")])
def test_files_of_the_user_are_not_written_over(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.png").write_text("mine")
    done = bench("nearest", "--size", "12", *arguments)
    assert done.exit_code == 2
    assert "mine.png exists" in done.stderr
    assert (tmp_path / "mine.png").read_text() == "mine"


def test_an_earlier_report_is_written_over(tmp_path):
    for _ in range(2):
        assert bench("nearest", "--size", "12", "--save", str(tmp_path / "report.json")).exit_code == 0


def test_one_that_fails_has_a_remark_and_the_rest_goes_on():
    done = bench("naf", "bilinear", "--sweep", "ratio=2", "--option", "kernel_size=4", "--json")
    assert done.exit_code == 0, done.output
    report = Report.from_json(done.stdout)
    assert "kernel_size" in report["naf, ratio=2"].note
    assert "seconds" not in report["naf, ratio=2"].values


def test_largest_ratio_grows_with_the_limit():
    found = [
        Report.from_json(bench("nearest", "--size", "12", "--largest-ratio", limit, "--json").stdout).rows[0]
        for limit in ("1", "16MiB", "64MiB")
    ]
    none, small, large = (row.values["largest_ratio"] for row in found)
    assert 20 < small < large < 400
    assert none == 0
    assert found[0].note.endswith("not even ratio 1 keeps to the memory of --largest-ratio")


def test_a_step_of_training_leaves_the_model_as_it_was():
    from naf_hub.measuring import measure

    model = naf_hub.load("naf", weights=None, dim=32)
    measure(model, (4, 3, 3), (12, 12), 1, "cpu", backward=True)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["naf", "--plot", "x.png"], "give both"),
        (["naf", "--plot", "x.txt", "--sweep", "ratio=2"], "must end in .png, .svg, .pdf"),
        (["naf", "--cuda-graph"], "needs a CUDA device"),
        (["naf", "--sweep", "hue=3"], "no factor 'hue'"),
        (["naf", "--largest-ratio", "much"], "much"),
    ],
)
def test_bad_usage(arguments, message):
    done = bench(*arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_gpu_script_runs_on_a_cpu_at_small_size(tmp_path):
    environment = {
        **os.environ, "DEVICE": "cpu", "UPSAMPLERS": "nearest", "DTYPES": "float32", "RATIOS": "2", "CHANNELS": "8",
        "FEATURES": "8,6,6", "IMAGE": "24", "REPEATS": "1", "WARMUP": "0", "MODES": "", "LIMIT": "64MiB",
    }  # fmt: skip
    script = ROOT / "scripts/bench-gpu.sh"
    out = tmp_path / "out"
    with python_for_scripts(tmp_path) as python:
        environment["LAUNCH"] = f"{python} -m naf_hub"
        subprocess.run([script, out], env=environment, check=True, timeout=250)
    assert {path.name for path in out.iterdir()} == {
        "float32.json", "float32.md", "float32.png", "largest-float32.json", "largest-float32.md",
    }  # fmt: skip
    assert Report.load(out / "largest-float32.json").rows[0].values["largest_ratio"] > 1
    before = (out / "float32.json").stat().st_mtime_ns
    subprocess.run([script, out], env=environment, check=True, timeout=250)
    assert (out / "float32.json").stat().st_mtime_ns == before
    assert subprocess.run([script], env=environment, capture_output=True).returncode == 2
