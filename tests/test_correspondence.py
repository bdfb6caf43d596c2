"""Points found in another picture by nearest features: matching, PCK, SPair-71k and homographies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from interrupted_evaluation import check_going_on
from PIL import Image
from reconstruction_world import BACKBONE
from safetensors import safe_open
from safetensors.torch import load_file

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.errors import DatasetError, ImageError
from naf_hub.reports import Report
from naf_hub_correspondence import matching, semantic
from naf_hub_correspondence.homographies import centres, draw_homography, lie_inside, move, show
from naf_hub_correspondence.homography import HomographyCorrespondence, HomographyProtocol, WarpedPair
from naf_hub_correspondence.matching import find_nearest, surest
from naf_hub_correspondence.pck import LIMITS, Tally, correct_plus, distances
from naf_hub_correspondence.semantic import GRID, SemanticCorrespondence
from naf_hub_correspondence.spair import find_spair
from naf_hub_correspondence.squares import Square

COLOURS = {0: (220, 30, 30), 1: (30, 220, 30), 2: (30, 30, 220), 3: (220, 220, 30)}


@pytest.mark.parametrize(("case", "count"), [("square", 30), ("rect", 200)])
def test_the_surest_matches_are_those_of_the_published_kit(goldens, case, count):
    known = load_file(goldens / "correspondence_geometric.safetensors")
    known = {name.removeprefix(f"{case}/"): value for name, value in known.items()}
    shown = []
    for number in "01":
        xyz = known[f"in/xyz_grid_{number}"]
        features = F.interpolate(known[f"in/feat_{number}"][None], xyz.shape[1:], mode="bicubic")[0]
        seen = (xyz[2] > 0).flatten()
        shown.append((features.flatten(1)[:, seen], xyz.flatten(1)[:, seen].T))
    (vectors, source), (offered, target) = shown
    nearest = find_nearest(vectors, offered)
    kept = surest(nearest, count)
    torch.testing.assert_close(nearest.weights[kept], known["out/weight"], atol=1e-5, rtol=0)
    assert torch.equal(source[kept], known["out/xyz0"])
    assert torch.equal(target[nearest.cells[kept]], known["out/xyz1"])


def test_points_and_scores_are_those_of_the_published_kit(goldens):
    file = goldens / "correspondence_spair.safetensors"
    known = load_file(file)
    with safe_open(file, "pt") as opened:
        meta = json.loads(opened.metadata()["meta"])
    tallies, plus = ({limit: Tally() for limit in LIMITS} for _ in range(2))
    for number, images in enumerate(meta["pairs"]):
        source, target = (
            {k.split("/")[1]: v for k, v in known.items() if k.startswith(f"im{image}/")} for image in images
        )
        here, there = (Square(*image["size_wh"].flip(0).tolist()) for image in (source, target))
        vectors, offered = (image["features_hwc"].permute(2, 0, 1) for image in (source, target))
        x, y = here.cells(source["kp_xy"], 12).T
        found = there.pixels(find_nearest(vectors[:, y, x], offered.flatten(1)).cells, 12)
        assert torch.equal(found, known[f"pair{number}/pred_xy"])
        common = known[f"pair{number}/common_ids"]
        found, truth = (
            points[torch.isin(ids, common)]
            for ids, points in ((source["kp_ids"], found), (target["kp_ids"], target["kp_xy"]))
        )
        for limit in LIMITS:
            reach = limit * known[f"pair{number}/threshold"].item()
            tallies[limit].add("all", distances(found, truth) <= reach)
            plus[limit].add("all", correct_plus(found, truth, reach))
            for kind, value in (
                ("", distances(found, truth) <= reach),
                ("plus_", correct_plus(found, truth, reach)),
            ):
                assert torch.equal(value, known[f"pair{number}/correct_{kind}{limit}"].bool())
    for case in ("direct0", "direct1"):
        found, truth = known[f"{case}/pred_xy"], known[f"{case}/gt_xy"]
        for limit in LIMITS:
            right = correct_plus(found, truth, limit * known[f"{case}/threshold"].item())
            assert torch.equal(right, known[f"{case}/correct_plus_{limit}"].bool())
    for found, kind in ((tallies, "pck"), (plus, "pck_plus")):
        for limit, tally in found.items():
            assert tally.per_point == pytest.approx(100 * meta[f"{kind}_per_point"][str(limit)])
            assert tally.per_image == pytest.approx(meta[f"{kind}_per_image"][f"acc_{limit}_mean"])


def test_the_three_means_differ_as_they_should():
    tally = Tally()
    tally.add("cat", torch.tensor([True, True]))
    tally.add("cat", torch.tensor([False, False, False, False]))
    tally.add("dog", torch.tensor([True]))
    tally.add("dog", torch.tensor([], dtype=torch.bool))
    assert tally.per_category == pytest.approx(100 * (2 / 6 + 1) / 2)
    assert tally.per_point == pytest.approx(100 * 3 / 7)
    assert tally.per_image == pytest.approx(100 * 2 / 3)


def test_pieces_change_nothing_and_of_equal_cells_the_first_is_taken(monkeypatch):
    vectors, offered = torch.randn(6, 11), torch.randn(6, 20)
    offered[:, 15] = offered[:, 4]
    vectors[:, 7] = 3 * offered[:, 4]
    whole = find_nearest(vectors, offered)
    assert whole.cells[7] == 4
    assert whole.weights[7] == 0
    monkeypatch.setattr(matching, "working_memory", lambda *_: 2 * 20 * 4 * 3)
    pieces = find_nearest(vectors, offered)
    assert torch.equal(pieces.cells, whole.cells)
    torch.testing.assert_close(pieces.weights, whole.weights)


def test_keypoints_at_the_far_border_stay_on_the_map():
    square = Square(30, 41)
    assert square.padding == (0, 5)
    assert square.cells(torch.tensor([[41, 30], [0, 0]]), 8).tolist() == [[7, 6], [0, 0]]
    padded = square.pad(torch.ones(3, 30, 41), 41)  # 40 rows, squashed into 41
    assert padded.shape == (3, 41, 41)
    assert padded[0, :5].max() < 0.5 < padded[0, 6:35].min()


def test_a_photo_under_a_homography_shows_each_point_where_it_is_said_to_lie():
    size = 64
    matrix = draw_homography("0/a.png", size)
    assert torch.equal(matrix, draw_homography("0/a.png", size))
    assert not torch.equal(matrix, draw_homography("1/a.png", size))
    x, y = (centres(size, size) / size).T.view(2, size, size)
    shown = show(torch.stack([x, y, torch.ones_like(x)]).float(), matrix)
    places = move(centres(size, size), matrix)
    inner = lie_inside(places - 2, size - 4)
    assert inner.float().mean() > 0.3
    colours = F.grid_sample(
        shown[None], (2 * places[inner] / size - 1).float()[None, None], align_corners=False
    )[0, :, 0].T
    full = colours[:, 2] > 0.999  # beside the black
    wanted = centres(size, size)[inner] / size
    torch.testing.assert_close(colours[full, :2].double(), wanted[full], atol=2e-3, rtol=0)
    torch.testing.assert_close(draw_homography("x", size, 0.0), torch.eye(3, dtype=torch.float64))
    behind = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 1]], dtype=torch.float64)
    assert torch.isinf(move(torch.tensor([[2.0, 3.0]]), behind)).all()


def draw_photo(path: Path, size: tuple[int, int], places: dict[int, tuple[int, int]]) -> None:
    """Grey, with a spot at each place (x, y), of a colour that is purest in its middle."""
    y, x = np.mgrid[: size[0], : size[1]]
    pixels = np.full((*size, 3), 128.0)
    for number, (column, row) in places.items():
        share = np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * 10**2))[..., None]
        pixels += share * (np.array(COLOURS[number]) - 128)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def spair(tmp_path: Path, install_plugin) -> Path:
    """Two categories of two photos, in the layout of SPair-71k."""
    install_plugin("tiny-plugin", BACKBONE)
    root = tmp_path / "SPair-71k"
    (root / "PairAnnotation" / "test").mkdir(parents=True)
    photos = {
        "one": ((160, 123), {0: (28, 28), 1: (92, 44), 2: (36, 124), 3: (100, 108)}),
        "two": ((127, 180), {0: (148, 28), 1: (28, 92), 2: (84, 60), 3: (148, 100)}),
    }
    for category in ("cat", "dog"):
        for name, (size, places) in photos.items():
            draw_photo(root / "JPEGImages" / category / f"{name}.png", size, places)
            points = {str(number): list(places.get(number, ())) or None for number in range(30)}
            if category == "dog":
                points["0"] = None if name == "two" else points["0"]
            data = {"kps": points, "bndbox": [4, 4, size[1] - 4, size[0] - 4]}
            data |= {"image_height": size[0], "image_width": size[1]}
            path = root / "ImageAnnotation" / category / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(data))
        for number, (source, target) in enumerate([("one", "two"), ("two", "one")]):
            pair = {"src_imname": f"{source}.png", "trg_imname": f"{target}.png", "category": category}
            file = root / "PairAnnotation" / "test" / f"{number:06}-{source}-{target}:{category}.json"
            file.write_text(json.dumps(pair | {"src_kps": "ignored"}))
    return root


def test_spots_of_their_colour_are_found_again(spair):
    command = ["eval", "correspondence", "--backbone", "tiny_backbone", "--data", str(spair), "--size", "160"]
    result = CliRunner().invoke(cli, [*command, "--upsampler", "bilinear", "--json"])
    assert result.exit_code == 0, result.output
    report = Report.from_json(result.stdout)
    assert [row.label for row in report.rows] == [GRID, "bilinear"]
    for row in report.rows:
        assert row.values["pck_0.1"] == row.values["point_0.1"] == row.values["image_0.1"] == 100
        assert row.extras["pck_plus"]["0.1"] == 100
        assert set(row.extras["categories"]["0.1"]) == {"cat", "dog"}
    assert report.data["pairs"] == 4
    assert "100.00" in CliRunner().invoke(cli, [*command, "--upsampler", "nearest", "--limit", "1"]).output


def test_interrupted_and_continued_equals_straight(spair, tmp_path):
    def evaluate(models, out):
        return SemanticCorrespondence().evaluate(
            models, spair, {"size": 32}, backbone="tiny_backbone", out=out, progress=False
        )

    check_going_on(evaluate, tmp_path / "out")


def test_pairs_of_a_broken_photo_are_left_out_and_told(spair):
    """Cut short, so that its head still tells its size."""
    photo = spair / "JPEGImages" / "cat" / "one.png"
    photo.write_bytes(photo.read_bytes()[:-200])
    command = ["eval", "correspondence", "--backbone", "tiny_backbone", "--data", str(spair), "--size", "32"]
    result = CliRunner().invoke(cli, [*command, "--upsampler", "bilinear", "--upsampler", "nearest"])
    assert result.exit_code == 0, result.output
    assert result.stderr.count("one.png") == 1
    assert "2 pairs of 2 categories, 2 pairs skipped" in result.stdout
    for other in spair.glob("JPEGImages/*/*.png"):
        other.write_bytes(other.read_bytes()[:-200])
    result = CliRunner().invoke(cli, [*command, "--upsampler", "bilinear"])
    assert result.exit_code == 1
    assert "no pair of readable photos: " in result.stderr.splitlines()[-1]


def break_json(root: Path) -> None:
    (root / "ImageAnnotation" / "cat" / "one.json").write_text("{")


def drop_box(root: Path) -> None:
    path = root / "ImageAnnotation" / "cat" / "one.json"
    path.write_text(json.dumps({"kps": {"0": [1, 2]}, "image_width": 123, "image_height": 160}))


def drop_photo(root: Path) -> None:
    (root / "JPEGImages" / "dog" / "two.png").unlink()


def resize_photo(root: Path) -> None:
    Image.new("RGB", (20, 10)).save(root / "JPEGImages" / "cat" / "two.png")


def turn_photo(root: Path) -> None:
    Image.new("RGB", (127, 180)).save(root / "JPEGImages" / "cat" / "two.png")


def break_pair(root: Path) -> None:
    for path in (root / "PairAnnotation" / "test").iterdir():
        path.write_text("{}")


def drop_pairs(root: Path) -> None:
    for path in (root / "PairAnnotation" / "test").iterdir():
        path.unlink()


def hide_points(root: Path) -> None:
    for path in (root / "ImageAnnotation").rglob("two.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"kps": {"9": [1, 1]}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_json, r"one\.json cannot be read"),
        (drop_box, r"one\.json: needs kps, bndbox"),
        (drop_photo, r"no photo .*two\.png; expected DATA/JPEGImages"),
        (resize_photo, r"two\.png has sides of 10 and 20 pixels, its annotation says 127x180"),
        (turn_photo, r"two\.png is 180x127 pixels, its annotation says 127x180"),
        (break_pair, r"no 'src_imname' in it"),
        (drop_pairs, r"no pair in .*test; expected .*SPair-71k\.tar\.gz"),
        (hide_points, "has a keypoint that both photos show"),
    ],
)
def test_what_is_wrong_with_the_data_is_one_line(spair, damage, message):
    damage(spair)
    with pytest.raises(DatasetError, match=message) as caught:
        SemanticCorrespondence().evaluate("bilinear", spair, {"size": 32}, backbone="tiny_backbone")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [break_json, drop_photo, resize_photo])
def test_damage_is_told_before_any_photo_is_looked_at(spair, damage, monkeypatch):
    damage(spair)
    monkeypatch.setattr(semantic, "load_contenders", None)
    with pytest.raises(DatasetError, match=r"(one\.json|two\.png)"):
        SemanticCorrespondence().evaluate("bilinear", spair, {"size": 32}, backbone="tiny_backbone")
    (spair / "JPEGImages" / "cat" / "one.png").write_bytes(b"no picture")
    for path in (spair / "ImageAnnotation" / "cat").iterdir():
        path.write_text(json.dumps({"kps": {}, "bndbox": [0, 0, 1, 1], "image_height": 9, "image_width": 9}))
    with pytest.raises(ImageError, match=r"cat/one\.png: not an image file"):
        SemanticCorrespondence().evaluate("bilinear", spair, {"size": 32}, backbone="tiny_backbone")


def test_the_folder_above_is_the_data_set_too(spair):
    assert find_spair(spair) == spair == find_spair(spair.parent)


def test_a_missing_layout_says_what_is_expected_and_where_to_get_it(tmp_path):
    with pytest.raises(DatasetError, match=r"no folder .*JPEGImages; expected .*http.*eval homography"):
        SemanticCorrespondence().evaluate("bilinear", tmp_path, backbone="pico")
    for task in (SemanticCorrespondence(), HomographyCorrespondence()):
        with pytest.raises(ValueError, match="give backbone="):
            task.evaluate("bilinear", tmp_path)


@pytest.fixture
def photos(tmp_path: Path, install_plugin) -> Path:
    """Two photos of random colours, a cell of the backbone each."""
    install_plugin("tiny-plugin", BACKBONE)
    draw = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(2):
        cells = draw.integers(0, 256, (8, 9, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(cells).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_points_are_found_again(photos):
    command = ["eval", "homography", "--backbone", "tiny_backbone", "--data", str(photos), "--size", "64"]
    command += ["--upsampler", "bilinear", "--json"]
    still = CliRunner().invoke(cli, [*command, "--output-size", "8", "--strength", "0", "--keep", "32"])
    assert still.exit_code == 0, still.output
    report = Report.from_json(still.stdout)
    assert set(report["bilinear"].values.values()) == {100}
    assert report.data["points"] == 2 * 64
    assert report.seeds == (0,)
    # More cells than there are to keep: the missing ones count as wrong.
    fewer = HomographyCorrespondence().evaluate(
        "bilinear",
        photos,
        {"size": 64, "output_size": 8, "strength": 0, "keep": 128},
        backbone="tiny_backbone",
    )
    assert fewer["bilinear"].values["kept_5"] == 50
    (photos / "0.png").write_bytes(b"no picture")
    moved = CliRunner().invoke(cli, [*command, "--output-size", "32", "--points", "40", "--control", "grey"])
    report = Report.from_json(moved.stdout)
    assert moved.stderr.count("0.png") == 1, "skipped, and named once"
    assert report["bilinear"].values["kept_5"] is None
    assert 5 < report["bilinear"].values["point_0.1"] <= 100
    assert report.data["points"] == 40
    (photos / "1.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="no readable photo"):
        HomographyCorrespondence().evaluate("bilinear", photos, backbone="tiny_backbone")


def test_random_weights_and_controls_are_rows(photos):
    command = ["eval", "homography", "--backbone", "tiny_backbone", "--data", str(photos), "--size", "64x64"]
    command += [
        "--upsampler",
        "naf=none",
        "--upsampler",
        "bilinear",
        "--control",
        "grey",
        "--control",
        "other",
    ]
    done = CliRunner().invoke(cli, [*command, "--output-size", "16", "--points", "9", "--json"])
    assert done.exit_code == 0, done.output
    report = Report.from_json(done.stdout)
    assert [row.label for row in report.rows] == [
        "naf=none",
        "naf=none (grey)",
        "naf=none (other)",
        "bilinear",
    ]
    assert report.protocol["size"] == 64


def test_an_interrupted_evaluation_goes_on(photos, tmp_path):
    def evaluate(models, out):
        return HomographyCorrespondence().evaluate(
            models, photos, {"size": 64, "output_size": 16}, backbone="tiny_backbone", out=out, progress=False
        )

    check_going_on(evaluate, tmp_path / "out")


def test_some_points_are_among_all_and_scored_alike(photos):
    """Drawing points changes which are asked for, not where they are found."""
    model = naf_hub.load("joint_bilateral")
    image = photos / "1.png"
    whole, some = (
        WarpedPair.read(image, HomographyProtocol(size=64, output_size=16, points=points))
        for points in (0, 9)
    )
    images = [picture[None] for picture in (whole.source, whole.target)]
    features = [F.avg_pool2d(picture, 8) for picture in images]
    missed, _ = whole.match(model, images, features)
    places = [whole.asked.tolist().index(cell) for cell in some.asked.tolist()]
    assert len(places) == 9
    torch.testing.assert_close(some.match(model, images, features)[0], missed[places])


SMALL = "photos of 7x7 pixels are smaller than the backbone's patch of 8"


def test_photos_smaller_than_a_patch_are_refused(photos):
    with pytest.raises(ValueError, match=SMALL):
        HomographyCorrespondence().evaluate("bilinear", photos, {"size": 7}, backbone="tiny_backbone")


def test_squares_smaller_than_a_patch_are_refused(spair):
    with pytest.raises(ValueError, match=SMALL):
        SemanticCorrespondence().evaluate("bilinear", spair, {"size": 7}, backbone="tiny_backbone")


@pytest.mark.parametrize(
    "settings", [{"strength": 2}, {"output_size": 0}, {"points": -1}, {"limit": -2}], ids=str
)
def test_settings_that_make_no_sense(settings, photos):
    with pytest.raises(ValueError, match=r"must be|must not"):
        HomographyCorrespondence().evaluate("bilinear", photos, settings, backbone="tiny_backbone")
