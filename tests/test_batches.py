"""Batches run again, results that say how they were made, names of results, and memory told beforehand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import naf_hub
from naf_hub import made_with, memory
from naf_hub.commands import upsample
from naf_hub.commands.main import Cli, cli
from naf_hub.image_files import search_images
from naf_hub.image_sizes import fit_size
from naf_hub.measuring import PeakMemory
from naf_hub.photo_batch import result_stem
from naf_hub.pipeline import FeaturePipeline

SMALL = ["--upsampler", "bilinear", "--size", "32"]
FEATURES = [*SMALL, "--no-picture"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["upsample", *(str(a) for a in arguments)])


def photos(folder: Path, *names: str, size: tuple[int, int] = (32, 32)) -> Path:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    return folder


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``in`` of two photos and the results of both in ``out``."""
    root = tmp_path_factory.mktemp("done")
    photos(root / "in", "a.jpg", "sub/b.jpg")
    assert run(root / "in", "-o", root / "out", *FEATURES).exit_code == 0
    return root


@pytest.fixture
def again(done: Path, tmp_path: Path) -> Path:
    """A copy of :func:`done`, photos with their times."""
    return Path(shutil.copytree(done, tmp_path / "again"))


def test_a_batch_run_again_makes_what_is_missing(again: Path) -> None:
    before = contents(again / "out")
    assert set(before) == {"a.safetensors", "sub/b.safetensors"}
    result = run(again / "in", "-o", again / "out", *FEATURES, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kept"] == 2
    assert "0 of 2 images upsampled, 2 kept, 0 failed" in result.stderr
    (again / "out" / "a.safetensors").unlink()
    result = run(again / "in", "-o", again / "out", *SMALL)
    assert result.exit_code == 0, result.output
    after = contents(again / "out")
    assert set(after) == {"a.png", "a.safetensors", "sub/b.png", "sub/b.safetensors"}
    assert after["sub/b.safetensors"] == before["sub/b.safetensors"], "only its picture was missing"


def test_a_photo_that_was_only_copied_is_the_same(again: Path) -> None:
    for photo in (again / "in").rglob("*.jpg"):
        photo.write_bytes(photo.read_bytes())
    assert "2 kept, 0 failed" in run(again / "in", "-o", again / "out", *FEATURES).stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--upsampler", "nearest"], "upsampler bilinear, not nearest"),
        (["--size", "48"], "size 32, not 48"),
        (["--dtype", "float32"], "dtype float16, not float32"),
        (["--backbone-weights", "none"], "backbone pico, not pico=none; other weights of the backbone"),
    ],
)
def test_results_of_other_settings_are_named_and_stay(again: Path, changed: list[str], said: str) -> None:
    before = contents(again / "out")
    arguments = [again / "in", "-o", again / "out", *FEATURES, *changed]
    result = run(*arguments)
    assert result.exit_code == 1
    assert (
        f"a.safetensors was made otherwise ({said}): use --force to make it anew, or another -o"
        in result.stderr
    )
    assert "0 of 2 images upsampled, 0 kept, 2 failed" in result.stderr
    assert contents(again / "out") == before
    assert run(*arguments, "--force").exit_code == 0
    assert "2 kept" in run(*arguments).stderr


@pytest.mark.parametrize("format_", [["--format", "npy", "--no-picture"], ["--format", "none"]])
def test_arrays_and_pictures_say_how_they_were_made_too(tmp_path: Path, format_: list[str]) -> None:
    photo = photos(tmp_path, "a.jpg") / "a.jpg"
    arguments = [photo, "-o", tmp_path / "out", *SMALL, *format_]
    assert run(*arguments).exit_code == 0
    assert "1 kept" in run(*arguments).stderr
    assert "size 32, not 48" in run(*arguments, "--size", "48").stderr
    assert run(*arguments, "--size", "48", "--force").exit_code == 0
    assert "1 kept" in run(*arguments, "--size", "48").stderr


def test_a_changed_photo_and_another_form_of_results_are_recognised(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(again / "in", "x.jpg", "a.jpg")
    result = run(again / "in", "-o", again / "out", *FEATURES)
    assert result.exit_code == 1
    assert "an earlier version of the photo" in result.stderr
    assert "1 of 3 images upsampled, 1 kept, 1 failed" in result.stderr
    monkeypatch.setattr(made_with, "FORMAT", 2)
    result = run(again / "in" / "sub", "-o", again / "out" / "sub", *FEATURES)
    assert f"naf-hub {naf_hub.__version__}, whose results have another form" in result.stderr


def test_weights_and_options_are_settings_but_memory_is_none() -> None:
    model = torch.nn.Linear(2, 2)
    first = made_with.describe_model("upsampler", model, "linear", {"memory": 1, "dim": 3})
    assert made_with.describe_model("upsampler", model, "linear", {"memory": 2, "dim": 3}) == first
    assert made_with.describe_model("upsampler", model, "linear", {"dim": 4}) != first
    with torch.no_grad():
        model.bias[0] += 1
    changed = made_with.describe_model("upsampler", model, "linear", {"dim": 3})
    assert {key for key in first if first[key] != changed[key]} == {"weights of the upsampler"}


@pytest.mark.parametrize("name", ["a.safetensors", "a.png", "a.npy", "a.npy.json"])
def test_what_is_no_result_of_ours_is_never_overwritten(tmp_path: Path, name: str) -> None:
    photo = photos(tmp_path, "a.jpg") / "a.jpg"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b'{"mine": 1}')
    format_ = ["--format", "npy"] if "npy" in name else []
    result = run(photo, "-o", tmp_path / "out", *SMALL, *format_, "--force")
    assert result.exit_code == 1
    assert f"{name} exists and is no result of naf-hub; it stays" in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_bytes() == b'{"mine": 1}'


