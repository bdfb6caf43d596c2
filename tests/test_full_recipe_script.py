"""The script for a GPU, run on a CPU with everything made tiny: both stages, resumed, summed up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ready_python import python_for_scripts
from reconstruction_world import BACKBONE, draw_pictures, environment

SCRIPT = Path(__file__).parent.parent / "scripts" / "train-naf-full.sh"
TINY = [
    "crop=64",
    "resize=0",
    "preview_every=0",
    "upsampler_options.dim=32",
    "upsampler_options.num_blocks=1",
]


@pytest.fixture
def python(tmp_path):
    with python_for_scripts(tmp_path) as python:
        yield python


@pytest.mark.skipif(sys.platform == "win32", reason="a bash script")
def test_both_stages_and_their_figures(tmp_path, install_plugin, python):
    install_plugin("tiny-plugin", BACKBONE)
    images, held_out = draw_pictures(tmp_path / "a", 4), draw_pictures(tmp_path / "b", 2, seed=5)
    command = ["bash", str(SCRIPT), str(images), str(held_out), str(tmp_path / "out"), "tiny_backbone"]
    command += [part for setting in TINY for part in ("--set", setting)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {
        **environment(tmp_path / "tiny-plugin"),
        "STEPS1": "3",
        "STEPS2": "2",
        "WORKERS": "0",
        "LAUNCH": str(python),
        "PATH": path,
    }
    first = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert [line.split(" in ")[0] for line in lines if "stage" in line] == [
        "stage 1: 3 steps",
        "stage 2: 2 steps",
    ]
    assert sum("tiny_backbone: " in line for line in lines) == 2
    config = json.loads((tmp_path / "out" / "stage2" / "weights" / "config.json").read_text())
    assert config["provenance"]["config"]["init"] == "weights", "no path of this machine"
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    assert "stage 2: 2 steps" in again.stdout
    log = (tmp_path / "out" / "stage1" / "log.jsonl").read_text()
    assert log.count('"event": "train"') == 1, "a finished stage is not trained again"


def test_usage():
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "TRAIN_IMAGES HELD_OUT_IMAGES OUT" in done.stderr
