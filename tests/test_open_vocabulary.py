"""Open-vocabulary segmentation from end to end, with a tiny random CLIP."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner, Result
from hub_server import COMMIT, serve
from interrupted_evaluation import check_going_on
from PIL import Image
from reconstruction_world import BACKBONE, draw_picture
from safetensors.torch import save_file

import naf_hub
from naf_hub import WeightsError
from naf_hub.app.words import find_word_maps
from naf_hub.commands.main import cli
from naf_hub.errors import DatasetError, MissingExtraError
from naf_hub.image_files import find_images
from naf_hub.images import read_image
from naf_hub.reports import Report
from naf_hub_open_vocabulary.benchmark import VOC_NAMES, Benchmark
from naf_hub_open_vocabulary.clip import CONFIG, FILE, load_clip
from naf_hub_open_vocabulary.open_vocabulary import OpenVocabulary
from naf_hub_open_vocabulary.segmenter import Segmenter
from naf_hub_open_vocabulary.vocabulary import VOCABULARIES, Vocabulary
from naf_hub_open_vocabulary.vocabulary_protocol import VocabularyProtocol
from naf_hub_open_vocabulary.word_maps import WordMaps, is_here

MODEL = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 2},
    "text_cfg": {"width": 8, "heads": 1, "layers": 1},
}
SMALL = {"short_side": 64, "crop": 48, "stride": 32, "scale": 2}
OPTIONS = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random CLIP, whose pictures differ more than at the usual initialisation."""
    folder = tmp_path_factory.mktemp("clips") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL)
    torch.nn.init.normal_(model.visual.conv1.weight, std=0.5)
    torch.nn.init.normal_(model.token_embedding.weight)
    save_file(model.state_dict(), folder / FILE)
    (folder / CONFIG).write_text(json.dumps({"model_cfg": MODEL}))
    return folder


@pytest.fixture
def photos(tmp_path: Path, install_plugin) -> list[Path]:
    install_plugin("tiny-plugin", BACKBONE)
    (tmp_path / "JPEGImages").mkdir()
    return [draw_picture(tmp_path / "JPEGImages" / f"{seed}.jpg", seed) for seed in range(2)]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def segment(photo: Path, clip: Path, out: Path, *more: object) -> Result:
    names = ("--backbone", "tiny_backbone", "--upsampler", "bilinear", "--clip", clip)
    return invoke("segment", photo, "-o", out, *names, *more)


def test_what_segment_drew_is_what_eval_finds(photos, clip, tmp_path):
    """Class maps of ``segment`` as the labels of VOC: the same upsampler is right everywhere, others are not."""
    voc = tmp_path / "VOC2012"
    drawn, listed = voc / "SegmentationClass", voc / "ImageSets" / "Segmentation" / "val.txt"
    drawn.mkdir(parents=True)
    shutil.move(tmp_path / "JPEGImages", voc)
    listed.parent.mkdir(parents=True)
    listed.write_text("0\n1\n")
    for photo in ("0", "1"):
        result = segment(voc / "JPEGImages" / f"{photo}.jpg", clip, tmp_path / "out", *OPTIONS,
                         "--classes", "voc21", "--threshold", 0)  # fmt: skip
        assert result.exit_code == 0, result.output
        shutil.copy(tmp_path / "out" / f"{photo}.classes.png", drawn / f"{photo}.png")
    names = ("--upsampler", "bilinear", "--upsampler", "joint_bilateral", "--control", "grey", "--baseline")
    common = ("--backbone", "tiny_backbone", "--clip", clip, "--data", tmp_path, *OPTIONS)
    result = invoke("eval", "open-vocabulary", *names, *common, "--threshold", 0, "--json")
    assert result.exit_code == 0, result.output
    report = Report.from_json(result.stdout)
    found = {row.label: row.values["miou"] for row in report.rows}
    assert list(found) == ["bilinear", "joint_bilateral", "joint_bilateral (grey)", "clip"]
    assert found["bilinear"] == 100
    assert max(found["joint_bilateral"], found["clip"]) < 99
    assert found["joint_bilateral"] != found["joint_bilateral (grey)"]
    iou = report["bilinear"].extras["iou"]
    assert list(iou) == list(VOC_NAMES)
    assert list(iou.values()).count(100.0) >= 3
    assert report.data["images"] == 2
    assert (report.protocol["crop"], report.protocol["long_side"]) == (48, 2048)

    # A probability below the threshold is background, and an unreadable picture is told and left out.
    (voc / "JPEGImages" / "1.jpg").write_bytes(b"no picture")
    result = invoke("eval", "open-vocabulary", "--upsampler", "bilinear", *common, "--threshold", 1)
    assert result.exit_code == 0, result.output
    assert f"naf-hub: skipped: {voc / 'JPEGImages' / '1.jpg'}" in result.stderr
    assert result.stderr.count("1.jpg") == 1
    assert "1 image, 1 skipped" in result.stdout
    table = [line.split() for line in result.stdout.splitlines()]
    assert all(share in ("-", "0.0") for name, share in table[-20:])


