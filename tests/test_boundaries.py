"""Edges of feature maps against boundaries that people drew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from interrupted_evaluation import check_going_on, counted
from PIL import Image
from reconstruction_world import BACKBONE

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.errors import DatasetError
from naf_hub.reports import Report
from naf_hub_probing import boundaries
from naf_hub_probing.boundaries import Boundaries, BoundaryProtocol, read_pairs
from naf_hub_probing.boundary_scores import Drawn, matched, score_edges
from naf_hub_probing.edges import Edges, find_edges, structure


def step(angle: float, size: int = 40) -> torch.Tensor:
    """Two unit vectors on either side of a line through the centre, at ``angle`` degrees, slightly blurred."""
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    turn = np.deg2rad(angle)
    side = torch.sigmoid((x * np.cos(turn) + y * np.sin(turn)) / 0.7)
    return torch.stack([side, 1 - side])


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 120])
def test_an_edge_is_a_line_one_pixel_wide_and_in_its_place(angle):
    edges = find_edges(step(angle))
    strong = edges.strength > edges.strength.max() / 2
    points = edges.points[strong].double() - 20
    turn = np.deg2rad(angle)
    distance = points[:, 1] * np.cos(turn) + points[:, 0] * np.sin(turn)
    assert distance.abs().max() < 1.5
    length = 40 / max(abs(np.cos(turn)), abs(np.sin(turn)))
    assert 0.95 * 40 <= len(points) <= 1.2 * length  # where it runs aslant, some steps have two pixels


def test_channels_are_summed_and_lengths_do_not_count():
    features = torch.rand(40, 12, 14) + 0.1
    scaled = features * (torch.rand(12, 14) + 0.5)
    for one, other in zip(structure(features, True), structure(scaled, True), strict=True):
        torch.testing.assert_close(one, other)
    unit = F.normalize(features, dim=0)
    dx = (
        F.pad(unit[None], (1, 1, 0, 0), mode="replicate")[0, :, :, 2:]
        - F.pad(unit[None], (1, 1, 0, 0), mode="replicate")[0, :, :, :-2]
    ) / 2
    torch.testing.assert_close(structure(features, True)[0], dx.square().sum(0))
    assert structure(features, False)[0].mean() > structure(unit, False)[0].mean()


def lines(*columns: int, strength: float = 1.0, size: int = 40) -> Edges:
    points = torch.tensor([(row, column) for column in columns for row in range(size)])
    return Edges(points, torch.full((len(points),), strength), (size, size))


def drawing(*columns: int, share: float = 1.0, size: int = 40) -> Drawn:
    picture = torch.zeros(size, size)
    picture[:, list(columns)] = share
    return Drawn.of(picture, 2.5 / (size * 2**0.5))


def test_scores_by_hand():
    perfect = score_edges([lines(10)], [drawing(12)])
    assert (perfect.average_precision, perfect.best_f) == (1.0, 1.0)
    missed = score_edges([lines(10)], [drawing(13)])
    assert (missed.best_f, missed.recall) == (0.0, 0.0)
    half = score_edges([lines(10)], [drawing(10, 30)])
    assert (half.precision, half.recall) == (1.0, 0.5)
    # Two lines cannot both be matched to one.
    double = score_edges([lines(10, 11)], [drawing(10)])
    assert (double.precision, double.recall) == (0.5, 1.0)
    # A line that few drew is worth as little recall.
    picture = torch.zeros(40, 40)
    picture[:, 10], picture[:, 30] = 0.8, 0.2
    assert score_edges([lines(10)], [Drawn.of(picture, 0.03)]).recall == pytest.approx(0.8)


def test_strong_edges_first_is_what_average_precision_rewards():
    right, wrong = lines(10, strength=2.0), lines(30)
    both = Edges(
        torch.cat([right.points, wrong.points]), torch.cat([right.strength, wrong.strength]), (40, 40)
    )
    swapped = Edges(both.points, both.strength.flip(0), (40, 40))
    good, bad = (score_edges([edges], [drawing(10)]) for edges in (both, swapped))
    assert good.average_precision > 0.95
    assert good.average_precision > bad.average_precision + 0.3


def test_matching_is_the_largest_there_is():
    """The greedy choice (0 with 0) would leave edge 1 without partner."""
    assert matched(np.array([[0, 0, 1], [0, 1, 0]]), 2, 2) == 2
    assert matched(np.zeros((2, 0), dtype=np.int64), 3, 3) == 0


@pytest.fixture
def data(tmp_path: Path, install_plugin) -> Path:
    """Grey discs on cells that do not fit them, with their outlines drawn."""
    install_plugin("tiny-plugin", BACKBONE)
    for part in ("images", "boundaries"):
        (tmp_path / part).mkdir()
    y, x = np.mgrid[:72, :90]
    for number in range(3):
        inside = (y - 30 - 5 * number) ** 2 + (x - 40) ** 2 < 20**2
        pixels = np.where(inside[..., None], [200, 90, 40], [40, 80, 160]).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        kernel = [np.roll(inside, shift, axis) for shift in (-1, 1) for axis in (0, 1)]
        outline = inside & ~np.logical_and.reduce(kernel)
        Image.fromarray((outline * 255).astype(np.uint8)).save(tmp_path / "boundaries" / f"{number}.png")
    return tmp_path


def command_on(data, *more: str) -> list[str]:
    return ["eval", "boundaries", "--backbone", "tiny_backbone", "--data", str(data), *more]


def test_a_tolerance_in_pixels_is_refused(data):
    result = CliRunner().invoke(cli, command_on(data, "--upsampler", "bilinear", "--tolerance", "5"))
    assert result.exit_code != 0
    assert "tolerance = 5: is a share of the picture's diagonal" in result.stderr
    with pytest.raises(ValueError, match=r"must be below 0\.1; BSDS500 has 0\.0075"):
        BoundaryProtocol.read({"tolerance": 0.1})


def test_guidance_finds_the_outline_and_a_grey_picture_does_not(data):
    command = command_on(data, "--tolerance", "0.02")
    names = ["--upsampler", "bilinear", "--upsampler", "joint_bilateral", "--control", "grey"]
    result = CliRunner().invoke(cli, [*command, *names, "--json"])
    assert result.exit_code == 0, result.output
    report = Report.from_json(result.stdout)
    found = {row.label: row.values["average_precision"] for row in report.rows}
    assert list(found) == ["bilinear", "joint_bilateral", "joint_bilateral (grey)", "image"]
    assert found["joint_bilateral"] > max(found["bilinear"], found["joint_bilateral (grey)"]) + 5
    assert found["image"] > 90
    assert report.data["images"] == 3


def test_what_cannot_be_read_is_skipped_and_what_does_not_fit_is_one_line(data, monkeypatch):
    (data / "images" / "1.png").write_bytes(b"no picture")
    naf = naf_hub.load("bilinear")
    report = Boundaries().evaluate(naf, data, backbone="tiny_backbone", progress=False)
    assert report.data["images"] == 2
    assert list(report.data["skipped"]) == [str(data / "images" / "1.png")]
    command = command_on(data, "--upsampler", "nearest")
    Image.new("RGB", (9, 9)).save(data / "images" / "undrawn.png")
    told = CliRunner().invoke(cli, command).stderr
    assert told.count("1.png") == 1, "skipped, and named once"
    assert f"naf-hub: skipped: {data / 'images' / '1.png'}" in told
    assert "naf-hub: 1 picture without a drawing left out\n" in told
    Image.new("L", (9, 9)).save(data / "boundaries" / "2.png")
    with (
        monkeypatch.context() as patched,
        pytest.raises(
            DatasetError,
            match=r"2\.png has sides of 9 and 9 pixels, its picture .*2\.png of 72 and 90: not the same size",
        ),
    ):
        patched.setattr(boundaries, "read_image", None)  # told before any picture is read
        Boundaries().evaluate(naf, data, backbone="tiny_backbone", progress=False)
    Image.new("L", (72, 90)).save(data / "boundaries" / "2.png")  # turned
    with pytest.raises(DatasetError, match=r"is 90x72 pixels, its picture .* is 72x90"):
        Boundaries().evaluate(naf, data, backbone="tiny_backbone", progress=False)
    for path in (data / "boundaries").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"has a drawing of its name; expected DATA/images.*https:"):
        Boundaries().evaluate(naf, data, backbone="tiny_backbone", progress=False)
    with pytest.raises(DatasetError, match="no folder"):
        Boundaries().evaluate(naf, data / "images", backbone="tiny_backbone", progress=False)
    for settings, words in (
        ({"blur": 1}, "unknown key 'blur'; keys: tolerance, sigma, limit"),
        ({"sigma": "wide"}, "sigma = 'wide': must be a number"),
        ({"limit": 1.5}, "limit = 1.5: must be a whole number"),
    ):
        with pytest.raises(ValueError, match=words):
            Boundaries().evaluate(naf, data, settings, backbone="tiny_backbone")


def test_an_interrupted_evaluation_goes_on(data, tmp_path):
    def evaluate(models, out):
        return Boundaries().evaluate(
            models, data, {"tolerance": 0.02}, backbone="tiny_backbone", out=out, progress=False
        )

    check_going_on(evaluate, tmp_path / "kept")


def test_kept_edges_serve_another_tolerance(data, tmp_path):
    def evaluate(tolerance, model, out=None):
        settings = {"tolerance": tolerance}
        (row, _) = (
            Boundaries()
            .evaluate({"a": model}, data, settings, backbone="tiny_backbone", out=out, progress=False)
            .rows
        )
        return row.values

    evaluate(0.02, counted([]), tmp_path / "kept")
    assert evaluate(0.05, counted([], 0), tmp_path / "kept") == evaluate(0.05, counted([]))


def test_edges_survive_a_file():
    edges = find_edges(torch.rand(5, 9, 12))
    read = Edges.from_plain(json.loads(json.dumps(edges.to_plain())))
    assert read.size == edges.size == (9, 12)
    assert torch.equal(read.points, edges.points)
    assert torch.equal(read.strength, edges.strength)
    none = Edges(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0), (3, 4))
    assert Edges.from_plain(none.to_plain()).points.shape == (0, 2)


def test_drawings_are_read_as_photos_are(tmp_path):
    """Turned as EXIF says, and of any depth."""
    shares = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "photo.png", exif=turned)
    Image.fromarray((shares * 255).round().astype(np.uint8)).save(tmp_path / "8.png", exif=turned)
    Image.fromarray((shares * 65535).round().astype(np.uint16)).save(tmp_path / "16.png", exif=turned)
    for name in ("8.png", "16.png"):
        ((_, image, found),) = read_pairs([(tmp_path / "photo.png", tmp_path / name)], skipped := {})
        assert not skipped
        assert image.shape == (3, 8, 6)
        np.testing.assert_allclose(found, np.rot90(shares, -1), atol=0.002)
