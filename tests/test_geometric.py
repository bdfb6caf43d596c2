"""Points of objects found again from another side: NAVI's layout and pairs, points from depth, errors in space."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from interrupted_evaluation import check_going_on
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from naf_hub import Upsampler
from naf_hub.commands.main import cli
from naf_hub.errors import DatasetError, ImageError
from naf_hub.reports import Report
from naf_hub_correspondence.geometric import GeometricCorrespondence, Seen, measure
from naf_hub_correspondence.matching import find_nearest, surest
from naf_hub_correspondence.navi import draw_pairs, find_views
from naf_hub_correspondence.point_maps import (
    back_project,
    bounding_square,
    middle_square,
    project,
    read_depth,
    read_point_map,
)
from naf_hub_correspondence.poses import Pose, angles
from naf_hub_correspondence.recalls import (
    ANGLES,
    CENTIMETRES,
    PIXELS,
    binned_means,
    point_errors,
    shares_below,
)

# Its features of a pixel are the object's point that the pixel's colour tells; of two points they are never parallel.
BACKBONE = """
from naf_hub import BackboneRecord, hookimpl

@hookimpl
def register_backbones(register):
    register(BackboneRecord(name="all_knowing", summary="The point that a colour tells.", learned=False,
                            target="knowing_plugin:load_class", embed_dim=4, patch_size=1))

def __getattr__(name):
    if name == "load_class":
        import torch
        from naf_hub import Backbone

        class Knowing(Backbone):
            def __init__(self):
                super().__init__(4, 1)

            def extract(self, image):
                return torch.cat([2 * image - 1, torch.ones_like(image[:, :1])], dim=1)

        globals()["load_class"] = Knowing
        return Knowing
    raise AttributeError(name)
"""
SMALL = {"size": 64, "output_size": 32, "keep": 100, "instance_stride": 1}
HALF = 0.06
"""Half the side of the plate that all photos show, in metres."""
PHOTO, FOCAL = (120, 160), 300.0
# Degrees about the vertical axis, about the line of sight, and where the plate's middle lies, in millimetres.
SIDES = {"000": (-20, 0, (0, 0, 500)), "001": (25, 15, (20, -10, 540)), "002": (5, -40, (-15, 5, 470))}


def quaternion(turn: float, roll: float) -> list[float]:
    """(w, x, y, z) of a turn about y and then one about z in degrees, twice as long as a unit."""
    y, z = np.deg2rad([turn, roll]) / 2
    return [
        2 * float(v)
        for v in (np.cos(z) * np.cos(y), -np.sin(z) * np.sin(y), np.cos(z) * np.sin(y), np.sin(z) * np.cos(y))
    ]


def render(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 colours that tell the point of the plate, and (H, W) uint16 depths as NAVI stores them."""
    (height, width), rotation, shift = PHOTO, pose.rotation.numpy(), pose.translation.numpy()
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(u - width / 2) / FOCAL, (v - height / 2) / FOCAL, np.ones(PHOTO)], axis=-1)
    depth = (shift @ rotation)[2] / (rays @ rotation)[..., 2]
    points = (rays * depth[..., None] - shift) @ rotation
    shown = (np.abs(points[..., :2]) <= HALF).all(-1)[..., None]
    colours = np.where(shown, np.round((points / HALF + 1) / 2 * 255), 0).astype(np.uint8)
    return colours, np.where(shown[..., 0], np.round(0.01 * 65535 / depth), 0).astype(np.uint16)


def photograph(scene: Path, sides: Mapping[str, tuple[float, float, Sequence[float]]]) -> None:
    """A scene of NAVI; its photos are PNGs by content, so that colours stay as they are."""
    told = []
    for part in ("images", "depth"):
        (scene / part).mkdir(parents=True)
    for name, (turn, roll, shift) in sides.items():
        camera = {
            "q": quaternion(turn, roll),
            "t": list(shift),
            "focal_length": FOCAL,
            "camera_model": "hole",
        }
        colours, depth = render(Pose.of(camera["q"], [value / 1000 for value in shift]))
        Image.fromarray(colours).save(scene / "images" / f"{name}.jpg", format="PNG")
        Image.fromarray(depth).save(scene / "depth" / f"{name}.png")
        told.append({"object_id": scene.parent.name, "camera": camera, "filename": f"{name}.jpg"})
        told[-1] |= {"image_size": list(PHOTO), "scene_name": scene.name, "split": "train", "occluded": False}
    (scene / "annotations.json").write_text(json.dumps(told[::-1]))


