"""``naf-hub denoise``: photos of every kind in, restored photos out, run again, and beside other results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.deep_png import write_deep_png
from naf_hub.image_files import search_images
from naf_hub.images import open_image, read_image
from naf_hub.made_with import read_record

NAF = ["--restorer", "naf_denoiser=none", "--restorer-option", "dim=16", "--restorer-option", "num_blocks=1",
       "--restorer-option", "kernel_size=3"]  # fmt: skip


def run(*arguments: object, command: str = "denoise") -> Result:
    return CliRunner().invoke(cli, [command, *(str(a) for a in arguments)])


def draw(path: Path, mode: str = "RGB", size: tuple[int, int] = (20, 14)) -> Path:
    """A noisy slope, so that smoothing and a mix-up of sides or channels show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(Image.new(mode, (1, 1)).getbands())
    slope = np.linspace(60, 180, size[0] * size[1]).reshape(size[1], size[0], 1)
    values = slope + np.random.default_rng(0).normal(0, 20, (size[1], size[0], channels))
    picture = Image.fromarray(values.clip(0, 255).astype(np.uint8).squeeze(-1) if channels == 1
                              else values.clip(0, 255).astype(np.uint8), mode)  # fmt: skip
    picture.save(path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_results_are_what_the_restorer_gives_and_say_how_they_were_made(tmp_path: Path) -> None:
    source = draw(tmp_path / "in" / "sub" / "a.png")
    result = run(tmp_path / "in", "-o", tmp_path / "out", *NAF, "--compare")
    assert result.exit_code == 0, result.output
    assert set(contents(tmp_path / "out")) == {"sub/a.png", "sub/a.compare.png"}
    made = tmp_path / "out" / "sub" / "a.png"
    torch.manual_seed(0)
    model = naf_hub.load_restorer("naf_denoiser", weights=None, dim=16, num_blocks=1, kernel_size=3)
    expected = model(read_image(source)[None])[0]
    assert float((read_image(made) - expected).abs().max()) <= 0.5 / 255 + 1e-6
    record = read_record(made)
    assert record is not None
    assert record["settings"]["restorer"] == "naf_denoiser=none"
    assert record["photo"]["photo"] == "sub/a.png"
    with Image.open(tmp_path / "out" / "sub" / "a.compare.png") as sheet:
        assert sheet.width == 2 * 20 + 4


def test_a_second_run_keeps_makes_what_is_missing_and_overwrites_nothing(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    photos = contents(tmp_path / "in")
    first = run(tmp_path / "in", "-o", tmp_path / "out", *NAF)
    assert first.exit_code == 1
    assert "broken.jpg: not an image file" in first.stderr
    assert "1 of 2 images denoised, 0 kept, 1 failed" in first.stderr
    before = contents(tmp_path / "out")
    second = run(tmp_path / "in" / "a.jpg", "-o", tmp_path / "out", *NAF, "--compare", "--json")
    assert second.exit_code == 0, second.output
    (told,) = json.loads(second.stdout)["results"]
    assert [Path(path).name for path in told["files"]] == ["a.compare.png"]
    assert contents(tmp_path / "out")["a.png"] == before["a.png"]
    other = run(tmp_path / "in" / "a.jpg", "-o", tmp_path / "out", "--restorer", "ircnn=none", "--restorer-option",
                "width=8")  # fmt: skip
    assert other.exit_code == 1
    assert "was made otherwise (restorer naf_denoiser=none, not ircnn=none" in other.stderr
    forced = run(tmp_path / "in" / "a.jpg", "-o", tmp_path / "out", "--restorer", "ircnn=none", "--restorer-option",
                 "width=8", "--force")  # fmt: skip
    assert forced.exit_code == 0, forced.output
    assert contents(tmp_path / "out")["a.png"] != before["a.png"]
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    stays = run(tmp_path / "in" / "a.jpg", "-o", tmp_path / "out", *NAF, "--force")
    assert "is no result of naf-hub; it stays" in stays.stderr
    assert contents(tmp_path / "in") == photos


def test_restored_photos_are_photos_for_others_but_not_restored_again(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    for kept in (0, 1):
        result = run(tmp_path, "-o", tmp_path, *NAF, "--compare", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["kept"] == kept
    assert set(contents(tmp_path)) == {"a.jpg", "a.png", "a.compare.png"}
    assert {path.name for path in search_images([tmp_path]).images} == {"a.jpg", "a.png"}
    # Named outright it is a photo like any other, which stays.
    result = run(tmp_path / "a.jpg", tmp_path / "a.png", "-o", tmp_path, *NAF, "--force")
    assert f"{tmp_path / 'a.png'} is one of the photos, which stay" in result.stderr


@pytest.mark.parametrize(
    ("mode", "size", "kept"),
    [("L", (20, 14), "L"), ("LA", (20, 14), "LA"), ("RGBA", (20, 14), "RGBA"), ("RGB", (1, 1), "RGB"),
     ("RGB", (31, 2), "RGB"), ("RGB", (3, 5), "RGB"), ("CMYK", (9, 8), "RGB"), ("P", (9, 8), "RGB")],
)  # fmt: skip
def test_kinds_and_sizes_of_photos(tmp_path: Path, mode: str, size: tuple[int, int], kept: str) -> None:
    if mode == "P":
        with Image.open(draw(tmp_path / "rgb.png", size=size)) as colours:
            source = tmp_path / "a.png"
            colours.quantize(16).save(source)
    else:
        source = draw(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), mode, size)
    result = run(source, "-o", tmp_path / "out", *NAF)
    assert result.exit_code == 0, result.output
    (result_file,) = (tmp_path / "out").iterdir()
    assert result_file.name == ("a.tif.png" if mode == "CMYK" else "a.png")
    with Image.open(result_file) as made, Image.open(source) as photo:
        assert (made.mode, made.size) == (kept, size)
        if kept.endswith("A"):
            assert made.getchannel("A").tobytes() == photo.getchannel("A").tobytes()
        if min(size) > 2:  # smoother, and of the same brightness
            given, found = (
                np.asarray(p.convert("L"), float) for p in (photo.convert("RGB"), made.convert("RGB"))
            )
            assert abs(given.mean() - found.mean()) < 4
            assert np.abs(np.diff(found)).mean() < 0.8 * np.abs(np.diff(given)).mean()


def test_no_two_photos_have_one_result_and_none_is_a_photo(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png", "b.png.png", "c.png", "c.compare.png"):
        draw(tmp_path / "in" / name)
    result = run(tmp_path / "in", "-o", tmp_path / "out", *NAF, "--compare")
    assert result.exit_code == 0, result.output
    made = {file.name for file in (tmp_path / "out").iterdir() if not file.name.endswith(".compare.png")}
    assert made == {"a.png", "a.png.png", "b.png", "b.png.png.png", "c.png", "c.compare.png.png"}
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(made)
    beside = draw(tmp_path / "beside" / "a.png")
    before = beside.read_bytes()
    assert run(beside, "-o", tmp_path / "beside", *NAF).exit_code == 0
    assert contents(tmp_path / "beside").keys() == {"a.png", "a.png.png"}
    assert beside.read_bytes() == before


def test_colours_under_transparency_are_not_laid_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (200, 30, 90, 0)).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "-o", tmp_path / "out", *NAF).exit_code == 0
    with Image.open(tmp_path / "out" / "a.png") as made:
        assert made.getpixel((3, 3)) == (200, 30, 90, 0)


def test_16_bits_and_colour_profiles_are_kept(tmp_path: Path) -> None:
    values = (np.arange(12 * 12).reshape(12, 12) * 3 + 20_000).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "wide.png", icc_profile=b"a profile")
    result = run(tmp_path, "-o", tmp_path / "out", *NAF)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out" / "deep.png") as made:
        found = np.asarray(made).astype(int)
    assert abs(found - values).max() < 256, "one step of 8 bits is 257"
    assert len(np.unique(found)) > 30
    with Image.open(tmp_path / "out" / "wide.png") as made:
        assert made.info["icc_profile"] == b"a profile"
    assert read_record(tmp_path / "out" / "wide.png") is not None


def test_photos_are_turned_and_long_names_are_cut(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = tmp_path / f"{'n' * 246}.jpg"
    Image.new("RGB", (20, 10), "navy").save(source, exif=exif)
    result = run(source, "-o", tmp_path / "out", *NAF, "--compare", "--json")
    assert result.exit_code == 0, result.output
    made, sheet = (Path(path) for path in json.loads(result.stdout)["results"][0]["files"])
    assert sheet.name == made.name.replace(".png", ".compare.png")
    with Image.open(made) as picture:
        assert picture.size == (10, 20)


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_are_kept(tmp_path: Path, channels: int) -> None:
    values = np.arange(11 * 12 * channels).reshape(11, 12, channels) * 5 + 20_000
    write_deep_png(tmp_path / "a.png", values.astype(np.uint16), {"Title": "deep"}, b"a profile")
    with Image.open(tmp_path / "a.png") as given:  # as another reader sees it
        assert np.array_equal(np.asarray(given), values >> 8)
        assert (given.info["Title"], given.info["icc_profile"]) == ("deep", b"a profile")
    assert run(tmp_path / "a.png", "-o", tmp_path / "out", *NAF).exit_code == 0
    made = tmp_path / "out" / "a.png"
    assert read_record(made) is not None
    found = np.asarray(open_image(made)).astype(int) * 256 + np.asarray(open_image(made, lower=True))
    assert abs(found - values)[..., :3].max() < 256, "one step of 8 bits is 257"
    assert len(np.unique(found[..., 0] % 256)) > 30
    assert np.array_equal(found[..., 3:], values[..., 3:])


def test_the_noise_is_estimated(tmp_path: Path) -> None:
    pytest.importorskip("pywt")
    values = 128 + np.random.default_rng(0).normal(0, 0.1 * 255, (64, 64, 3))
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    Image.new("L", (1, 1), 9).save(tmp_path / "tiny.png")
    result = run(tmp_path, "-o", tmp_path / "out", *NAF, "--sigma", "auto", "--json")
    assert result.exit_code == 0, result.output
    noisy, tiny = (told["sigma"] for told in json.loads(result.stdout)["results"])
    assert noisy["photo"] == pytest.approx(0.1, abs=0.01)
    assert noisy["restored"] < 0.7 * noisy["photo"]
    assert tiny == pytest.approx({"photo": 0, "restored": 0}, abs=1e-6)
    result = run(tmp_path / "a.png", "-o", tmp_path / "out", *NAF, "--sigma", "auto", "--force")
    assert f"a.png: noise {noisy['photo']:.3f} -> {noisy['restored']:.3f}, 64x64 in " in result.stdout


def test_estimating_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywt", None)
    result = run(draw(tmp_path / "a.png"), "-o", tmp_path / "out", *NAF, "--sigma", "auto")
    assert result.exit_code == 1
    assert result.stderr == "naf-hub: --sigma auto needs pip install 'naf-hub[eval]'\n"
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    result = run(draw(tmp_path / "a.png"), "-o", tmp_path / "out", "--restorer", "ircnn")
    assert result.exit_code == 1
    assert "restorer 'ircnn' has no default weights" in result.stderr
    assert (
        "train some: naf-hub train denoising PHOTOS --restorer ircnn --out RUN, then --weights RUN/best"
        in result.stderr
    )
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
