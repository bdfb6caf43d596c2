"""Distil pico from a teacher backbone: ``python -m naf_hub_pico.distill --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import naf_hub
from naf_hub.options import pick_device
from naf_hub.training.run import Run
from naf_hub.training.settings import build

from .course import Distillation, DistillSettings


def distill(
    *,
    out: str | os.PathLike[str],
    device: str | None = None,
    progress: bool = True,
    allow_changed_images: bool = False,
    **settings: Any,
) -> Path:
    """Distil pico and write its weights to ``out/weights``; a run in ``out`` is continued.

    Args:
        out, device, progress, allow_changed_images: see :class:`naf_hub.training.run.Run`.
        settings: keys of :class:`~naf_hub_pico.course.DistillSettings`.

    Returns:
        The folder with ``model.safetensors``, ``config.json`` and ``README.md``.

    Raises:
        FileNotFoundError, ValueError: no images, or none that is large enough.
        ConfigError: the run in ``out`` was started with other settings.
    """
    course = Distillation(build(DistillSettings, settings), out)
    Run(
        course,
        out,
        resume=True,
        allow_changed_images=allow_changed_images,
        device=device,
        progress=progress,
        title="distil",
    ).run()
    return Path(out) / "weights"


def option(text: str) -> tuple[str, Any]:
    """``key=value`` with a JSON value, or a bare word."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m naf_hub_pico.distill",
        description="Distil the pico backbone from a teacher. Ctrl-C saves; the same command goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--teacher", default="timm:vit_small_patch14_dinov2", help="learn from this backbone")
    parser.add_argument(
        "--teacher-weights",
        required=True,
        help="take its weights from a named set, a local path or hf://owner/repo",
    )
    parser.add_argument(
        "--teacher-option",
        type=option,
        action="append",
        metavar="KEY=VALUE",
        help="build it with this option",
    )
    parser.add_argument(
        "--images", nargs="+", required=True, help="train on these files, folders or patterns"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="keep checkpoints, log and weights in this folder; a checkpoint there is continued",
    )
    parser.add_argument("--steps", type=int, default=6000, help="take so many steps of the optimizer")
    parser.add_argument("--batch-size", dest="batch", type=int, default=8, help="take so many crops a step")
    parser.add_argument(
        "--crop-size", type=int, default=192, help="cut crops of so many pixels a side, a multiple of 16"
    )
    parser.add_argument("--lr", type=float, default=3e-3, help="rise to this learning rate")
    parser.add_argument(
        "--pool", type=int, default=1536, help="hold so many views in memory, about 1 MB each"
    )
    parser.add_argument("--renew", type=float, default=0.5, help="make so many new views a step")
    parser.add_argument(
        "--seed", type=int, default=0, help="draw initial weights, views and crops from this seed"
    )
    parser.add_argument(
        "--save-every", dest="checkpoint_every", type=int, default=250, help="save after so many steps"
    )
    parser.add_argument(
        "--device", default="auto", help="train on this device: auto, cpu, cuda, cuda:1 or mps"
    )
    parser.add_argument(
        "--allow-changed-images",
        action="store_true",
        help="go on although pictures were replaced under their names since the start",
    )
    settings = vars(parser.parse_args(arguments))
    chosen = settings.pop("teacher_option")
    settings["teacher_options"] = dict(chosen or ())
    try:
        settings["device"] = pick_device(settings["device"])
        folder = distill(**settings)
    except (naf_hub.NafHubError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
