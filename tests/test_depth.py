"""Depth: read-outs, losses and metrics as recorded, and ``naf-hub eval depth`` on a small data set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from reconstruction_world import BACKBONE
from safetensors.torch import load_file

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.errors import DatasetError
from naf_hub.reports import Report
from naf_hub_probing.depth import Depth
from naf_hub_probing.depth_folders import DepthFolder, read_depth
from naf_hub_probing.depth_losses import DepthLoss, ReadOut, gradient_loss, scale_invariant_loss
from naf_hub_probing.depth_metrics import align, depth_figures, eigen_crop
from naf_hub_probing.nyu import NyuPairs

GOLDENS = Path(__file__).parent / "goldens"
HEAD, LOSSES, METRICS = (
    load_file(GOLDENS / f"depth_{part}.safetensors") for part in ("head", "losses", "metrics")
)
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize(
    ("kind", "logits", "golden"),
    [
        ("linear", "logits", "depth_linear"),
        ("softmax", "logits", "depth_softmax"),
        ("sigmoid", "logits", "depth_sigmoid_bins"),
        ("regression", "logits_1ch", "depth_sigmoid"),
        ("linear", "head_logits", "head_depth"),
    ],
)
def test_read_outs_match_golden(kind: str, logits: str, golden: str) -> None:
    torch.testing.assert_close(ReadOut(kind)(HEAD[logits]), HEAD[golden][:, 0], **TOLERANCE)


def test_a_head_that_says_nothing_reads_as_the_middle() -> None:
    torch.testing.assert_close(ReadOut()(torch.zeros(1, 256, 2, 2)), torch.full((1, 2, 2), 5.0005))


def test_losses_match_golden() -> None:
    prediction, target = LOSSES["pred"][:, 0].requires_grad_(), LOSSES["gt_zeroed"][:, 0]
    torch.testing.assert_close(scale_invariant_loss(prediction, target), LOSSES["sig_loss"], **TOLERANCE)
    torch.testing.assert_close(gradient_loss(prediction, target), LOSSES["gradient_loss"], **TOLERANCE)
    loss = DepthLoss(lambda scores: scores)(prediction, target)  # pyright: ignore[reportArgumentType]
    assert loss is not None
    torch.testing.assert_close(loss, LOSSES["total"], **TOLERANCE)
    loss.backward()
    torch.testing.assert_close(prediction.grad, LOSSES["grad_pred"][:, 0], **TOLERANCE)


def test_a_batch_without_depths_is_left_out_and_a_right_one_has_no_slope() -> None:
    scores = torch.zeros(1, 256, 4, 4, requires_grad=True)
    assert DepthLoss(ReadOut())(scores, torch.full((1, 4, 4), -1.0)) is None
    loss = DepthLoss(ReadOut())(scores, ReadOut()(scores).detach())
    assert loss is not None
    loss.backward()
    assert torch.equal(scores.grad, torch.zeros_like(scores))  # pyright: ignore


def test_metrics_match_golden() -> None:
    for i in range(3):
        found = depth_figures(LOSSES["pred"][i, 0], LOSSES["gt"][i, 0])
        assert found is not None
        for name, golden in (
            *((f"delta{k}", f"{by}_d{k}") for k in (1, 2, 3) for by in ("p3d", "jafar")),
            *((f"si_delta{k}", f"p3d_si_d{k}") for k in (1, 2, 3)),
            ("rmse", "p3d_rmse"),
            ("rmse", "jafar_rmse"),
            ("si_rmse", "p3d_si_rmse"),
            ("abs_rel", "jafar_abs_rel"),
            ("sq_rel", "jafar_sq_rel"),
            ("rmse_log", "jafar_rmse_log"),
            ("log10", "jafar_log_10"),
            ("silog", "jafar_silog"),
        ):
            scale = 100 if "delta" in name else 1
            assert found[name] == pytest.approx(scale * float(METRICS[golden][i]), rel=1e-4), name
        target = METRICS["gt"][i, 0].double()
        aligned = align(METRICS["pred"][i, 0].double(), target, target > 0)
        torch.testing.assert_close(aligned.float(), METRICS["p3d_si_aligned"][i, 0], **TOLERANCE)


def test_the_eigen_crop_matches_golden() -> None:
    i, j = torch.arange(480.0)[:, None], torch.arange(640.0)
    target = 3 + (i / 37).sin() + (j / 53).cos()
    prediction = target * (0.5 * (i / 11 + j / 7).sin()).exp()
    target = torch.where((i < 30) | (j < 20) | ((i + j) % 17 == 0), 0.0, target)
    for crop, key in ((lambda depth: depth, "nocrop"), (eigen_crop, "crop")):
        found = depth_figures(crop(prediction), crop(target))
        assert found is not None
        for k in (1, 2, 3):
            assert found[f"delta{k}"] == pytest.approx(100 * float(METRICS[f"nyu_{key}_d{k}"]), rel=1e-4)
        assert found["rmse"] == pytest.approx(float(METRICS[f"nyu_{key}_rmse"]), rel=1e-4)


def test_metrics_of_little() -> None:
    assert depth_figures(torch.ones(2, 2), torch.tensor([[0.0, 11.0], [-1.0, 0.0]])) is None
    even = depth_figures(torch.full((2, 2), 2.0), torch.tensor([[1.0, 2.0], [4.0, 2.0]]))
    assert even is not None
    assert even["delta1"] == even["si_delta1"] == 50.0  # an even map has no scale to be fitted
    # Aligned, the first prediction is below 0: no ratio makes that right.
    target, prediction = torch.tensor([[0.01, 2.0, 2.2, 9.0]]), torch.tensor([[0.5, 3.0, 6.0, 9.0]])
    aligned = align(prediction.double(), target.double(), target > 0)
    assert aligned[0, 0] < 0
    found = depth_figures(prediction, target)
    assert found is not None
    assert found["si_delta3"] <= 75.0


@pytest.fixture
def data(tmp_path: Path, install_plugin) -> Path:
    """Rectangles whose brightness says how far they are, 1 to 4 m; the first rows are unknown."""
    install_plugin("tiny_plugin", BACKBONE)
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for part in ("rgb", "depth"):
            (root / split / part).mkdir(parents=True)
        for i in range(count):
            metres = rng.uniform(1, 4, (4, 6)).repeat(8, 0).repeat(8, 1)
            grey = 255 * metres / 4 + rng.normal(0, 2, metres.shape)
            depth = (1000 * metres).astype(np.uint16)
            depth[:4] = 0
            picture = Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
            picture.save(root / split / "rgb" / f"{i:02}.jpg", quality=95)
            Image.fromarray(depth).save(root / split / "depth" / f"{i:02}.png")
    return root


def run(data: Path, *options: str) -> Result:
    upsamplers = () if "--upsampler" in options else ("--upsampler", "nearest")
    arguments = ["eval", "depth", "--backbone", "tiny_backbone", "--data", str(data), "--size", "32x48"]
    arguments += [*upsamplers, "--max-depth", "5", "--epochs", "6", "--lr", "0.05", "--device", "cpu"]
    return CliRunner().invoke(cli, [*arguments, *options])


def report(result: Result) -> Report:
    assert result.exit_code == 0, result.stderr
    return Report.from_json(result.stdout)


@pytest.mark.parametrize("protocol", [(), ("--train-pixels", "200"), ("--read-out", "regression")])
def test_it_learns(data: Path, tmp_path: Path, protocol: tuple[str, ...]) -> None:
    made = report(run(data, *protocol, "--standardize", "--out", str(tmp_path / "out"), "--json"))
    row = made.rows[0]
    loss = row.extras["train_loss"]
    assert loss[-1] < 0.7 * loss[0]
    assert row.values["delta1"] == row.extras["last"]["delta1"]
    assert row.values["delta1"] > 60  # pyright: ignore
    assert row.values["rmse"] < 0.8  # pyright: ignore
    assert made.data["val"]["pixels"] == {"with depth": 4 * 28 * 48}
    assert made.protocol["max_depth"] == 5
    with Image.open(tmp_path / "out" / "nearest-run" / "predictions.png") as sheet:
        assert sheet.width == 4 * 48 + 3 * 4
        assert sheet.height >= 3 * (32 + 22)  # captions may take several lines
    assert load_file(tmp_path / "out" / "nearest.safetensors").keys() == {"last.weight", "last.bias"}


def test_seeds_controls_and_the_row_without_a_network(data: Path) -> None:
    options = (
        "--upsampler",
        "joint_bilateral",
        "--control",
        "grey",
        "--seeds",
        "2",
        "--baseline",
        "--epochs",
        "2",
    )
    made = report(run(data, *options, "--train-pixels", "50", "--json"))
    labels = [row.label for row in made.rows]
    assert labels == ["joint_bilateral", "joint_bilateral (grey)", "no network (RGB statistics)"]
    first = made.rows[0]
    each = [figures["delta1"] for figures in first.extras["by_seed"].values()]
    assert first.values["delta1"] == pytest.approx(sum(each) / 2)
    assert first.values["delta1_spread"] == pytest.approx(np.std(each, ddof=1))
    assert "+- %" in made.table()


def test_a_split_of_its_own_and_another_unit(data: Path) -> None:
    for path in (data / "test" / "depth").iterdir():
        Image.fromarray(np.array(Image.open(path)) * 10).save(path)
    near = DepthFolder(data / "test", 1e-4, (32, 48), 5.0)[0]
    far = DepthFolder(data / "test", 1e-3, (32, 48), 50.0)[0]
    torch.testing.assert_close(near.label[4:] * 10, far.label[4:])
    made = report(
        run(data / "test", "--train-data", str(data / "test"), "--unit", "1e-4", "--epochs", "1", "--json")
    )
    assert made.data["train"]["images"] == made.data["val"]["images"] == 4


def test_the_central_square_is_cut_before_resizing(data: Path) -> None:
    sample = DepthFolder(data / "train", 1e-3, 16, 5.0)[0]
    depth = read_depth(data / "train" / "depth" / "00.png", 1e-3)[:, 8:40]
    expected = torch.where(depth > 0, depth, -1.0)[1::2, 1::2]
    assert sample.image.shape == (3, 16, 16)
    torch.testing.assert_close(sample.label, expected)
    assert (sample.label[:2] == -1).all()


def damage_depth(data: Path) -> None:
    Image.fromarray(np.zeros((32, 48), np.uint8)).save(data / "test" / "depth" / "01.png")


def turn_depth(data: Path) -> None:
    Image.fromarray(np.ones((48, 32), np.uint16)).save(data / "test" / "depth" / "01.png")


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (
            lambda data: (data / "train").rename(data / "other"),
            (),
            r"no folder .*rgb; expected DATA/\{train,test\}",
        ),
        (lambda data: (data / "test" / "rgb" / "02.jpg").unlink(), (), "02.png: no image of that name"),
        (damage_depth, (), "01.png: depths must be a grey picture of 16 bits, not L of uint8"),
        (turn_depth, (), "01.png: label is 48x32, its image .*turned"),
        (lambda data: None, ("--unit", "1"), "no depth lies between 0 and 5 m; are unit"),
        (lambda data: (data / "rgb").mkdir(), (), "has no training data|no folder"),
        (
            lambda data: (data / "nyu_depth_v2_labeled.mat").touch(),
            (),
            "no .*splits.mat; NYUv2's official split",
        ),
    ],
)
def test_bad_data_and_options_are_one_line(
    data: Path, damage, options: tuple[str, ...], message: str
) -> None:
    damage(data)
    result = run(data, *options)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("naf-hub: ")]
    assert re.search(message, line)
    assert not result.stdout


def test_pictures_without_a_depth_are_told(data: Path) -> None:
    next(iter(sorted((data / "test" / "depth").iterdir()))).unlink()
    assert "naf-hub: 1 picture without a depth left out (val)\n" in run(data, "--json").stderr


def test_a_broken_picture_is_skipped_and_named(data: Path) -> None:
    (data / "train" / "depth" / "03.png").write_bytes(b"broken")
    result = run(data, "--epochs", "1")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"skipped \(train\): .*03\.png", result.stderr)
    assert "7 training and 4 validation images, 1 skipped" in result.stdout


def test_the_nyu_file_is_read_by_its_official_split(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    savemat = pytest.importorskip("scipy.io").savemat
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 480, 640), dtype=np.uint8)
    depths = rng.uniform(0, 12, (5, 480, 640)).astype(np.float32)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["rawDepths"] = images.swapaxes(-1, -2), depths.swapaxes(-1, -2)
    numbers = {"trainNdxs": np.array([[1], [4]]), "testNdxs": np.array([[2], [3], [5]])}
    savemat(tmp_path / "splits.mat", numbers)
    train, test = (NyuPairs(tmp_path, split, (480, 640), 10.0) for split in ("train", "test"))
    assert (len(train), len(test)) == (2, 3)
    torch.testing.assert_close(test[2].image, torch.from_numpy(images[4] / np.float32(255)))
    known = torch.from_numpy(depths[3])
    torch.testing.assert_close(train[1].label, torch.where(known <= 10, known, -1.0))
    assert len(NyuPairs(tmp_path, "test", 448, 10.0, limit=2)) == 2
    savemat(tmp_path / "splits.mat", {**numbers, "testNdxs": np.array([[6]])})
    with pytest.raises(DatasetError, match=r"has 5 pairs, splits\.mat names number 6"):
        NyuPairs(tmp_path, "test", 448, 10.0)


def test_a_damaged_pair_of_the_nyu_file_is_named(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    savemat = pytest.importorskip("scipy.io").savemat
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w") as file:
        images = np.zeros((2, 3, 9, 8), dtype=np.uint8)
        stored = file.create_dataset("images", data=images, chunks=(1, 3, 9, 8), fletcher32=True)
        file["rawDepths"] = np.ones((2, 9, 8), dtype=np.float32)
        place = stored.id.get_chunk_info(1).byte_offset
    savemat(tmp_path / "splits.mat", {"testNdxs": np.array([[2]])})
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff")
    with pytest.raises(DatasetError, match=r"nyu_depth_v2_labeled\.mat: pair 2 is damaged"):
        NyuPairs(tmp_path, "test", (9, 8), 10.0)[0]


def test_the_task_is_registered() -> None:
    assert isinstance(naf_hub.load_task("depth"), Depth)