@pytest.fixture
def navi(tmp_path: Path, install_plugin) -> Path:
    """Three photos of a plate in NAVI's layout, and an object that is only in the wild."""
    install_plugin("knowing-plugin", BACKBONE)
    root = tmp_path / "navi_v1"
    photograph(root / "plate" / "wild_set", SIDES)
    (root / "plate" / "multiview_00_pixel_5").mkdir()
    photograph(root / "alone" / "wild_set", {"000": SIDES["000"]})
    return root


class Exact(Upsampler):
    """The feature of the pixel whose point is the cell's."""

    guided = False

    def upsample(self, image, features, output_size):
        return F.interpolate(features, output_size, mode="nearest")


class Shuffled(Exact):
    """The same features, each at some other cell."""

    def upsample(self, image, features, output_size):
        maps = super().upsample(image, features, output_size).flatten(2)
        order = torch.randperm(maps.shape[2], generator=torch.Generator().manual_seed(0))
        return maps[:, :, order].unflatten(2, output_size)


def evaluate(root: Path, models=None, **settings) -> Report:
    return GeometricCorrespondence().evaluate(
        models or {"exact": Exact()}, root, SMALL | settings, backbone="all_knowing", progress=False
    )


def recall(report: Report, label: str, name: str) -> float:
    value = report[label].values[f"recall_{name}"]
    assert value is not None
    return value


