"""``naf-hub eval segmentation`` end to end on a small data set that can be learned."""

from __future__ import annotations

import colorsys
import json
import os
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from ready_python import Process, start_python
from reconstruction_world import finish, same_state, wait_for
from safetensors.torch import load_file
from torch import Tensor, nn
from training_world import logged

import naf_hub
from naf_hub import Backbone, Upsampler
from naf_hub.commands.main import cli
from naf_hub.legend import class_colours, shaded
from naf_hub.reports import Report
from naf_hub.training.checkpoints import newest
from naf_hub_probing.course import HeadCourse
from naf_hub_probing.depth import DepthProtocol
from naf_hub_probing.filtering import AsFilter
from naf_hub_probing.protocol import ProbeProtocol
from naf_hub_probing.report import are_probes
from naf_hub_probing.segmentation import Segmentation, SegmentationProtocol
from naf_hub_probing.segmentation_pictures import RIGHT, UNKNOWN, WRONG

COLOURS = np.array([[220, 40, 40], [40, 200, 60], [30, 60, 230]])
SMALL_NAF: dict[str, Any] = {"dim": 16, "num_blocks": 1, "rope_heads": 1, "kernel_size": 3}


class Colours(Backbone):
    """Mean colour of 4x4 cells, and a channel of noise-free ones."""

    def __init__(self, contrast: float = 1.0) -> None:
        super().__init__(embed_dim=4, patch_size=4)
        self.contrast = nn.Parameter(torch.tensor(contrast))

    def extract(self, image: Tensor) -> Tensor:
        means = torch.nn.functional.avg_pool2d(image, 4) * self.contrast
        return torch.cat([means, torch.ones_like(means[:, :1])], 1)


PLUGIN = """
import sys
import torch
from naf_hub import BackboneRecord, Upsampler, UpsamplerRecord, hookimpl

class Plain(Upsampler):
    def upsample(self, image, features, output_size):
        return torch.nn.functional.interpolate(features, output_size)

class Extended(Plain):
    # Gathers more channels than the backbone says it has.
    def gather(self, image, backbone):
        features = backbone(image)
        return {"a": features, "b": features.square()}

    def reference(self, features):
        return torch.cat(list(features.values()), 1)

    def upsample(self, image, features, output_size):
        return super().upsample(image, self.reference(features), output_size)

@hookimpl
def register_backbones(register):
    register(BackboneRecord(name="colours", summary="Mean colours.", target="test_probing_command:Colours",
                            embed_dim=4, patch_size=4, learned=False))

@hookimpl
def register_upsamplers(register):
    for name in ("Plain", "Extended"):
        register(UpsamplerRecord(name=name.lower(), summary="A toy.", target=f"toys:{name}", learned=False))
"""


@pytest.fixture(autouse=True)
def backbone(monkeypatch: pytest.MonkeyPatch, install_plugin) -> dict[str, object]:
    """The backbone by name, and what it was last loaded with."""
    install_plugin("toys", PLUGIN)
    asked: dict[str, object] = {}
    load_backbone = naf_hub.load_backbone

    def loaded(name: str, **options: Any) -> Backbone:
        asked.update(name=name, **options)
        return load_backbone(name, **options)

    monkeypatch.setattr("naf_hub.loading.load_backbone", loaded)
    return asked


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three colours in rectangles whose edges fall on cells, with a void border; ids 1, 2, 5 and 9."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    ids = np.array([1, 2, 5])
    for split, count in (("train", 12), ("val", 4)):
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for i in range(count):
            classes = rng.integers(0, 3, (4, 6)).repeat(8, 0).repeat(8, 1)
            pixels = COLOURS[classes] + rng.normal(0, 12, (*classes.shape, 3))
            label = ids[classes]
            label[:2] = 9
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                root / split / "images" / f"{i:02}.png"
            )
            Image.fromarray(label.astype(np.uint8)).save(root / split / "labels" / f"{i:02}.png")
    names = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}, {"id": 5, "name": "blue"}]
    (root / "classes.json").write_text(json.dumps({"classes": names, "ignore_index": 9}))
    return root


