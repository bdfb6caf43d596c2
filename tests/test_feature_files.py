"""Features on disk: found by their photos, read in crops, and damaged ones told."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.feature_files import FeatureFile, FeatureFileError


@pytest.fixture(scope="module", params=["safetensors", "npy"])
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two photos, of which one lies in a folder."""
    root = tmp_path_factory.mktemp(request.param)
    for seed, name in enumerate(("a.jpg", "sub/b.png")):
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 255, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "in" / name)
    given = ["upsample", str(root / "in"), "-o", str(root / "out"), "--upsampler", "bilinear", "--size", "32"]
    result = CliRunner().invoke(cli, [*given, "--format", request.param, "--dtype", "float32"])
    assert result.exit_code == 0, result.output
    return root / "out"


def test_photos_lead_to_their_features_and_crops_are_those_of_the_whole(out: Path):
    features = naf_hub.open_features(out)
    assert list(features) == ["a.jpg", "sub/b.png"]
    assert not features.damaged
    file = features["sub/b.png"]
    model = naf_hub.load("bilinear", backbone="pico")
    with torch.no_grad():
        whole = model(out.parent / "in" / "sub" / "b.png")[0]
    assert file.shape == tuple(whole.shape)
    assert file.dtype == "float32"
    torch.testing.assert_close(file.read(), whole, atol=1e-5, rtol=0)
    crop = file.read(slice(3, 9), slice(-8, None))
    assert torch.equal(crop, file.read()[:, 3:9, -8:])
    assert pickle.loads(pickle.dumps(file)) == file
    assert features.settings()["upsampler"] == "bilinear"
    with pytest.raises(ValueError, match="no step"):
        file.read(slice(0, 8, 2))


def test_low_resolution_features_are_read_where_they_are(out: Path):
    file = naf_hub.open_features(out)["a.jpg"]
    if file.path.suffix == ".npy":
        with pytest.raises(FeatureFileError, match="holds the upsampled features alone"):
            file.read_low_res()
    else:
        assert tuple(file.read_low_res().shape) == file.low_res_shape


def test_damaged_and_foreign_files_cost_themselves_alone(out: Path, tmp_path: Path):
    suffix = naf_hub.open_features(out)["a.jpg"].path.suffix
    data = naf_hub.open_features(out)["a.jpg"].path.read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[:-10])
    (tmp_path / f"empty{suffix}").write_bytes(b"")
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    np.save(tmp_path / "flat.npy", np.ones(3))
    np.save(tmp_path / "plain.npy", np.ones((2, 3, 4), np.float16))
    features = naf_hub.open_features(tmp_path)
    assert list(features) == ["plain.npy"], (
        "named by its own place, since it does not say of which photo it is"
    )
    assert features["plain.npy"].read(slice(1, 2)).shape == (2, 1, 4)
    assert {path.name for path in features.damaged} == {
        f"cut{suffix}",
        f"empty{suffix}",
        "model.safetensors",
        "flat.npy",
    }
    features["plain.npy"].path.unlink()
    with pytest.raises(FeatureFileError, match=r"plain\.npy: cannot be read"):
        features["plain.npy"].read()


def test_what_cannot_be_told_apart_is_refused(out: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no features"):
        naf_hub.open_features(tmp_path)
    file = naf_hub.open_features(out)["a.jpg"].path
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for path in file.parent.glob(f"{file.name}*"):
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    with pytest.raises(FeatureFileError, match=r"are both of a\.jpg"):
        naf_hub.open_features(tmp_path)


def test_other_settings_in_one_folder_are_told(tmp_path: Path):
    files = {
        name: FeatureFile(Path(name), (1, 2, 2), None, "float16", name, {"size": size})
        for name, size in (("a", "32"), ("b", "48"))
    }
    with pytest.raises(FeatureFileError, match="b and a differ in size"):
        naf_hub.feature_files.FeatureFolder(files, {}).settings()


def test_what_is_no_folder_of_features_is_told(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.touch()
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        naf_hub.open_features(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"a\.txt: is no folder"):
        naf_hub.open_features(file)
    with pytest.raises(FileNotFoundError, match="no features"):
        naf_hub.open_features(tmp_path)
