"""Features of a data set on disk: files or shards, gone on with after damage and interruption, shared by processes."""

from __future__ import annotations

import errno
import gc
import json
import multiprocessing
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

import naf_hub
from naf_hub import safetensors_writer
from naf_hub.commands.main import cli
from naf_hub.extraction import Extraction, ExtractionError, describe_models, extract_features
from naf_hub.feature_files import FeatureFile, FeatureFileError
from naf_hub.image_files import listed_images
from naf_hub.photo_tensors import photo_tensors
from naf_hub.pipeline import FeaturePipeline
from naf_hub.shard_writing import ShardLimit
from naf_hub.shares import Share

PHOTOS = ("a.jpg", "a.png", "b.jpg", "c.jpg", "sub/a.jpg")
THREE = ShardLimit(photos=3)


class Patches(nn.Module):
    """Three channels a patch of 8; counts its calls, and fails at one if it is told to."""

    patch_size, embed_dim, origin = 8, 3, None

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.at: dict[int, Callable[[], Any]] = {}

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        self.at.get(self.calls, lambda: None)()
        return nn.functional.avg_pool2d(image, 8)

    maps = lambda self, image, *wants: (self(image),)  # noqa: E731


class Rows(naf_hub.Upsampler):
    """Nearest, also by strips of three rows; remembers whether it was asked for these."""

    striped = False

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return nn.functional.interpolate(features, output_size)

    def upsample_rows(self, image, features, output_size, rows) -> Iterator[Tensor]:
        self.striped = True
        whole = self.upsample(image, features, output_size)[:, :, slice(*rows)]
        yield from whole.split(3, dim=2)


def pipeline() -> FeaturePipeline:
    return FeaturePipeline(Patches(), Rows()).eval()


