"""``naf-hub compare``, and features as pictures: one basis, captions that fit, failures that stay alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageFont

import naf_hub
from naf_hub.commands.compare import _parse
from naf_hub.commands.main import cli
from naf_hub.photo_places import box_in, parse_pixels, point_in
from naf_hub.picture import GAP, PcaBasis, _wrapped, side_by_side

NORMED = """
    import torch
    from naf_hub import Upsampler, UpsamplerRecord, hookimpl

    class Normed(Upsampler):
        def reference(self, features):
            return torch.nn.functional.normalize(features)

        def upsample(self, image, features, output_size):
            return torch.nn.functional.interpolate(self.reference(features), output_size)

    @hookimpl
    def register_upsamplers(register):
        register(UpsamplerRecord(name="normed", summary="Of unit length.", target="normed_naf:Normed", learned=False))
"""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    rows, columns = np.mgrid[:64, :96]
    rgb = np.stack([rows * 4, columns * 2, (rows // 16 + columns // 16) % 2 * 255], -1)
    Image.fromarray(rgb.astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def compare(*arguments: object):
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)])


def upsamplers(*names: str) -> list[str]:
    return [word for name in names for word in ("--upsampler", name)]


def panels(path: Path, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """The pictures of a sheet of one row."""
    sheet = np.asarray(Image.open(path).convert("RGB"))[-size[0] :]
    return [sheet[:, n * (size[1] + GAP) :][:, : size[1]] for n in range(count)]


def test_one_basis_a_part_and_failures_that_stay_alone(photo, tmp_path, install_plugin):
    install_plugin("normed-naf", NORMED)
    asked = [
        photo,
        *upsamplers("nearest", "naf_plus_plus", "normed", "bilinear"),
        "--size",
        "64",
        "--columns",
        "6",
    ]
    result = compare(*asked, "-o", tmp_path / "whole.png", "--json")
    assert result.exit_code == 1
    assert "left out: naf_plus_plus: " in result.stderr
    told = json.loads(result.stdout)
    assert [one["own_basis"] for one in told["upsamplers"]] == [False, False, True, False]
    assert [one["error"] is None for one in told["upsamplers"]] == [True, False, True, True]
    assert told["low_res"][1:] == [4, 6]
    whole = panels(tmp_path / "whole.png", 5, (64, 96))
    assert (whole[1] == whole[2]).all(), "the backbone's features as they are, and those by nearest"
    assert (whole[2] != whole[4]).any(), "bilinear"
    model = naf_hub.load("bilinear", backbone="pico")
    with torch.no_grad():
        low, features = model.low_res(photo), model(photo)
    expected = naf_hub.pca_picture(features, low)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(whole[4] - expected).max() < 1

    result = compare(*asked, "-o", tmp_path / "part.png", "--zoom", "32,16,48,32", "--panel", "64")
    part = panels(tmp_path / "part.png", 6, (64, 96))
    assert (part[5][::2, ::2] == whole[4][16:48, 32:80]).all()
    assert result.stdout == f"3 of 4 upsamplers at 64x96 pixels -> {tmp_path / 'part.png'}\n"


def test_nothing_is_written_where_nothing_works(photo, tmp_path):
    result = compare(photo, *upsamplers("naf_plus_plus"), "-o", tmp_path / "none.png", "--size", "64")
    assert result.exit_code == 1
    assert "no picture was written" in result.stderr
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["--zoom", "90,0,10,10"], 1, "does not lie in the photo of 96 x 64 pixels"),
        (["--zoom", "1,2,3"], 2, "is not x,y,w,h"),
        (["-o", "a.gif"], 2, "must end in"),
        (["-o", "PHOTO", "--force"], 2, "is the photo, which stays"),
        (["-o", "TAKEN"], 1, "use --force"),
        (["--upsampler", "nearest"], 2, "named twice: nearest"),
        (["--upsampler", "naf_denoiser"], 2, "naf_denoiser"),
        (["--option", "naf.dim=64"], 2, "--option naf.dim: there is no --upsampler naf"),
        (["--size", "0"], 2, "is not N, HxW"),
    ],
)
def test_bad_input_is_one_line(photo, tmp_path, arguments, status, word):
    taken = tmp_path / "taken.png"
    taken.write_bytes(b"mine")
    places = {"PHOTO": photo, "TAKEN": taken}
    before = photo.read_bytes()
    result = compare(
        photo, *upsamplers("nearest"), "-o", tmp_path / "new.png", *(places.get(a, a) for a in arguments)
    )
    assert result.exit_code == status
    assert word in " ".join(result.stderr.split())
    assert (taken.read_bytes(), photo.read_bytes()) == (b"mine", before)
    assert not (tmp_path / "new.png").exists()


def test_options_go_to_all_or_to_the_one_they_name():
    options = {"memory": "1MiB", "naf": {"kernel_size": 7}}
    naf, other, anyup = _parse(("naf", "naf=none", "anyup"), "default", options)
    assert dict(naf.options) == dict(other.options) == {"memory": "1MiB", "kernel_size": 7}
    assert dict(anyup.options) == {"memory": "1MiB"}


def test_pca_pictures_of_one_call_or_one_basis_have_the_same_colours():
    torch.manual_seed(0)
    low, high = torch.randn(2, 5, 4, 6), torch.randn(5, 8, 12)
    small, large = naf_hub.pca_picture([low, high])
    assert (small.shape, large.shape) == ((2, 3, 4, 6), (3, 8, 12))
    assert 0 <= min(small.min(), large.min()) < 0.01
    assert 0.99 < max(small.max(), large.max()) <= 1
    basis = PcaBasis.fit(low[0], low[1], high)
    assert torch.equal(naf_hub.pca_picture(high, basis), large)
    assert torch.equal(naf_hub.pca_picture(high, [low, high]), large)
    assert not torch.allclose(naf_hub.pca_picture(high), large, atol=0.05)
    many = torch.randn(3, 200, 200)
    assert naf_hub.pca_picture(many).shape == (3, 200, 200)


@pytest.mark.parametrize(
    ("features", "basis", "word"),
    [
        (torch.zeros(4, 4), None, "must be"),
        ([], None, "no features"),
        ([torch.zeros(3, 2, 2), torch.zeros(4, 2, 2)], None, "same channels"),
        (torch.zeros(3, 2, 2), torch.zeros(4, 2, 2), "same channels"),
        (torch.full((3, 2, 2), torch.nan), None, "not finite"),
    ],
)
def test_what_cannot_be_shown_is_told(features, basis, word):
    with pytest.raises(ValueError, match=word):
        naf_hub.pca_picture(features, basis)


def test_captions_are_wrapped_and_lose_nothing():
    font = ImageFont.load_default(size=13)
    caption = "featup_jbu=clip_jbu_stack_cocostuff.safetensors (own basis)"
    lines = _wrapped(caption, font, 90)
    assert "".join(lines).replace(" ", "") == caption.replace(" ", "")
    assert all(font.getlength(line) <= 90 for line in lines)
    panel = Image.new("RGB", (96, 64), "red")
    plain, wrapped = (side_by_side([(text, panel)] * 3, (64, 96), 2) for text in ("nearest", caption))
    assert plain.width == wrapped.width == 2 * 96 + GAP
    assert wrapped.height > plain.height + 2 * 13


@pytest.mark.parametrize(
    ("count", "columns", "lengths"),
    [
        (1, 4, [1]), (4, 4, [4]), (5, 4, [3, 2]), (6, 4, [3, 3]), (7, 4, [4, 3]), (9, 4, [3, 3, 3]),
        (10, 4, [4, 3, 3]), (13, 4, [4, 3, 3, 3]), (5, 9, [5]), (5, None, [5]), (3, 1, [1, 1, 1]),
    ],
)  # fmt: skip
def test_rows_of_panels_are_even(count, columns, lengths):
    colours = [(200, 10 * n, 40) for n in range(count)]
    panels = [("", Image.new("RGB", (40, 30), colour)) for colour in colours]
    sheet = side_by_side(panels, (30, 40), columns)
    assert sheet.width == max(lengths) * (40 + GAP) - GAP
    pixels = np.asarray(sheet)[:, :: 40 + GAP]
    found = [[tuple(one) for one in row if one[0] == 200] for row in pixels.tolist()]
    rows = [row for row, above in zip(found, [[], *found], strict=False) if row and row != above]
    assert [len(row) for row in rows] == lengths
    assert [colour for row in rows for colour in row] == colours


def test_places_in_a_photo():
    assert point_in((0, 0), (40, 60), (80, 120)) == (1, 1)
    assert point_in((59, 39), (40, 60), (20, 30)) == (19, 29)
    assert box_in((0, 0, 60, 40), (40, 60), (7, 9)) == (slice(0, 7), slice(0, 9))
    assert box_in((59, 39, 1, 1), (40, 60), (4, 6)) == (slice(3, 4), slice(5, 6))
    with pytest.raises(ValueError, match="outside"):
        point_in((0, 40), (40, 60), (40, 60))
    with pytest.raises(ValueError, match="does not lie"):
        box_in((0, 0, 0, 3), (40, 60), (40, 60))
    with pytest.raises(ValueError, match="is not"):
        parse_pixels("1.5,2", "x,y")
