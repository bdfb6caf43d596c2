"""A small world to train in: a backbone as a plugin, pictures whose edges tell where features change."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ready_python import Process, start_python

from naf_hub.training.run import Run
from naf_hub.training.settings import build
from naf_hub_reconstruction.config import TrainConfig
from naf_hub_reconstruction.course import ReconstructionCourse

BACKBONE = """
from naf_hub import BackboneRecord, hookimpl

@hookimpl
def register_backbones(register):
    register(BackboneRecord(name="tiny_backbone", summary="Mean colours, mixed at random.", learned=False,
                            target="tiny_plugin:load_class", embed_dim=8, patch_size=8))

def __getattr__(name):
    if name == "load_class":
        import torch
        from naf_hub import Backbone

        class TinyBackbone(Backbone):
            calls = 0

            def __init__(self):
                super().__init__(8, 8)
                mix = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
                self.register_buffer("mix", mix)

            def extract(self, image):
                type(self).calls += 1
                means = torch.nn.functional.avg_pool2d(image, 8)
                return torch.einsum("dc,bchw->bdhw", self.mix, means)

        globals()["load_class"] = TinyBackbone
        return TinyBackbone
    raise AttributeError(name)
"""

COARSE = BACKBONE.replace("tiny", "coarse").replace("8, 8)", "6, 16)").replace("image, 8", "image, 16")
COARSE = COARSE.replace("(8, 3,", "(6, 3,").replace("embed_dim=8, patch_size=8", "embed_dim=6, patch_size=16")

TINY = {
    "upsampler": "naf",
    "upsampler_options": {"dim": 32, "num_blocks": 1, "kernel_size": 3},
    "backbone": "tiny_backbone",
    "backbone_weights": "none",
    "resize": 0,
    "crop": 64,
    "random_crop": True,
    "flip": True,
    "batch": 2,
    "lr": 2e-3,
    "log_every": 1,
    "preview_every": 0,
}


def draw_picture(path: Path, seed: int, side: tuple[int, int] = (72, 80)) -> Path:
    """Flat coloured rectangles with edges anywhere, so that they cut through feature cells."""
    draw = np.random.default_rng(seed)
    picture = np.full((*side, 3), draw.integers(0, 256, 3), np.uint8)
    for _ in range(6):
        top, left = draw.integers(0, side[0] - 16), draw.integers(0, side[1] - 16)
        height, width = draw.integers(12, 48, 2)
        picture[top : top + height, left : left + width] = draw.integers(0, 256, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def draw_pictures(folder: Path, count: int, seed: int = 0) -> Path:
    for index in range(count):
        draw_picture(folder / f"{index:03d}.png", seed * 1000 + index)
    return folder


def settings(images: Path, **changes: Any) -> dict[str, Any]:
    return {**TINY, "images": [str(images)], **changes}


def prepare_run(
    images: Path,
    out: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    tensorboard: bool = False,
    **changes: Any,
) -> Any:
    """A run of the settings of :func:`settings`."""
    course = ReconstructionCourse(build(TrainConfig, settings(images, **changes)), cache)
    return Run(course, out, resume=resume, tensorboard=tensorboard, progress=False)


def command(images: Path, out: Path, *more: str) -> list[str]:
    """``naf-hub train reconstruction`` in another process, with the settings of :func:`settings`."""
    arguments = ["--images", str(images), "--out", str(out)]
    for key, value in TINY.items():
        if isinstance(value, dict):
            arguments += [part for k, v in value.items() for part in ("--set", f"{key}.{k}={v}")]
        else:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ["--set", f"{key}={text}"]
    return [sys.executable, "-m", "naf_hub", "train", "reconstruction", *arguments, *more]


def environment(plugins: Path) -> dict[str, str]:
    """For :func:`command`: one thread, and the folder of the tiny plugin on the path."""
    path = os.pathsep.join([str(plugins), *(p for p in sys.path if p)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def training(pictures: Path, plugins: Path) -> Iterator[Callable[..., Process]]:
    """Gives ``start(out, *options, launcher=[], VARIABLE=value)``; at the end all is killed, children included."""
    started: list[Process] = []

    def start(out: Path, *more: str, launcher: Sequence[str] = (), **variables: str) -> Process:
        _, *arguments = command(pictures, out, *more)
        process = start_python(*launcher, *arguments, environment=environment(plugins) | variables)
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], Any], process: Process, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def finish(process: Process, status: int = 0) -> tuple[str, str]:
    """stdout and stderr of a process that must end with ``status``."""
    output, errors = process.communicate(timeout=240)
    assert process.returncode == status, errors
    return output, errors


def has_trained(out: Path) -> bool:
    """Whether the log tells of a step."""
    log = out / "log.jsonl"
    return log.exists() and '"train"' in log.read_text()


def same_state(one: Any, other: Any) -> bool:
    """Equal to the bit, all the way down."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_state, one, other))
    return one == other