NAMES = {
    "a.jpg": "a", "a.png": "a.png", "a.JPG": "a.JPG", "A.jpg": "A", "a.png.jpg": "a.png.jpg", "sub/a.jpg": "sub/a",
    "v1.5.jpg": "v1.5", "a.heic.jpg": "a.heic.jpg", "a.jpeg": "a.jpeg",
}  # fmt: skip


def test_the_name_of_a_result_follows_from_the_photo_alone() -> None:
    assert {name: result_stem(Path(name)).as_posix() for name in NAMES} == NAMES
    assert len(set(NAMES.values())) == len(NAMES)
    long = [result_stem(Path("n" * 250 + ending)).name for ending in (".jpg", ".png", "n.jpg")]
    assert len(set(long)) == 3
    assert max(len(name) for name in long) <= 255 - len(".safetensors")


def test_photos_of_one_name_in_one_folder_have_a_result_each(tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.jpg", "a.png", "a.webp")
    assert run(tmp_path / "in" / "a.png", "-o", tmp_path / "out", *FEATURES).exit_code == 0
    result = run(tmp_path / "in", "-o", tmp_path / "out", *FEATURES)
    assert "2 of 3 images upsampled, 1 kept, 0 failed" in result.stderr
    assert set(contents(tmp_path / "out")) == {f"a{s}.safetensors" for s in ("", ".png", ".webp")}


def test_photos_that_would_share_a_result_do_not_even_by_force(tmp_path: Path) -> None:
    photos(tmp_path, "x/a.jpg", "y/a.jpg")
    for force in ([], ["--force"]):
        result = run(tmp_path / "x", tmp_path / "y", "-o", tmp_path / "out", *FEATURES, *force)
        assert result.exit_code == 1
    assert (
        f"a.safetensors is the result of {tmp_path / 'x' / 'a.jpg'}; give the folder above" in result.stderr
    )
    made = made_with.read_record(tmp_path / "out" / "a.safetensors")
    assert made is not None
    assert made["photo"] == made_with.describe_photo(tmp_path / "x" / "a.jpg", Path("a.jpg"))
    assert run(tmp_path / "*" / "a.jpg", "-o", tmp_path / "both", *FEATURES).exit_code == 0
    assert set(contents(tmp_path / "both")) == {"x/a.safetensors", "y/a.safetensors"}


def test_a_file_system_that_ignores_case_makes_no_photos_share(tmp_path: Path) -> None:
    photos(tmp_path / "in", "A.jpg", "b.jpg")
    (tmp_path / "in" / "b.jpg").rename(tmp_path / "in" / "a.jpg")
    (tmp_path / "out").mkdir()
    # Both names lead to one file, as they would there.
    (tmp_path / "out" / "a.safetensors").symlink_to("A.safetensors")
    (tmp_path / "out" / "A.safetensors").touch()
    (tmp_path / "out" / "A.safetensors").unlink()
    result = run(tmp_path / "in", "-o", tmp_path / "out", *FEATURES, "--force")
    assert "a.safetensors is the result of" in result.stderr
    assert "1 of 2 images upsampled, 0 kept, 1 failed" in result.stderr


def test_results_beside_their_photos_are_not_taken_for_photos(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg", "c.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").touch()
    for kept in (0, 2):
        result = run(tmp_path, "-o", tmp_path, *SMALL, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["kept"] == kept
    left = json.loads(result.stdout)["left_out"]
    assert left == {"hidden files": 1, "pictures that naf-hub made": 2, "files that are no photos": 3}
    assert "1 hidden files (.hidden); 2 pictures that naf-hub made (a.png, c.png.png)" in result.stderr


def test_what_a_search_leaves_out_is_counted_with_reasons(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg")
    for name in ("1.txt", "2.txt", "3.csv", "4.md", "5.rst", ".x/a.jpg", "b.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    search = search_images([tmp_path])
    assert list(search.images) == [tmp_path / "a.jpg"]
    text = search.describe()
    assert "5 files that are no photos (.csv, .md, .rst, ...)" in text
    assert "1 hidden folders (.x)" in text
    assert "1 folders, links to nothing, pipes or devices (lost.jpg)" in text
    assert "1 photos that Pillow needs a plugin for" in text
    assert not search_images([tmp_path / "a.jpg"]).describe()


def test_the_long_side_is_bounded_and_that_is_said_once(tmp_path: Path) -> None:
    assert fit_size(8, 200, 448, 16) == (64, 1792)
    assert fit_size(200, 8, 448, 16) == (1792, 64)
    assert fit_size(100, 400, 448, 16) == (448, 1792)
    assert fit_size(8, 200, (448, 11200), 16) == (448, 11200)
    assert fit_size(8, 200, None, 16) == (8, 200)
    photos(tmp_path / "in", "a.jpg", "b.jpg", size=(8, 200))
    result = run(tmp_path / "in", "-o", tmp_path / "out", *FEATURES)
    assert result.exit_code == 0
    assert result.stderr.count("longer than 4:1") == 1
    assert "the long side was made 128 pixels: 2 of 2 images, such as" in result.stderr
    assert "for more give --size HxW" in result.stderr


def test_what_will_not_fit_into_memory_is_told_and_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "in", "a.jpg", size=(256, 1024))
    photos(tmp_path / "in", "z.jpg")
    monkeypatch.setenv("NAF_HUB_MEMORY", "8MiB")
    result = run(tmp_path / "in", "-o", tmp_path / "out", *FEATURES)
    assert result.exit_code == 1
    assert (
        "a.jpg: 32x128 pixels of features needs about 9.5 MiB of memory and 8.0 MiB are free" in result.stderr
    )
    assert "smaller --size, or say how much there is by NAF_HUB_MEMORY" in result.stderr
    assert set(contents(tmp_path / "out")) == {"z.safetensors"}
    monkeypatch.setenv("NAF_HUB_MEMORY", "much")
    assert "NAF_HUB_MEMORY: memory must be" in run(tmp_path / "in", "-o", tmp_path / "out", *FEATURES).stderr


@pytest.mark.parametrize(("name", "side"), [("bilinear", 512), ("guided_filter", 384), ("naf", 192)])
def test_the_memory_needed_is_estimated_within_a_factor_of_three(name: str, side: int) -> None:
    model = naf_hub.load(name, backbone="pico")
    assert isinstance(model, FeaturePipeline)
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        model(image[..., :64, :64])  # what is made once
        with PeakMemory("cpu") as peak:
            kept = model(image)
    assert kept.shape[-1] == side
    assert peak.bytes <= memory.needed_memory(model, (side, side)) <= 3 * peak.bytes


def _too_large_for_torch() -> None:
    torch.empty(10**15)


def _too_large_for_numpy() -> None:
    np.empty(10**15)


def _gpu_is_full() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 16"
    )


def _too_large_for_mps() -> None:
    raise RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)\nmore")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (_too_large_for_torch, "not enough memory: 3.6 PiB more were asked for; use smaller"),
        (_too_large_for_numpy, "not enough memory: 7.1 PiB more were asked for; use smaller"),
        (_gpu_is_full, "not enough memory of the GPU: 20.0 GiB more were asked for; use smaller"),
        (_too_large_for_mps, "not enough memory of the GPU; use smaller"),
    ],
)
def test_errors_of_allocators_are_told_in_plain_words_by_every_command(
    fault: click.Command, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command is run by this group; the loop over photos tells its own."""
    group = Cli("naf-hub", commands={"any": click.Command("any", callback=fault)})
    group.complete = True
    result = CliRunner().invoke(group, ["any"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"naf-hub: {told}")
    monkeypatch.setattr(upsample, "upsample_file", lambda *_: fault())
    result = run(photos(tmp_path, "a.jpg"), "-o", tmp_path / "out", *FEATURES)
    assert f"a.jpg: {told}" in result.stderr
    assert "tried" not in result.stderr


def test_other_errors_are_none_of_memory() -> None:
    assert memory.shortage(ValueError("CUDA out of memory is what this text is about")) is None
    assert memory.shortage(RuntimeError("a.png: cannot write")) is None


def test_an_error_of_any_kind_costs_only_its_photo_and_many_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("layer")

    photos(tmp_path / "in", *(f"{i}.jpg" for i in range(13)), size=(8, 8))
    monkeypatch.setattr(upsample, "upsample_file", fail)
    result = run(tmp_path / "in", "-o", tmp_path / "out", *FEATURES)
    assert result.exit_code == 1
    assert "0.jpg: KeyError: 'layer'" in result.stderr
    assert result.stderr.count("skipped: ") == 10
    assert "3 more failed; --json lists them all" in result.stderr


def test_a_name_of_two_lines_is_told_on_one(tmp_path: Path) -> None:
    photos(tmp_path / "in", "two\nlines.jpg", size=(8, 8))
    (tmp_path / "in" / "bad\nphoto.jpg").write_text("none")
    result = run(tmp_path / "in", "-o", tmp_path / "out", *FEATURES)
    assert "two\\nlines.jpg: " in result.stdout
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr.count("photo.jpg") == 1


def test_a_container_leaves_less_than_its_machine(tmp_path: Path) -> None:
    assert memory._left_to_container(tmp_path) is None
    for name, text in (("max", "1000"), ("current", "700"), ("stat", "anon 1\ninactive_file 250\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory._left_to_container(tmp_path) == 550
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._left_to_container(tmp_path) is None
