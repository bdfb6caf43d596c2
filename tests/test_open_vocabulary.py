"""Open-vocabulary segmentation from end to end, with a tiny random CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from click.testing import CliRunner, Result
from reconstruction_world import BACKBONE, draw_picture
from safetensors.torch import save_file

from naf_hub.commands.main import cli
from naf_hub_open_vocabulary.clip import CONFIG, FILE

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