@pytest.mark.parametrize("case", ["square", "rect"])
def test_errors_and_recalls_are_those_of_the_published_kit(goldens, case):
    file = goldens / "correspondence_geometric.safetensors"
    known = {name.removeprefix(f"{case}/"): value for name, value in load_file(file).items()}
    with safe_open(file, "pt") as opened:
        meta = json.loads(opened.metadata()["meta"])["cases"][case]
    rigid, focal = known["in/Rt"].double(), known["in/K"][0, 0].item()
    pose = Pose(rigid[:, :3], rigid[:, 3])
    assert pose.angle == pytest.approx(meta["angle_deg"], abs=1e-3)
    metres, pixels = point_errors(known["out/xyz0"], known["out/xyz1"], pose, focal)
    torch.testing.assert_close(metres.float(), known["out/err3d"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(pixels.float(), known["out/err2d"], atol=1e-4, rtol=1e-5)
    expected = [meta["recall3d"][str(limit / 100)] for limit in CENTIMETRES]
    expected += [meta["recall_px"][str(limit)] for limit in PIXELS]
    assert shares_below(metres, pixels, meta["num_corr"]) == pytest.approx(expected)
    source, target = (see(known[f"in/xyz_grid_{number}"], focal) for number in "01")
    asked, offered = (
        F.interpolate(known[f"in/feat_{n}"][None], known[f"in/xyz_grid_{n}"].shape[1:], mode="bicubic")[0]
        for n in "01"
    )
    assert measure(source, target, asked, offered, pose, meta["num_corr"]) == pytest.approx(expected)
    # Ten times as many are wanted as the kit kept: all that there are count, and what is missing is wrong.
    many = measure(source, target, asked, offered, pose, 10 * meta["num_corr"])
    assert all(more <= len(source.cells) / meta["num_corr"] * 10 for more in many)
    kept = surest(
        find_nearest(*(maps.flatten(1)[:, one.cells] for maps, one in ((asked, source), (offered, target)))),
        1,
    )
    width = asked.shape[-1]
    cell = source.cells[kept].item()
    assert [cell % width + 0.5, cell // width + 0.5] == known["out/uv0"][0].tolist()


def see(points: torch.Tensor, focal: float) -> Seen:
    """What a map of points (3, H, W) says of an object."""
    cells = (points[2] > 0).flatten().nonzero().flatten()
    return Seen(torch.empty(3, 1, 1), cells, points.flatten(1)[:, cells].T, focal)


def test_bins_of_angles_are_those_of_the_published_kit(goldens):
    known = load_file(goldens / "correspondence_geometric.safetensors")
    x, y = known["binned/x"].tolist(), known["binned/y"].tolist()
    assert binned_means(y, x, ANGLES) == pytest.approx(known["binned/out"].tolist())
    assert binned_means([1.0, 3.0, 5.0], [0, 30, 120], ANGLES) == [1, 3, None, None]


def test_a_pose_turns_as_its_quaternion_says_and_leads_from_camera_to_camera():
    quarter = Pose.of([3, 0, 0, 3], [0.1, 0, 0])
    moved = quarter.move(torch.tensor([[1.0, 0, 0], [0, 1, 2]]))
    torch.testing.assert_close(moved, torch.tensor([[0.1, 1, 0], [-0.9, 0, 2]], dtype=torch.float64))
    assert quarter.angle == pytest.approx(90)
    first, second = (Pose.of(quaternion(turn, roll), shift) for turn, roll, shift in list(SIDES.values())[:2])
    points = torch.randn(5, 3)
    torch.testing.assert_close(first.to(second).move(first.move(points)), second.move(points))
    assert angles(torch.eye(3).expand(2, 3, 3)).tolist() == [0, 0]


def test_points_of_a_depth_map_project_to_the_centres_of_their_pixels():
    depth = torch.rand(6, 6) + 0.5
    points = back_project(depth, 9.0)
    torch.testing.assert_close(points[2], depth)
    pixels = (project(points.flatten(1).T, 9.0) + 3).view(6, 6, 2)
    along = torch.arange(6) + 0.5
    torch.testing.assert_close(pixels[..., 0], along.expand(6, 6))
    torch.testing.assert_close(pixels[..., 1], along[:, None].expand(6, 6))


@pytest.mark.parametrize(
    ("rows", "columns", "square"),
    [
        ((2, 8), (4, 6), (2, 2, 6)),  # about the middle
        ((0, 9), (0, 9), (0, 0, 9)),
        ((2, 8), (0, 1), (2, 0, 6)),  # begins with the map
        ((2, 8), (7, 9), (2, 3, 6)),  # ends with the object
        ((5, 5), (9, 9), (5, 9, 1)),
    ],
)
def test_the_square_around_an_object_stays_on_the_map(rows, columns, square):
    known = torch.zeros(10, 10, dtype=torch.bool)
    known[rows[0], columns[0]] = known[rows[1], columns[1]] = True
    assert bounding_square(known) == square


def test_depth_files_are_read_in_metres(tmp_path):
    path = tmp_path / "depth.png"
    Image.fromarray(np.array([[0, 65535, 13107, 1311]], dtype=np.uint16)).save(path)
    torch.testing.assert_close(read_depth(path), torch.tensor([[0, 0.01, 0.05, 655.35 / 1311]]))
    Image.new("L", (4, 4)).save(path)
    with pytest.raises(
        DatasetError, match=r"depth\.png: depths must be a grey picture of 16 bits, not L of uint8"
    ):
        read_depth(path)


def test_the_middle_is_cut_out_of_the_nearest_pixels():
    wide = torch.arange(12.0).expand(1, 4, 12)
    assert middle_square(wide, 2)[0, 0].tolist() == [4, 6]
    assert middle_square(wide.mT, 4)[0, :, 0].tolist() == [4, 5, 6, 7]


def test_photo_and_points_show_the_same(navi):
    """The colour of each pixel tells the point that the depth puts there."""
    for view in find_views(navi)["plate"]:
        shown = read_point_map(view, 120)  # where nothing is made smaller
        known = shown.points[2] > 0
        assert known.float().mean() > 0.4
        there = view.pose.move(((2 * shown.image[:, known] - 1) * HALF).T)
        assert (there - shown.points[:, known].T).norm(dim=1).max() < 1e-3
        pixels = project(shown.points[:, known].T, shown.focal)
        steps = pixels - pixels[0]
        cells = known.nonzero().flip(1)
        torch.testing.assert_close(steps, (cells - cells[0]).float(), atol=1.5, rtol=0)


def test_features_that_know_the_point_find_it_and_others_do_not(navi):
    report = evaluate(navi, {"exact": Exact(), "shuffled": Shuffled()})
    exact = report["exact"].values
    assert exact["recall_2cm_30_60"] == 100
    assert exact["recall_2cm_60_90"] is None, "no such pair"
    assert {value for name, value in exact.items() if name != "recall_5px"} == {100, None}
    assert recall(report, "exact", "5px") > 95
    assert recall(report, "shuffled", "2cm") < 30
    assert report.data["pairs"] == 3
    assert report.data["objects"] == 1
    assert report.seeds == (8,)
    fewer = recall(evaluate(navi, keep=10**4), "exact", "5cm")
    assert 0 < fewer < 10, "cells that are not there count as wrong"


def test_a_wrong_camera_is_noticed(navi):
    """Recall falls where a pose is read the other way round, so the test above says something about it."""
    path = navi / "plate" / "wild_set" / "annotations.json"
    told = json.loads(path.read_text())
    for photo in told:
        w, *rest = photo["camera"]["q"]
        photo["camera"]["q"] = [w, *(-value for value in rest)]
    path.write_text(json.dumps(told))
    assert recall(evaluate(navi), "exact", "2cm") < 50


def test_partners_are_drawn_by_the_seed_among_the_near_enough(navi):
    turns = {f"{number:03}": (39 * number, 0, (0, 0, 500)) for number in range(5)} | {
        "005": (0, 0, (0, 9, 500))
    }
    photograph(navi / "fork" / "wild_set", turns)
    (navi / "fork" / "multiview-01-pixel_5").mkdir()
    things = find_views(navi)
    assert list(things) == ["fork", "plate"]
    assert [view.image.name for view in things["plate"]] == ["000.jpg", "001.jpg", "002.jpg"]
    pairs = draw_pairs(things, 8)
    assert pairs == draw_pairs(things, 8)
    assert len(pairs) == 9
    assert [source for source, _ in draw_pairs(things, 8, 4)] == [source for source, _ in pairs[::4]]
    assert draw_pairs(things, 8, 4) == pairs[::4]
    found = set()
    for seed in range(20):
        for source, target in draw_pairs(things, seed):
            assert target is not None
            assert source.thing == target.thing
            assert 1 < source.pose.to(target.pose).angle <= 120
            found.add((source.image, target.image))
    assert len(found) == 6 + sum(
        1 for a in (0, 1, 2, 3, 4, 0) for b in (0, 1, 2, 3, 4, 0) if 0 < abs(a - b) <= 3
    )
    # As torch draws them, one after the other from the first photo on.
    generator = torch.Generator().manual_seed(8)
    chances = torch.tensor([0.0, 1, 1, 1, 0, 0])
    assert pairs[0][1] == things["fork"][int(torch.multinomial(chances, 1, generator=generator))]


def test_a_photo_without_a_partner_is_left_out_and_told(navi):
    photograph(navi / "fork" / "wild_set", {"000": (0, 0, (0, 0, 500)), "001": (150, 0, (0, 0, 500))})
    (navi / "fork" / "multiview").mkdir()
    report = evaluate(navi)
    assert report.data["pairs"] == 3
    assert all(
        "no other photo of its object within 120 degrees" in why for why in report.data["skipped"].values()
    )
    assert [Path(name).parts[-4:] for name in report.data["skipped"]] == [
        ("fork", "wild_set", "images", f"{name}.jpg") for name in ("000", "001")
    ]


COMMAND = [
    "eval",
    "geometric",
    "--backbone",
    "all_knowing",
    "--size",
    "64",
    "--output-size",
    "32",
    "--keep",
    "100",
]


def test_the_command_reports_and_goes_on(navi, tmp_path):
    command = [*COMMAND, "--upsampler", "bilinear", "--upsampler", "joint_bilateral", "--control", "grey"]
    command += [
        "--control",
        "other",
        "--data",
        str(navi.parent),
        "--instance-stride",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    first, again = (CliRunner().invoke(cli, [*command, "--json"]) for _ in range(2))
    assert first.exit_code == again.exit_code == 0, first.output + again.output
    report, same = Report.from_json(first.stdout), Report.from_json(again.stdout)
    labels = ["bilinear", "joint_bilateral", "joint_bilateral (grey)", "joint_bilateral (other)"]
    assert [row.label for row in report.rows] == labels
    assert [row.values for row in report.rows] == [row.values for row in same.rows]
    assert recall(report, "bilinear", "2cm") > 90
    assert report.data["pairs"] == 2
    assert report.protocol["instance_stride"] == 2
    table = CliRunner().invoke(cli, [*command, "--limit", "1"])
    assert "all_knowing: 1 pair of 1 object" in table.output
    assert "recall@2cm %" in table.output


def test_interrupted_and_continued_equals_straight(navi, tmp_path):
    def continued(models, out):
        return GeometricCorrespondence().evaluate(
            models, navi, SMALL, backbone="all_knowing", out=out, progress=False
        )

    check_going_on(continued, tmp_path / "out")
    # What was kept is not read again; what has changed since is.
    path = navi / "plate" / "wild_set" / "depth" / "001.png"
    path.write_bytes(path.read_bytes()[:-40])
    models = {"first": Exact(), "second": Exact()}
    report = continued(models, tmp_path / "out")
    assert report.data["pairs"] + len(report.data["skipped"]) == 3
    assert report.data["skipped"]


def break_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def turn_file(path: Path) -> None:
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, format="PNG")


def blacken(path: Path) -> None:
    Image.fromarray(np.zeros(PHOTO, dtype=np.uint16)).save(path)


@pytest.mark.parametrize(
    ("part", "damage", "message"),
    [
        ("depth/001.png", break_file, r"001\.png: cannot be read as an image"),
        ("depth/001.png", Path.unlink, r"no such image: .*depth/001\.png"),
        ("depth/001.png", blacken, r"001\.png: no depth in the middle of the photo"),
        ("depth/001.png", turn_file, r"001\.png is 160x120 pixels, .*annotations\.json says: 120x160"),
        ("images/001.jpg", break_file, r"001\.jpg: cannot be read as an image"),
        ("images/001.jpg", Path.unlink, r"no such image: .*images/001\.jpg"),
        ("images/001.jpg", turn_file, r"001\.jpg is 160x120 pixels, .*annotations\.json says: 120x160"),
    ],
)
def test_a_broken_file_costs_its_pairs_alone(navi, part, damage, message):
    damage(navi / "plate" / "wild_set" / part)
    (navi / "plate" / "wild_set" / part).parent.mkdir(exist_ok=True)
    command = [*COMMAND, "--upsampler", "nearest", "--instance-stride", "1", "--data", str(navi)]
    # Of this seed one pair is without the photo 001.
    seed = next(
        seed
        for seed in range(99)
        if sum("001.jpg" in (a.image.name, b and b.image.name) for a, b in draw_pairs(find_views(navi), seed))
        == 2
    )
    result = CliRunner().invoke(cli, [*command, "--seed", str(seed), "--json"])
    assert result.exit_code == 0, result.output
    report = Report.from_json(result.stdout)
    assert report.data["pairs"] == 1
    assert len(report.data["skipped"]) == 2
    (line,) = (line for line in result.stderr.splitlines() if "001." in line)
    assert re.search(message, line)


def test_nothing_to_measure_is_one_line(navi):
    with pytest.raises(
        ImageError, match=r"no pair of usable .*\.png: shows the object in fewer than two cells"
    ):
        evaluate(navi, output_size=1)
    for path in navi.glob("plate/wild_set/depth/*"):
        blacken(path)
    result = CliRunner().invoke(cli, [*COMMAND, "--upsampler", "nearest", "--data", str(navi)])
    assert result.exit_code == 1
    assert "no pair of usable photos and depths: " in result.stderr.splitlines()[-1]


def edit(root: Path, **changes) -> None:
    """Change what is told of the first photo of the plate; ``None`` takes it out."""
    path = root / "plate" / "wild_set" / "annotations.json"
    told = json.loads(path.read_text())
    for key, value in changes.items():
        place = told[0]["camera"] if key in told[0]["camera"] else told[0]
        place[key] = value
        if value is None:
            del place[key]
    path.write_text(json.dumps(told))


WANTED = r"annotations\.json: photo 0 needs filename, image_size \(height, width\) and camera with q"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: edit(root, q=None), WANTED),
        (lambda root: edit(root, q=[0, 0, 0, 0]), WANTED),
        (lambda root: edit(root, t=[0, float("nan"), 0]), WANTED),
        (lambda root: edit(root, focal_length=0), WANTED),
        (lambda root: edit(root, image_size=[120]), WANTED),
        (lambda root: edit(root, filename=None), WANTED),
        (lambda root: (root / "plate" / "wild_set" / "annotations.json").write_text("{"), "cannot be read"),
        (lambda root: (root / "plate" / "wild_set" / "annotations.json").write_text("{}"), "no JSON list"),
        (lambda root: (root / "plate" / "wild_set" / "annotations.json").write_text("[]"), "no photo in"),
        (lambda root: (root / "plate" / "wild_set" / "annotations.json").unlink(), "cannot be read"),
        (
            lambda root: (root / "plate" / "multiview_00_pixel_5").rmdir(),
            r"no object .* has a folder multiview\*",
        ),
    ],
)
def test_what_is_wrong_with_the_data_is_one_line(navi, damage, message):
    damage(navi)
    with pytest.raises(DatasetError, match=message) as caught:
        evaluate(navi)
    assert "\n" not in str(caught.value)
    assert "https://github.com/google/navi" in str(caught.value)