def run(data: Path, *options: str) -> Result:
    arguments = ["eval", "segmentation", "--backbone", "colours", "--data", str(data), "--size", "32x48"]
    if not any(option == "--upsampler" for option in options):
        arguments += ["--upsampler", "bilinear"]
    return CliRunner().invoke(cli, [*arguments, "--epochs", "4", "--lr", "0.1", "--device", "cpu", *options])


def report(result: Result) -> Report:
    assert result.exit_code == 0, result.stderr
    return Report.from_json(result.stdout)


@pytest.mark.parametrize("protocol", [(), ("--train-pixels", "100"), ("--standardize", "--cache", "float16")])
def test_it_learns(data: Path, protocol: tuple[str, ...]) -> None:
    made = report(run(data, "--upsampler", "nearest", "--upsampler", "bilinear", *protocol, "--json"))
    assert [row.label for row in made.rows] == ["nearest", "bilinear"]
    assert made.data["train"]["images"] == 12
    assert made.data["val"]["images"] == 4
    assert sum(made.data["val"]["pixels"].values()) == 4 * 30 * 48
    for row in made.rows:
        last, best, loss = row.extras["last"], row.extras["best"], row.extras["train_loss"]
        assert last["epoch"] == 4
        assert last["miou"] > 80
        assert best["miou"] >= last["miou"]
        assert row.values == {
            "miou": last["miou"],
            "miou_2px": last["miou_2px"],
            "miou_5px": last["miou_5px"],
            "pixel_accuracy": last["pixel_accuracy"],
            "best_miou": best["miou"],
            "best_epoch": best["epoch"],
        }
        assert row.extras["probe_parameters"] == 15
        assert loss[-1] < loss[0]
        assert list(last["iou"]) == ["red", "green", "blue"]
        assert last["miou"] == pytest.approx(sum(last["iou"].values()) / 3)
    # Edges fall on cells, so nearest is right everywhere and bilinear blurs them.
    assert made.ranked() == made.rows
    assert made.rows[0].extras["last"]["miou"] > made.rows[1].extras["last"]["miou"]


@pytest.mark.parametrize("protocol", [(), ("--train-pixels", "100")])
def test_several_seeds_are_those_seeds_one_by_one(
    data: Path, tmp_path: Path, protocol: tuple[str, ...]
) -> None:
    made = report(
        run(data, *protocol, "--seed", "3", "--seeds", "2", "--out", str(tmp_path / "heads"), "--json")
    )
    alone = [report(run(data, *protocol, "--seed", seed, "--json")).rows[0] for seed in ("3", "4")]
    row = made.rows[0]
    assert made.seeds == (3, 4)
    for name in ("miou", "miou_2px", "miou_5px", "pixel_accuracy"):
        values = [one.values[name] for one in alone]
        assert [run[name] for run in row.extras["by_seed"].values()] == values
        assert row.values[name] == pytest.approx(sum(values) / 2)
    assert row.values["miou_spread"] == pytest.approx(statistics.stdev(one.values["miou"] for one in alone))
    assert row.values["best_miou"] is None
    assert sorted(path.name for path in (tmp_path / "heads").glob("*.safetensors")) == [
        "bilinear-seed3.safetensors", "bilinear-seed4.safetensors",
    ]  # fmt: skip
    assert not list((tmp_path / "heads").glob("*-run/checkpoints"))


def test_controls_are_rows_of_their_own(data: Path) -> None:
    names = ("--upsampler", "joint_bilateral", "--control", "grey", "--control", "other")
    made = report(run(data, *names, "--train-pixels", "100", "--json"))
    assert [row.label for row in made.rows] == [
        "joint_bilateral", "joint_bilateral (grey)", "joint_bilateral (other)",
    ]  # fmt: skip
    # Edges of the picture are those of the labels: without them the figure falls.
    miou = [row.values["miou_2px"] for row in made.rows]
    assert miou[0] > max(miou[1:])