def test_segment_writes_a_map_and_a_picture_and_overwrites_nothing(photos, clip, tmp_path):
    words, out = ("--classes", "cat;kitten,sofa,red wall", *OPTIONS), tmp_path / "out"
    result = segment(photos[0], clip, out, *words, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    with Image.open(out / "0.classes.png") as drawn:
        assert (drawn.mode, drawn.size) == ("P", (80, 72))
        counts = np.bincount(np.asarray(drawn).ravel(), minlength=3)
        shown = drawn.convert("RGB").getpixel((0, 0)), int(np.asarray(drawn)[0, 0])
    assert list(told["shares"]) == ["cat", "sofa", "red wall"]
    np.testing.assert_allclose(list(told["shares"].values()), counts / counts.sum())
    with Image.open(out / "0.segments.png") as sheet:
        colours = np.asarray(sheet.convert("RGB"))
        assert (colours[100:] == shown[0]).all(-1).any()  # in the legend below
        assert sheet.width >= 2 * 80
    assert find_images([tmp_path]) == photos  # neither is taken for a photo
    result = segment(photos[0], clip, out, *words)
    assert (result.exit_code, "exists: use --force" in result.output) == (1, True)
    assert segment(photos[0], clip, out, *words, "--force").exit_code == 0
    Image.new("L", (5, 5)).save(out / "1.segments.png")
    before = (out / "1.segments.png").read_bytes()
    result = segment(photos[1], clip, out, *words, "--force")
    assert (result.exit_code, "is no result of naf-hub; it stays" in result.output) == (1, True)
    assert (out / "1.segments.png").read_bytes() == before
    assert not (out / "1.classes.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no class; name what to look for"),
        (" , ;", "no class; name what to look for"),
        ("cat,,sofa", "an empty name"),
        ("cat;,sofa", "an empty name"),
        ("cat", "one class only, 'cat'"),
        ("cat,sofa,Cat ", "'Cat' stands twice"),
        ("cat,sofa;cat", "'cat' stands twice"),
        ("missing.txt", "no file of class names missing.txt"),
    ],
)
def test_words_that_make_no_sense_are_one_line(words, message, tmp_path):
    with pytest.raises((ValueError, OSError), match=message) as raised:
        Vocabulary.parse(words)
    assert "\n" not in str(raised.value)
    result = segment(tmp_path / "none.jpg", tmp_path, tmp_path, "--classes", words)
    assert (result.exit_code, message in " ".join(result.output.split())) == (2, True)


def test_words_in_a_file_and_those_of_voc(tmp_path):
    (tmp_path / "names.txt").write_text("cat; kitten\n\nsofa\n")
    found = Vocabulary.parse(str(tmp_path / "names.txt"))
    assert (found.names, found.queries, found.owners) == (
        ("cat", "sofa"), ("cat", "kitten", "sofa"), (0, 0, 1)
    )  # fmt: skip
    voc21, voc20 = VOCABULARIES["voc21"], VOCABULARIES["voc20"]
    assert (len(voc21.queries), len(voc21.names), voc21.owners.count(0)) == (46, 21, 26)
    assert voc21.queries[26:] == voc20.queries
    assert (voc21.threshold, voc20.threshold) == (0.2, 0)