def write_photo(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 24, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(PHOTOS):
        write_photo(tmp_path / "in" / name, seed)
    return tmp_path / "in"


def extract(photos: Path, name: str = "out", model: nn.Module | None = None, **options: Any) -> Extraction:
    return extract_features(model or pipeline(), photos, photos.parent / name, size=16, **options)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``files`` and ``shards`` of the photos in ``in``."""
    root = tmp_path_factory.mktemp("both")
    for seed, name in enumerate(PHOTOS):
        write_photo(root / "in" / name, seed)
    assert extract(root / "in", "files").written == len(PHOTOS)
    assert extract(root / "in", "shards", shards_of=THREE).written == len(PHOTOS)
    return root


@pytest.fixture
def copy(both: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(both, tmp_path / "copy"))


@pytest.fixture(params=["files", "shards"])
def form(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"name": request.param, "shards_of": THREE if request.param == "shards" else None}


def test_both_forms_give_the_features_of_every_photo_by_its_name(both: Path) -> None:
    files, shards = naf_hub.open_features(both / "files"), naf_hub.open_features(both / "shards")
    assert list(files) == list(shards) == sorted(PHOTOS)
    assert not files.damaged
    assert not shards.damaged
    assert (
        files.settings()
        == shards.settings()
        == {**describe_models(pipeline()), "size": "16", "dtype": "float16"}
    )
    for name in PHOTOS:
        image = naf_hub.images.read_image(both / "in" / name)
        low = nn.functional.avg_pool2d(image[None], 8)[0].half()
        for file in (files[name], shards[name]):
            assert (file.photo, file.shape, file.low_res_shape, file.dtype) == (
                name,
                (3, 16, 24),
                (3, 2, 3),
                "float16",
            )
            assert torch.equal(file.read_low_res(), low)
            assert torch.equal(file.read(slice(8, 10), slice(-1, None)), low[:, 1:2, 2:].expand(3, 2, 1))


def test_a_shard_and_its_index_are_read_by_other_programs(both: Path) -> None:
    index = json.loads((both / "shards" / "features.index.json").read_text())
    names = sorted(p.name for p in (both / "shards").iterdir())
    assert names == [
        "features-1of1-00000.safetensors",
        "features-1of1-00001.safetensors",
        "features.index.json",
    ]
    assert len(index["weight_map"]) == 2 * len(PHOTOS)
    for key, name in index["weight_map"].items():
        with safe_open(both / "shards" / name, "pt") as file:
            assert file.get_tensor(key).dtype == torch.float16
    assert index["metadata"]["total_size"] == sum((both / "shards" / n).stat().st_size for n in names[:2])


def test_a_folder_of_shards_is_opened_by_its_index_alone(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    plain = FeatureFile.open_all
    monkeypatch.setattr(FeatureFile, "open_all", lambda path: (opened.append(Path(path)), plain(path))[1])
    features = naf_hub.open_features(copy / "shards")
    assert "a.png" in features
    assert not opened
    features["a.jpg"], features["a.png"]
    assert len(opened) == 1
    with pytest.raises(KeyError, match=r"no features of a photo called 'z\.jpg' among the 5 here"):
        features["z.jpg"]
    (copy / "shards" / "features.index.json").unlink()
    assert list(naf_hub.open_features(copy / "shards")) == sorted(PHOTOS), "shards say what they hold, too"
    assert len(opened) == 3


def test_what_is_read_is_checked(copy: Path) -> None:
    features = naf_hub.open_features(copy / "shards")
    first, second = sorted((copy / "shards").glob("*.safetensors"))
    file = features["a.jpg"]
    second.unlink()
    with pytest.raises(FeatureFileError, match=r"00001\.safetensors: is no whole"):
        features["sub/a.jpg"]
    assert list(naf_hub.open_features(copy / "shards").damaged) == [second]
    first.write_bytes(first.read_bytes()[:-2])
    with pytest.raises(FeatureFileError, match="cannot be read"):
        file.read()
    assert set(naf_hub.open_features(copy / "shards").damaged) == {first, second}
    file = naf_hub.open_features(copy / "files")["a.jpg"]
    shutil.rmtree(copy / "files")
    extract(copy / "in", "files", dtype="float32")
    with pytest.raises(FeatureFileError, match=r"holds \(3, 16, 24\) float32 and held \(3, 16, 24\) float16"):
        file.read()


def test_low_resolution_features_need_no_upsampler(photos: Path, form: dict[str, Any]) -> None:
    assert extract(photos, model=Patches(), **form).written == len(PHOTOS)
    file = naf_hub.open_features(photos.parent / form["name"])["a.jpg"]
    assert (file.shape, file.upsampled) == ((3, 2, 3), False)
    assert torch.equal(file.read(slice(0, 1)), file.read_low_res()[:, :1])


def test_a_second_call_does_what_is_missing_damaged_or_new(copy: Path, form: dict[str, Any]) -> None:
    model = pipeline()
    assert extract(copy / "in", model=model, **form) == Extraction(kept=len(PHOTOS))
    assert model.backbone.calls == 0
    paths = sorted((copy / form["name"]).rglob("*.safetensors"))
    lost = {path: len(FeatureFile.open_all(path)) for path in paths[:2]}
    paths[0].write_bytes(paths[0].read_bytes()[:-2])  # of the last tensor
    paths[1].write_bytes(paths[1].read_bytes()[:60])  # of the header
    write_photo(copy / "in" / "new.jpg")
    (copy / "in" / "c.jpg").unlink()
    expected = sum(lost.values()) + 1 - (form["name"] == "shards")
    assert extract(copy / "in", model=model, **form).written == model.backbone.calls == expected
    features = naf_hub.open_features(copy / form["name"])
    assert not features.damaged
    assert set(features) >= {*PHOTOS, "new.jpg"} - {"c.jpg"}
    assert all(features[name].read().shape == (3, 16, 24) for name in features)


def test_files_of_the_user_stay_and_cost_their_photo(copy: Path) -> None:
    own = copy / "files" / "b.safetensors"
    own.write_text("mine")
    done = extract(copy / "in", "files")
    assert list(done.failures) == [copy / "in" / "b.jpg"]
    assert "is no result of naf-hub; it stays" in done.failures[copy / "in" / "b.jpg"]
    assert own.read_text() == "mine"
    index = copy / "shards" / "features.index.json"
    index.write_text("mine")
    with pytest.raises(FileExistsError, match="is no index of naf-hub; it stays"):
        extract(copy / "in", "shards", shards_of=THREE)
    assert index.read_text() == "mine"
    other = copy / "new" / "features-1of1-00000.safetensors"
    other.parent.mkdir()
    other.write_text("mine")
    assert extract(copy / "in", "new", shards_of=THREE).written == len(PHOTOS)
    assert other.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "float32"}, "dtype float16, not float32"),
        ({"model": Patches()}, "upsampler Rows, not none"),
        ({"shards_of": THREE}, "one file a picture, not in shards"),
        ({"name": "shards"}, "in shards"),
    ],
)
def test_a_folder_of_other_settings_is_refused(both: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ExtractionError, match=rf"made otherwise \(.*{said}.*\): choose another -o"):
        extract(both / "in", **{"name": "files", **change})


def test_a_photo_that_changed_is_named(copy: Path, form: dict[str, Any]) -> None:
    write_photo(copy / "in" / "b.jpg", seed=99)
    done = extract(copy / "in", **form)
    assert done.kept == len(PHOTOS) - 1
    assert "an earlier version of the photo" in done.failures[copy / "in" / "b.jpg"]


def test_a_broken_photo_is_named_and_the_rest_goes_on(photos: Path, form: dict[str, Any]) -> None:
    (photos / "b.jpg").write_bytes(b"no image")
    told: list[str] = []
    done = extract(photos, tell=told.append, **form)
    assert (done.written, list(done.failures)) == (len(PHOTOS) - 1, [photos / "b.jpg"])
    assert len(told) == 1
    assert "b.jpg: not an image file" in told[0]
    assert len(naf_hub.open_features(photos.parent / form["name"])) == len(PHOTOS) - 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_loses_the_photo_at_hand_alone(
    photos: Path, form: dict[str, Any], error: type[BaseException]
) -> None:
    def stop() -> None:
        raise error

    model = pipeline()
    model.backbone.at = {3: stop}
    with pytest.raises(error):
        extract(photos, model=model, **form)
    out = photos.parent / form["name"]
    assert len(naf_hub.open_features(out)) == 2
    assert not [path for path in out.rglob(".*") if path.is_file()], "nothing half-written stays"
    assert extract(photos, **form) == Extraction(written=3, kept=2)


def test_a_full_disk_ends_the_work_and_keeps_what_is_done(
    photos: Path, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = safetensors_writer.write_strips, []

    def write(file, start, strips, shape, dtype) -> None:
        calls.append(shape)
        if len(calls) > 5:  # the low-resolution features of the third photo
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(file, start, strips, shape, dtype)

    monkeypatch.setattr(safetensors_writer, "write_strips", write)
    with pytest.raises(OSError, match="make room and run the same again"):
        extract(photos, **form)
    monkeypatch.undo()
    assert len(calls) == 6, "no other photo was tried"
    features = naf_hub.open_features(photos.parent / form["name"])
    assert len(features) == 2
    assert not features.damaged
    assert extract(photos, **form) == Extraction(written=3, kept=2)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(photos: Path) -> None:
    model = pipeline()
    (photos.parent / "file").write_text("mine")
    with pytest.raises(OSError, match="no file can be made there"):
        extract(photos, "file", model)
    assert model.backbone.calls == 0


def test_shares_have_each_photo_once_and_write_to_one_folder(photos: Path, form: dict[str, Any]) -> None:
    done = [extract(photos, share=Share(number, 2), **form) for number in (1, 2)]
    assert [part.written for part in done] == [3, 2]
    assert len(naf_hub.open_features(photos.parent / form["name"])) == len(PHOTOS)
    assert extract(photos, **form) == Extraction(kept=len(PHOTOS))


def test_the_share_is_the_launchers_or_the_one_that_is_given() -> None:
    assert Share.of_process({}) == Share()
    assert Share.of_process({"RANK": "2", "WORLD_SIZE": "4"}) == Share(3, 4, launched=True)
    assert Share.parse("3/4") == Share(3, 4)
    for text in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(ValueError, match="give i/n"):
            Share.parse(text)
    with pytest.raises(ValueError, match="no process of WORLD_SIZE"):
        Share.of_process({"RANK": "4", "WORLD_SIZE": "4"})


def _launched(rank: int, port: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if rank:
        time.sleep(0.2)
        (folder / "done").touch()
    Share.of_process().wait()
    (folder / f"saw-{rank}").write_text(str((folder / "done").exists()))


def test_no_process_of_a_launcher_ends_before_the_last_is_done(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=_launched, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [(tmp_path / f"saw-{rank}").read_text() for rank in range(2)] == ["True", "True"]


def test_many_photos_need_no_more_memory_than_a_few(photos: Path, form: dict[str, Any]) -> None:
    for number in range(40):
        shutil.copy(photos / "a.jpg", photos / f"more-{number:02d}.jpg")
    tensors: list[int] = []
    model = pipeline()

    def count() -> None:
        gc.collect()
        tensors.append(sum(type(thing) is Tensor for thing in gc.get_objects()))

    model.backbone.at = dict.fromkeys((3, 20, 44), count)
    assert extract(photos, model=model, **form).written == 45
    assert len(tensors) == 3
    assert len(set(tensors)) == 1, tensors


def test_features_that_do_not_fit_are_written_by_strips(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pipeline()
    whole = photo_tensors(model, photos / "a.jpg", 16, "float32")
    assert not model.upsampler.striped
    monkeypatch.setenv("NAF_HUB_MEMORY", str(4 * 16 * 24 * 96 + 1))
    strips = photo_tensors(model, photos / "a.jpg", 16, "float32")
    assert whole["features"][1] == strips["features"][1] == (1, 3, 16, 24)
    assert torch.equal(torch.cat(list(strips["features"][0]), 2), torch.cat(list(whole["features"][0]), 2))
    assert model.upsampler.striped
    monkeypatch.setenv("NAF_HUB_MEMORY", "1000")
    with pytest.raises(naf_hub.errors.NotEnoughMemoryError, match="16x24 pixels of features needs"):
        photo_tensors(model, photos / "a.jpg", 16, "float32")


def test_features_beyond_float16_are_told(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patches, "forward", lambda self, image: nn.functional.avg_pool2d(image, 8) * 1e6)
    done = extract(photos, tell=lambda line: None)
    assert "beyond what float16 holds; give --dtype float32" in done.failures[photos / "a.jpg"]
    assert not list((photos.parent / "out").rglob("*.safetensors"))
    assert extract(photos, dtype="float32").written == len(PHOTOS)


def test_shards_end_at_their_size_too_and_names_of_any_length_fit(photos: Path) -> None:
    for letter in "xy":
        write_photo(photos / f"{letter * 200}ü'\"\\.png")
    each = 2 * 3 * (16 * 24 + 2 * 3)
    extract(photos, shards_of=ShardLimit(bytes=2 * each + 1))
    sizes = [
        len(FeatureFile.open_all(path)) for path in sorted((photos.parent / "out").glob("*.safetensors"))
    ]
    assert sizes == [2, 2, 2, 1]
    assert len(naf_hub.open_features(photos.parent / "out")) == 7
    assert ShardLimit.parse("500") == ShardLimit(photos=500)
    assert ShardLimit.parse("2KiB") == ShardLimit(bytes=2048)
    for text in ("0", "-1", "many"):
        with pytest.raises(ValueError, match="neither a number of pictures"):
            ShardLimit.parse(text)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_costs_its_photo_and_not_the_shard(photos: Path) -> None:
    write_photo(photos / "c\udcff.png")
    done = extract(photos, shards_of=THREE, tell=lambda line: None)
    assert "rename it" in done.failures[photos / "c\udcff.png"]
    assert len(naf_hub.open_features(photos.parent / "out")) == len(PHOTOS)


def test_two_photos_called_the_same_are_refused(photos: Path) -> None:
    with pytest.raises(ExtractionError, match=r"would both be called a\.jpg"):
        extract_features(pipeline(), [photos / "a.jpg", photos / "sub" / "a.jpg"], photos.parent / "out")


def test_a_list_names_photos_by_their_place_below_it(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "list.txt").write_bytes(f"a.jpg\r\n\n../b.jpg\n{folder}/sub/c.jpg\na.jpg\n".encode())
    outside = (tmp_path / "b.jpg").relative_to(tmp_path.anchor)
    assert listed_images(folder / "list.txt").images == {
        folder / "a.jpg": Path("a.jpg"),
        tmp_path / "b.jpg": outside,
        folder / "sub" / "c.jpg": Path("sub/c.jpg"),
    }
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(FileNotFoundError, match="no image named"):
        listed_images(folder / "empty.txt")
    write_photo(folder / "a.png")
    with pytest.raises(naf_hub.ImageError, match="is no list of images"):
        listed_images(folder / "a.png")


def test_the_command_takes_a_list_tells_what_failed_and_ends_with_one(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "list.txt").write_text("a.jpg\nsub/a.jpg\ngone.jpg\n")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = [
        "extract",
        "--list",
        str(photos / "list.txt"),
        "-o",
        str(photos.parent / "out"),
        "--low-res",
        "--size",
        "32",
    ]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 1, result.output
    assert "1 of 2 images of shard 1/2 extracted" in result.stdout
    assert "no such image" in result.stderr
    assert "gone.jpg" in result.stderr
    result = CliRunner().invoke(cli, [*given, "--shard", "2/2", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["written"] == 1
    file = naf_hub.open_features(photos.parent / "out")["sub/a.jpg"]
    assert (file.settings["backbone"], file.settings["upsampler"]) == ("pico", "none")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "give images, or --list FILE"),
        (["in", "--low-res", "--weights", "x"], "--low-res takes no --upsampler"),
        (["in", "--shard", "3/2"], "give i/n"),
        (["in", "--shards-of", "x"], "neither a number of pictures"),
    ],
)
def test_options_that_do_not_go_together_are_bad_usage(given: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, ["extract", *given, "-o", "out"])
    assert result.exit_code == 2
    assert said in result.stderr