def test_a_missing_layout_says_what_is_expected_and_where_to_get_it(tmp_path, install_plugin):
    install_plugin("knowing-plugin", BACKBONE)
    result = CliRunner().invoke(cli, [*COMMAND, "--upsampler", "nearest", "--data", str(tmp_path)])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    expected = r"no folder OBJECT/wild_set in .*; expected DATA/OBJECT/wild_set/ with images/\*\.jpg, depth/\*\.png and"
    assert re.search(expected + r" annotations\.json.*https://github\.com/google/navi.*eval homography", line)
    with pytest.raises(ValueError, match="geometric needs a backbone; give backbone="):
        GeometricCorrespondence().evaluate("nearest", tmp_path)


def test_files_that_the_kit_made_smaller_stand_for_the_whole_ones(navi):
    whole = evaluate(navi)["exact"].values
    scene = navi / "plate" / "wild_set"
    for path in [*scene.glob("images/*"), *scene.glob("depth/*")]:
        with Image.open(path) as opened:
            opened.resize((107, 80), Image.Resampling.NEAREST).save(
                path.with_name(f"downsampled_{path.name}"), format="PNG"
            )
    beside = find_views(navi)["plate"]
    for path in [*scene.glob("images/0*"), *scene.glob("depth/0*")]:
        path.unlink()
    views = find_views(navi)["plate"]
    assert [view.image.name for view in views] == [f"downsampled_{name}.jpg" for name in SIDES]
    assert [view.depth.name for view in views] == [f"downsampled_{name}.png" for name in SIDES]
    assert [view.depth for view in views] == [view.depth for view in beside]
    found = evaluate(navi)["exact"].values
    assert found["recall_2cm"] == whole["recall_2cm"] == 100


@pytest.mark.parametrize(
    "settings",
    [{"keep": 0}, {"output_size": 0}, {"instance_stride": 0}, {"limit": -1}, {"seed": -1}, {"seed": 2**64}],
    ids=str,
)
def test_settings_that_make_no_sense(settings, tmp_path):
    with pytest.raises(ValueError, match=r"must be|must not"):
        evaluate(tmp_path, **settings)


@pytest.mark.parametrize(
    "wrong", [["--keep", "0"], ["--instance-stride", "0"], ["--size", "32x48"], ["--seed", "-1"]]
)
def test_bad_options_are_bad_usage(wrong, tmp_path):
    result = CliRunner().invoke(cli, [*COMMAND, "--upsampler", "nearest", "--data", str(tmp_path), *wrong])
    assert result.exit_code == 2, result.output