def test_protocols_are_checked():
    chosen = VocabularyProtocol.read({"preset": "proxyclip", "stride": 56})
    assert (chosen.short_side, chosen.crop, chosen.stride) == (336, 336, 56)
    for settings, message in (
        ({"window": 1}, "unknown key 'window'"),
        ({"stride": "9"}, "stride = '9': must be a whole number, or none"),
        ({"preset": "voc"}, "no preset 'voc'"),
        ({"stride": 449}, "stride 449 is larger than crop 448"),
        ({"scale": 0}, "scale must be positive"),
        ({"threshold": 2}, "threshold must lie within 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            VocabularyProtocol.read(settings)


def test_data_sets(tmp_path, photos, clip):
    with pytest.raises(DatasetError, match=r"is no data set of open vocabulary; expected VOC 2012"):
        Benchmark.open(tmp_path)
    names = [{"id": 4, "name": "red_wall"}, {"id": 7, "name": "sofa"}]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": names}))
    for part in ("images", "labels"):
        (tmp_path / "val" / part).mkdir(parents=True)
    shutil.copy(photos[0], tmp_path / "val" / "images" / "0.jpg")
    Image.new("L", (80, 72), 7).save(tmp_path / "val" / "labels" / "0.png")
    assert Benchmark.open(tmp_path).vocabulary.queries == ("red wall", "sofa")
    Image.new("L", (80, 40), 7).save(tmp_path / "val" / "labels" / "0.png")
    with pytest.raises(
        DatasetError, match=r"0\.png has sides of 40 and 80 .*0\.jpg of 72 and 80: not the same s"
    ):
        Benchmark.open(tmp_path)  # before CLIP is loaded
    Image.new("L", (40, 36), 7).save(tmp_path / "val" / "labels" / "0.png")  # half as large
    Benchmark.open(tmp_path)
    Image.new("L", (80, 72), 7).save(tmp_path / "val" / "labels" / "0.png")
    with pytest.raises(DatasetError, match="scores 2 classes and 3 were given in words"):
        Benchmark.open(tmp_path, "cat,sofa,wall")
    report = OpenVocabulary().evaluate(
        "bilinear", tmp_path, {**SMALL, "clip": str(clip), "classes": "wall,sofa;couch"},
        backbone="tiny_backbone", progress=False,
    )  # fmt: skip
    assert report.data["words"] == [["wall"], ["sofa", "couch"]]
    assert list(report.rows[0].extras["iou"]) == ["red_wall", "sofa"]
    assert report.data["images_without_label"] == 0
    shutil.copy(photos[1], tmp_path / "val" / "images" / "1.jpg")
    common = ("--backbone", "tiny_backbone", "--clip", clip, "--data", tmp_path, *OPTIONS)
    result = invoke("eval", "open-vocabulary", "--upsampler", "bilinear", *common)
    assert result.exit_code == 0, result.output
    assert "naf-hub: 1 picture without a label left out\n" in result.stderr
    (tmp_path / "val" / "images" / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="no readable pair"):
        OpenVocabulary().evaluate(
            "bilinear", tmp_path, {**SMALL, "clip": str(clip)}, backbone="tiny_backbone"
        )

    voc = tmp_path / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / part).mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("0\n")
    with pytest.raises(DatasetError, match=r"no file .*0\.jpg, which .*val\.txt names"):
        Benchmark.open(tmp_path)
    shutil.copy(photos[0], voc / "JPEGImages" / "0.jpg")
    Image.new("L", (80, 72), 20).save(voc / "SegmentationClass" / "0.png")
    assert Benchmark.open(voc).classes.index(torch.tensor([0, 20, 255]), "").tolist() == [0, 20, -1]
    assert Benchmark.open(voc, "voc20").classes.index(torch.tensor([0, 20, 255]), "").tolist() == [-1, 19, -1]


def test_an_interrupted_evaluation_goes_on(tmp_path, photos, clip):
    (tmp_path / "classes.json").write_text(
        json.dumps({"classes": [{"id": 4, "name": "wall"}, {"id": 7, "name": "sofa"}]})
    )
    for part in ("images", "labels"):
        (tmp_path / "val" / part).mkdir(parents=True)
    for number, photo in enumerate(photos):
        shutil.copy(photo, tmp_path / "val" / "images" / f"{number}.jpg")
        Image.new("L", (80, 72), 7 - 3 * number).save(tmp_path / "val" / "labels" / f"{number}.png")

    def evaluate(models, out):
        return OpenVocabulary().evaluate(
            models, tmp_path, {**SMALL, "clip": str(clip)}, backbone="tiny_backbone", baseline=True, out=out,
            progress=False,
        )  # fmt: skip

    check_going_on(evaluate, tmp_path / "out")


def test_views_do_not_share_features(photos, clip):
    backbone, upsampler = naf_hub.load_backbone("tiny_backbone"), naf_hub.load("bilinear")
    protocol = VocabularyProtocol.read(SMALL)
    segmenter = Segmenter(load_clip(str(clip)), backbone, Vocabulary.parse("cat,sofa"), protocol)
    first, second = (segmenter.look(read_image(photo)) for photo in photos)
    segmenter.score(second, upsampler)
    alone = segmenter.score(segmenter.look(read_image(photos[0])), upsampler)
    torch.testing.assert_close(segmenter.score(first, upsampler), alone)


def test_texts_are_read_as_open_clip_reads_them(clip):
    """Though what follows the end of the longest is left out."""
    loaded, texts = load_clip(str(clip)), ["a cat", "a photo of the large, red sofa by the wall."]
    with torch.no_grad():
        expected = loaded.model.encode_text(open_clip.tokenize(texts))
    torch.testing.assert_close(loaded.encode_texts(texts), expected, rtol=1e-4, atol=1e-5)
    queries = loaded.encode_queries(["cat", "sofa"])
    torch.testing.assert_close(queries.norm(dim=1), torch.ones(2))


def test_clip_of_the_hub_is_fetched_once_and_by_commit(clip, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    source = "hf://tiny/clip"
    with pytest.raises(WeightsError, match="not cached and the Hub is offline"):
        load_clip(source)
    with serve() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(WeightsError, match="no repository"):
            load_clip(source)
        hub.repos["tiny/clip"] = {name: (clip / name).read_bytes() for name in (CONFIG, FILE)}
        loaded = load_clip(source)
        assert loaded.origin == {"clip": source, "commit": COMMIT}
        count = len(hub.requests("GET"))
        load_clip(f"{source}@{COMMIT}")
        assert len(hub.requests("GET")) == count
    local = load_clip(str(clip))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), local.parameters(), strict=True))


