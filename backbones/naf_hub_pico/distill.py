"""Distil pico from a teacher backbone: ``python -m naf_hub_pico.distill --help``.

The student's features go through a linear head, used in training only, and are regressed on the teacher's
features, standardised channel by channel. Of the teacher only the output is used: the student starts from
random weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import naf_hub
from naf_hub.atomic import atomic_file
from naf_hub.images import find_images
from naf_hub.weights.files import save_weights

from .network import Pico
from .views import ViewPool

CHECKPOINT = "checkpoint.pt"
# A channel that hardly ever fires has no useful standardised target.
SMALLEST_DEVIATION = 1e-3


def loss_function(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss, and the share of the target's variance left unexplained, of (B, C, h, w) standardised features.

    Huber instead of squares: rarely active channels have standardised values beyond 20, which would
    otherwise dominate. The cosine term weighs all cells alike.
    """
    huber = F.huber_loss(prediction, target, delta=3.0)
    cosine = 1 - F.cosine_similarity(prediction, target, dim=1).mean()
    with torch.no_grad():
        unexplained = (prediction - target).square().mean() / target.square().mean().clamp_min(1e-12)
    return huber + 0.5 * cosine, unexplained


def rate(step: int, steps: int, warmup: int = 200, decay: float = 0.35) -> float:
    """Share of the peak learning rate: linear warm-up, plateau, linear decay to zero over the last part.

    A plateau, so that a run can be resumed with another ``steps``.
    """
    return max(0.0, min((step + 1) / warmup, 1.0, (steps - step) / (decay * steps)))