def test_same_seed_same_figures_and_the_published_crop(data: Path) -> None:
    options = ("--size", "16", "--flip", "--limit-train", "6", "--json")
    first, again = (report(run(data, *options)) for _ in range(2))
    other = report(run(data, *options, "--seed", "1"))
    figures = []
    for made in (first, again, other):
        assert made.rows[0].extras["seconds"]["train"] > 0
        rows = [{**row.extras, "seconds": 0, "values": row.values} for row in made.rows]
        figures.append((rows, made.protocol, made.data))
    assert figures[0] == figures[1]
    assert figures[0][0] != figures[2][0]
    assert (first.seeds, other.seeds) == ((0,), (1,))
    assert first.data["train"]["images"] == 6
    # A 16x16 crop of a 16x24 image: its void rows are one of 16.
    assert sum(first.data["val"]["pixels"].values()) == 4 * 15 * 16


def test_flip_and_cache_change_only_what_they_should(data: Path) -> None:
    figures = {
        options: report(run(data, *options, "--json")).rows[0].extras["train_loss"]
        for options in [("--flip",), ("--no-flip",), ("--cache", "off")]
    }
    assert figures[("--flip",)] == figures[("--cache", "off")]
    assert figures[("--flip",)] != figures[("--no-flip",)]


def test_naf_and_its_random_initialisation(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = naf_hub.loading.load_upsampler
    asked = []

    def small(name: str, **options: Any) -> object:
        asked.append((name, options["weights"], options["made_for"]))
        return load(name, weights=None, **SMALL_NAF) if name == "naf" else load(name)

    monkeypatch.setattr("naf_hub.loading.load_upsampler", small)
    torch.manual_seed(1)
    first_run = run(data, "--upsampler", "naf=none", "--upsampler", "naf=runs/a=b", "--json")
    first = report(first_run)
    assert asked == [("naf", None, "colours"), ("naf", "runs/a=b", "colours")]
    assert "--train-pixels" in first_run.stderr
    assert first.rows[0].values["miou"] > 80  # pyright: ignore
    torch.manual_seed(2)  # the initialisation belongs to the result, not to the process
    again = report(run(data, "--upsampler", "naf", "--weights", "none", "--json"))
    assert asked[-1] == ("naf", None, "colours")
    assert again.rows[0].label == "naf=none"
    assert again.rows[0].extras["train_loss"] == first.rows[0].extras["train_loss"]


def test_every_contender_is_probed_on_what_it_gathers(data: Path) -> None:
    names = ("plain", "extended", "nearest")
    options = [part for name in names for part in ("--upsampler", name)]
    made = report(run(data, *options, "--standardize", "--json"))
    alone = report(run(data, "--upsampler", "nearest", "--standardize", "--json"))
    assert [row.extras["probe_parameters"] for row in made.rows] == [15, 3 * 9, 15]
    assert made["plain"].extras["train_loss"] == pytest.approx(made["nearest"].extras["train_loss"], rel=1e-5)
    assert made["nearest"].extras["train_loss"] == alone["nearest"].extras["train_loss"]
    assert made["extended"].values["miou"] > 80  # pyright: ignore
    fast = report(run(data, *options, "--train-pixels", "100", "--json"))
    assert [row.extras["probe_parameters"] for row in fast.rows] == [15, 3 * 9, 15]


def test_contenders_that_gather_the_same_share_the_passes(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = []
    extract = Colours.extract
    monkeypatch.setattr(Colours, "extract", lambda self, x: pictures.append(len(x)) or extract(self, x))

    def passes(*names: str) -> int:
        pictures.clear()
        report(run(data, *(p for n in names for p in ("--upsampler", n)), "--no-flip", "--json"))
        return sum(pictures)

    assert passes("plain") == passes("plain", "nearest", "bilinear") == 16
    assert passes("plain", "extended") == 32


def test_options_reach_the_backbone_and_the_table_is_readable(
    data: Path, backbone: dict[str, object]
) -> None:
    result = run(data, "--backbone-option", "contrast=2.5", "--backbone-weights", "none", "--baseline")
    assert result.exit_code == 0, result.stderr
    assert backbone == {"name": "colours", "weights": None, "device": torch.device("cpu"), "contrast": 2.5}
    assert "--train-pixels" not in result.stderr
    assert "bilinear: mIoU " in result.stderr
    assert "12 training and 4 validation images, 0 skipped" in result.stdout
    for text in ("mIoU", "bilinear", "no network", "green"):
        assert text in result.stdout


def test_a_preset_decides_what_is_not_given(data: Path, tmp_path: Path) -> None:
    home = tmp_path / "ADEChallengeData2016"
    for split, name in (("train", "training"), ("val", "validation")):
        (home / "images").mkdir(parents=True, exist_ok=True)
        (home / "annotations").mkdir(exist_ok=True)
        (data / split / "images").rename(home / "images" / name)
        (data / split / "labels").rename(home / "annotations" / name)
    arguments = [
        "eval",
        "segmentation",
        "--backbone",
        "colours",
        "--upsampler",
        "bilinear",
        "--data",
        str(tmp_path),
    ]
    arguments += ["--preset", "naf-ade20k", "--size", "16", "--label-size", "16", "--device", "cpu", "--json"]
    refused = CliRunner().invoke(cli, arguments)
    assert refused.exit_code == 1
    assert "has 12 pictures in train, and ADE20K has 20210" in refused.stderr
    made = report(CliRunner().invoke(cli, [*arguments, "--allow-incomplete", "--epochs", "1"]))
    assert made.protocol["preset"] == "naf-ade20k"
    assert (made.protocol["epochs"], made.protocol["lr"], made.protocol["size"]) == (1, 5e-4, 16)
    assert made.data["layout"] == "ade20k"
    assert len(made.data["classes"]) == 151


def test_a_filter_keeps_the_size_and_is_enlarged_bilinearly(data: Path) -> None:
    names = (
        "--upsampler",
        "joint_bilateral_upsampling",
        "--upsampler",
        "bilinear",
        "--train-pixels",
        "100",
        "--json",
    )
    filtered, plain = report(run(data, *names, "--mode", "filter")), report(run(data, *names))
    assert filtered["bilinear"].values == plain["bilinear"].values
    guided = "joint_bilateral_upsampling"
    assert filtered[guided].extras["train_loss"] != plain[guided].extras["train_loss"]
    model, image, features = naf_hub.load(guided), torch.rand(1, 3, 16, 16), torch.rand(1, 5, 4, 4)
    assert isinstance(model, Upsampler)
    expected = torch.nn.functional.interpolate(model(image, features, 4), (16, 16), mode="bilinear")
    torch.testing.assert_close(AsFilter(model)(image, features), expected)


@pytest.mark.parametrize("grey", [0, 120, 255])
def test_a_class_has_the_hue_of_its_legend_over_any_picture(grey: int) -> None:
    colours = class_colours(11)
    rows = Image.fromarray(np.array([colours], np.uint8))
    drawn = np.asarray(shaded(Image.new("RGB", rows.size, (grey, grey, grey)), rows))[0]
    for colour, found in zip(colours, drawn.tolist(), strict=True):
        wanted, seen = (colorsys.rgb_to_hsv(*(part / 255 for part in one)) for one in (colour, found))
        assert seen[:2] == pytest.approx(wanted[:2], abs=0.02)


def test_pictures_of_predictions(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "seen"
    place.mkdir()
    (place / "bilinear.png").write_bytes(b"mine")
    refused = run(data, "--picture", str(place))
    assert refused.exit_code == 1
    assert "bilinear.png exists and is no picture of naf-hub" in refused.stderr
    (place / "bilinear.png").unlink()
    for _ in range(2):  # its own are replaced
        report(run(data, "--picture", str(place), "--json"))
    with Image.open(place / "bilinear.png") as sheet:
        assert sheet.width == 4 * 48 + 3 * 4
        counts = {colour: count for count, colour in sheet.getcolors(1 << 16)}  # pyright: ignore
    # More than the legend holds: most pixels are right, and two rows of each picture have no label.
    assert counts[RIGHT] > 4 * 30 * 48 * 0.7
    assert counts[UNKNOWN] > 4 * 2 * 48
    assert WRONG in counts


def test_heads_are_stored(data: Path, tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "cat.png").write_bytes(b"mine")
    refused = run(data, "--out", str(tmp_path / "heads"))
    assert "heads is not empty (cat.png) and holds no results of segmentation: give --out" in refused.stderr
    (tmp_path / "heads" / "cat.png").unlink()
    report(run(data, "--out", str(tmp_path / "heads"), "--baseline", "--json"))
    assert sorted(path.name for path in (tmp_path / "heads").iterdir()) == [
        "bilinear-run",
        "bilinear.safetensors",
        "naf-hub-results.json",
        "no-network-RGB-statistics-run",
        "no-network-RGB-statistics.safetensors",
    ]
    assert are_probes(tmp_path / "heads")
    assert not are_probes(data)
    kept = {path.name for path in (tmp_path / "heads" / "bilinear-run").iterdir()}
    assert kept == {"log.jsonl", "naf-hub-run.json", ".run.lock", "predictions.png"}
    stored = load_file(tmp_path / "heads" / "bilinear.safetensors")
    assert {key: tuple(value.shape) for key, value in stored.items()} == {
        "last.weight": (3, 4),
        "last.bias": (3,),
        "best.weight": (3, 4),
        "best.bias": (3,),
    }


@pytest.mark.parametrize("protocol", [(), ("--train-pixels", "8")])
def test_ctrl_c_saves_and_the_same_command_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: tuple[str, ...]
) -> None:
    straight = report(run(data, *protocol, "--json"))
    steps: list[int] = []
    loss = HeadCourse.loss

    def interrupted(self: HeadCourse, net: nn.Module, batch: Any, step: int) -> Tensor | None:
        steps.append(step)
        if len(steps) == 9:
            signal.raise_signal(signal.SIGINT)
        return loss(self, net, batch, step)

    monkeypatch.setattr(HeadCourse, "loss", interrupted)
    stopped = run(data, *protocol, "--out", str(tmp_path / "heads"), "--json")
    assert stopped.exit_code == 130
    assert not list((tmp_path / "heads").glob("*.safetensors"))
    resumed = report(run(data, *protocol, "--out", str(tmp_path / "heads"), "--json"))
    assert steps[9] == 9, "the run began anew"
    (one,), (other,) = straight.rows, resumed.rows
    assert one.values == other.values
    assert {k: v for k, v in one.extras.items() if k != "seconds"} == {
        k: v for k, v in other.extras.items() if k != "seconds"
    }


def test_killed_and_resumed_equals_straight(data: Path, tmp_path: Path) -> None:
    def start(out: str) -> Process:
        command = ["-m", "naf_hub", "eval", "segmentation", "--data", str(data), "--size", "32"]
        command += ["--backbone", "pico", "--upsampler", "bilinear", "--epochs", "40", "--json"]
        path = os.pathsep.join(filter(None, sys.path))
        variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return start_python(*command, "--out", str(tmp_path / out), environment=variables)

    straight, killed = start("a"), start("b")
    wait_for(lambda: newest(tmp_path / "b" / "bilinear-run" / "checkpoints"), killed)
    killed.kill()
    killed.communicate()
    output = [finish(process)[0] for process in (start("b"), straight)]
    heads = [load_file(tmp_path / out / "bilinear.safetensors") for out in "ab"]
    assert same_state(*heads)
    resumed, whole = (json.loads(text)["rows"][0]["extras"] for text in output)
    assert resumed["train_loss"] == whole["train_loss"]
    assert resumed["last"] == whole["last"]
    assert logged(tmp_path / "b" / "bilinear-run", "resume")


def test_broken_image_is_skipped_and_counted(data: Path) -> None:
    (data / "train" / "images" / "03.png").write_bytes(b"broken")
    result = run(data, "--json")
    made = report(result)
    assert made.data["train"]["images"] == 11
    assert len(made.data["train"]["skipped"]) == 1
    assert "naf-hub: skipped (train): " in result.stderr
    assert "left out" not in result.stderr
    assert "03.png" in result.stderr


def test_pictures_without_a_label_are_told(data: Path) -> None:
    (data / "val" / "labels" / "01.png").unlink()
    result = run(data, "--json")
    assert report(result).data["val"]["images_without_label"] == 1
    assert "naf-hub: 1 picture without a label left out (val)\n" in result.stderr


def break_label(data: Path) -> None:
    Image.fromarray(np.full((32, 48), 3, dtype=np.uint8)).save(data / "val" / "labels" / "01.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: (data / "classes.json").unlink(), "classes.json"),
        (lambda data: (data / "val").rename(data / "test"), "no folder"),
        (lambda data: (data / "val" / "images" / "02.png").unlink(), "02.png: no image of that name"),
        (break_label, "01.png: label id 3 is not in classes.json"),
    ],
    ids=["classes", "folder", "image", "label"],
)
def test_bad_data_is_one_line(data: Path, damage, message: str) -> None:
    damage(data)
    result = run(data)
    assert result.exit_code == 1
    line = [line for line in result.stderr.splitlines() if line.startswith("naf-hub: ")]
    assert len(line) == 1
    assert message in line[0]
    assert "Traceback" not in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--size", "big"), 2, "is not N or HxW"),
        (("--label-size", "448"), 2, "must both be"),
        (("--upsampler", "bilinear=foo"), 2, "no weights to choose"),
        (("--upsampler", "bilinaer"), 2, "did you mean bilinear"),
        (("--upsampler", "bilinear", "--upsampler", "bilinear"), 2, "named twice"),
        (("--backbone-option", "contrast"), 2, "key=value"),
        (("--lr", "-1"), 2, "--lr"),
        (("--epochs", "0"), 2, "epochs"),
    ],
)
def test_bad_options_are_one_line(data: Path, options: tuple[str, ...], status: int, message: str) -> None:
    result = run(data, *options)
    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (SegmentationProtocol, {"epochs": "many"}, "epochs = 'many': must be a whole number"),
        (SegmentationProtocol, {"lr": True}, "lr = True: must be a number"),
        (
            SegmentationProtocol,
            {"size": "448"},
            "size = '448': must be a whole number or 2 values, each a whole",
        ),
        (
            SegmentationProtocol,
            {"size": [1, 2, 3]},
            r"size = \[1, 2, 3\]: must be a whole number or 2 values",
        ),
        (SegmentationProtocol, {"label_size": 0}, "label_size must be at least 1, got 0"),
        (SegmentationProtocol, {"preset": ["naf-voc"]}, r"no preset \['naf-voc'\]; there are: "),
        (SegmentationProtocol, {"limit": -1}, "limit must not be negative"),
        (DepthProtocol, {"weight_decay": -1}, "weight_decay must not be negative"),
        (DepthProtocol, {"max_depth": "far"}, "max_depth = 'far': must be a number"),
        (DepthProtocol, {"eigen_crop": "yes"}, "eigen_crop = 'yes': must be true or false"),
    ],
)
def test_settings_of_the_wrong_kind_are_one_line(
    kind: type[ProbeProtocol], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        kind.read(settings)
    chosen = kind.read({"size": [32, 48], "train_pixels": None})
    assert chosen.size == (32, 48)
    assert kind.read(chosen.to_dict()) == chosen


def test_python_interface_takes_modules_and_gives_them_back_as_they_were(data: Path) -> None:
    upsampler = naf_hub.load("bilinear").train()
    backbone = Colours().train()
    task = naf_hub.load_task("segmentation")
    assert isinstance(task, Segmentation)
    protocol = {"size": (32, 48), "epochs": 2, "lr": 0.1, "limit": 4}
    made = task.evaluate(upsampler, data, protocol, backbone=backbone)
    assert made.rows[0].label == "bilinear"
    assert made.rows[0].backbone == "Colours"
    assert made.protocol["limit"] == 4
    assert Report.from_json(made.to_json()) == made
    with pytest.raises(ValueError, match="no setting 'epoch'"):
        task.evaluate(upsampler, data, {"epoch": 2}, backbone=backbone)
    assert upsampler.training
    assert backbone.training
    assert backbone.contrast.requires_grad
    assert backbone.contrast.grad is None
    with pytest.raises(NotImplementedError):
        task.train()