def other(config: dict[str, object], clip: Path, folder: Path) -> str:
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({"model_cfg": {**MODEL, **config}}))
    (folder / FILE).symlink_to(clip / FILE)
    return str(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vision_cfg": {**MODEL["vision_cfg"], "width": 8}}, "visual"),
        ({"embed_dim": 8}, "visual.proj"),
        ({"vision_cfg": {**MODEL["vision_cfg"], "layers": [1, 1, 1, 1]}}, "no plain transformer"),
        ({"text_cfg": {**MODEL["text_cfg"], "vocab_size": 9}}, "does not read CLIP's own tokens"),
        ({"colour": 1}, "OpenCLIP builds no such CLIP"),
    ],
)
def test_weights_of_another_clip_are_one_line(config, message, clip, tmp_path):
    with pytest.raises(WeightsError, match=message) as raised:
        load_clip(other(config, clip, tmp_path / "other"))
    assert "\n" not in str(raised.value)


def test_quick_gelu_is_not_forgotten(clip, tmp_path):
    left_out = {key: value for key, value in MODEL.items() if key != "quick_gelu"}
    for name, expected in (("clip.openai", "QuickGELU"), ("clip.laion", "GELU")):
        other({}, clip, tmp_path / name)
        (tmp_path / name / CONFIG).write_text(json.dumps(left_out))
        block = load_clip(str(tmp_path / name)).model.visual.transformer.resblocks[0]
        assert type(block.mlp.gelu).__name__ == expected


def test_what_is_missing_is_one_line(clip, photos, tmp_path, monkeypatch):
    with pytest.raises(
        WeightsError, match=r"no file .*open_clip_config\.json; give hf://owner/repo or a folder"
    ):
        load_clip(str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"hf download one/clip open_clip_config\.json open_clip_model\.safetensors"
    ):
        load_clip("hf://one/clip")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    for photo, error in (
        (tmp_path / "broken.jpg", "not an image file"),
        (tmp_path / "no.jpg", "no such image"),
    ):
        result = segment(photo, clip, tmp_path / "out", "--classes", "cat,sofa")
        assert (result.exit_code, error in result.output) == (1, True)
        assert len(result.output.splitlines()) == 1
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtraError, match=r"needs OpenCLIP: pip install 'naf-hub\[eval\]'"):
        load_clip(str(clip))
    with pytest.raises(ValueError, match="needs a backbone"):
        OpenVocabulary().evaluate("bilinear", tmp_path)


def test_one_thing_is_found_by_its_words_where_a_clip_is(clip, photos, tmp_path):
    image = read_image(photos[0])
    backbone = naf_hub.load_backbone("tiny_backbone", weights=None)
    models = backbone, naf_hub.load("bilinear")
    found = WordMaps({"clip": str(clip), **SMALL})
    maps = [found.find(image, words, *models) for words in ("cat", "kitten", "cat; kitten")]
    assert maps[0].shape == maps[1].shape == (64, 71)
    assert not torch.allclose(maps[0], maps[1])
    torch.testing.assert_close(maps[2], torch.maximum(maps[0], maps[1]))
    for nothing in ("", "cat;"):
        with pytest.raises(ValueError, match="name what to look for"):
            found.find(image, nothing, *models)
    assert (is_here(str(clip)), is_here(str(tmp_path))) == (True, False)
    assert isinstance(find_word_maps(str(clip), "cpu"), WordMaps)
    assert find_word_maps(None, "cpu") is None  # OpenAI's would have to be fetched
    with pytest.raises(WeightsError, match="no file"):
        find_word_maps(str(tmp_path), "cpu")