class Distillation:
    """Student, head, averaged copy and optimiser, and their checkpoint in ``out``."""

    def __init__(self, channels: int, out: Path, lr: float, weight_decay: float) -> None:
        self.out = out
        self.lr = lr
        self.student = Pico()
        self.head = nn.Conv2d(self.student.embed_dim, channels, 1)
        self.average = AveragedModel(self.student, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
        self.mean = torch.zeros(channels)
        self.std = torch.ones(channels)
        parameters = [*self.student.parameters(), *self.head.parameters()]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr)
        self.step = 0

    def standardise(self, features: Tensor) -> Tensor:
        std = self.std.view(1, -1, 1, 1)
        target = (features - self.mean.view(1, -1, 1, 1)) / std.clamp_min(SMALLEST_DEVIATION)
        return torch.where(std < SMALLEST_DEVIATION, 0.0, target)

    def train_step(self, images: Tensor, features: Tensor, rate: float) -> tuple[float, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * rate
        self.student.train()
        loss, unexplained = loss_function(self.head(self.student(images)), self.standardise(features))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*self.student.parameters(), *self.head.parameters()], 5.0)
        self.optimizer.step()
        self.average.update_parameters(self.student)
        self.step += 1
        return loss.item(), unexplained.item()

    def save(self) -> None:
        state = {
            "step": self.step,
            "student": self.student.state_dict(),
            "head": self.head.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean,
            "std": self.std,
        }
        with atomic_file(self.out / CHECKPOINT) as path:
            torch.save(state, path)

    def resume(self) -> bool:
        """Continue from the checkpoint in ``out``; ``False`` where there is none."""
        path = self.out / CHECKPOINT
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True, map_location="cpu")
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self.head.load_state_dict(state["head"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean, self.std = state["mean"], state["std"]
        return True

    def weights(self) -> dict[str, Tensor]:
        """The averaged student in half precision, 2.5 MB."""
        state = self.average.module.state_dict()
        return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def distill(
    *,
    teacher: str = "timm:mobilenetv1_100",
    teacher_weights: str | None,
    teacher_options: dict[str, Any],
    images: list[str],
    out: str | Path,
    steps: int = 6000,
    batch_size: int = 8,
    crop_size: int = 192,
    sides: tuple[int, int] = (224, 448),
    lr: float = 3e-3,
    weight_decay: float = 0.02,
    pool: int = 1536,
    prefill: int = 128,
    renew: float = 0.5,
    seed: int = 0,
    save_every: int = 250,
) -> Path:
    """Distil pico and write its weights to ``out/weights``; a checkpoint in ``out`` is continued.

    Args:
        teacher, teacher_weights, teacher_options: for :func:`naf_hub.load_backbone`; stride 16.
        images: files, folders or patterns.
        steps, batch_size, crop_size, lr, weight_decay: of AdamW on random crops.
        sides: range in pixels of the short side that images are scaled to.
        pool, prefill, renew: views held, views made before the first step, and new views a step.
        save_every: steps between checkpoints.

    Returns:
        The folder with ``model.safetensors``, ``config.json`` and ``README.md``.

    Raises:
        FileNotFoundError, ValueError: no images, or a teacher that is not of stride 16.
    """
    paths = find_images(images)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model = naf_hub.load_backbone(teacher, weights=teacher_weights, **teacher_options)
    torch.manual_seed(seed)
    run = Distillation(model.embed_dim, out, lr, weight_decay)
    resumed = run.resume()
    # The pool is not part of a checkpoint: a continued run draws other views, not the same ones again.
    material = ViewPool(paths, model, capacity=pool, crop_size=crop_size, sides=sides, seed=seed + run.step)
    for _ in tqdm(range(max(prefill, batch_size)), desc="teacher", unit="view"):
        material.renew()
    if not resumed:
        run.mean, run.std = material.statistics()
    started, due = time.monotonic(), 0.0
    with (
        open(out / "log.jsonl", "a", encoding="utf-8") as log,
        tqdm(total=steps, initial=run.step, desc="distil", unit="step") as bar,
    ):
        while run.step < steps:
            due += renew
            while due >= 1:
                material.renew()
                due -= 1
            share = rate(run.step, steps)
            loss, unexplained = run.train_step(*material.batch(batch_size), share)
            bar.update()
            bar.set_postfix(loss=f"{loss:.4f}", unexplained=f"{unexplained:.3f}", refresh=False)
            seconds = round(time.monotonic() - started, 2)
            entry = {
                "step": run.step,
                "loss": loss,
                "unexplained": unexplained,
                "lr": lr * share,
                "seconds": seconds,
            }
            log.write(json.dumps(entry) + "\n")
            if run.step % save_every == 0 or run.step == steps:
                log.flush()
                run.save()
    options = {"teacher": teacher, **teacher_options}
    provenance = {
        "method": "distillation",
        "teacher": options,
        "images": len(paths),
        "steps": run.step,
        "batch_size": batch_size,
        "crop_size": crop_size,
        "seed": seed,
    }
    folder = out / "weights"
    card = (
        f"# pico\n\nDistilled from `{teacher}` on {len(paths)} images: "
        f"{run.step} steps of {batch_size} crops of {crop_size} pixels.\n"
    )
    save_weights(folder, run.weights(), name="pico", options={}, provenance=provenance, card=card)
    return folder


def option(text: str) -> tuple[str, Any]:
    """``key=value`` with a JSON value, or a bare word."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


MOBILENET = {"pad_type": "same", "bn_eps": 1e-3, "stride": 16}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m naf_hub_pico.distill",
        description="Distil the pico backbone from a teacher of stride 16.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--teacher", default="timm:mobilenetv1_100", help="backbone name")
    parser.add_argument("--teacher-weights", required=True, help="named set, local path or hf://owner/repo")
    parser.add_argument(
        "--teacher-option", type=option, action="append", metavar="KEY=VALUE", help=f"instead of {MOBILENET}"
    )
    parser.add_argument("--images", nargs="+", required=True, help="files, folders or patterns")
    parser.add_argument(
        "--out", required=True, help="folder for checkpoint, log and weights; continued if it has one"
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop-size", type=int, default=192, help="pixels, a multiple of 16")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--pool", type=int, default=1536, help="views held in memory, about 1 MB each")
    parser.add_argument("--renew", type=float, default=0.5, help="new views a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")
    settings = vars(parser.parse_args(arguments))
    chosen = settings.pop("teacher_option")
    settings["teacher_options"] = dict(chosen) if chosen else dict(MOBILENET)
    try:
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
