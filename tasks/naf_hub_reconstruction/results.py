"""What a run shows of itself: log lines, held-out error, previews, the best weights and the last."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from torch import nn

from naf_hub.interfaces import Upsampler
from naf_hub.training.board import Board
from naf_hub.training.hardware import describe_hardware
from naf_hub.training.journal import Journal
from naf_hub.weights.files import save_weights

from .card import model_card
from .config import TrainConfig
from .evaluate import Pair, score
from .features import Teacher
from .preparation import prepare_pairs
from .preview import draw_preview

log = logging.getLogger("naf_hub")


def peak_memory(device: torch.device) -> int:
    """Bytes: most that torch held on a CUDA device, elsewhere most that this process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":  # which has no resource module
        return psutil.Process().memory_info().peak_wset
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class Results:
    """Of one run, written by its first process.

    Args:
        config: of the run.
        out: folder of the run.
        teachers: frozen backbones by name.
        held_out: images for the held-out error; may be empty.
        files: images trained on; the first is drawn in previews where nothing is held out.
        journal, board: where figures go; the board is optional.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        teachers: Mapping[str, Teacher],
        held_out: Sequence[Path],
        files: Sequence[Path],
        journal: Journal,
        board: Board | None,
    ) -> None:
        self.config, self.out, self.teachers, self.held_out = config, out, teachers, held_out
        self.journal, self.board = journal, board
        self.shown = list(held_out or files)
        self.pairs: dict[str, list[Pair]] = {}

    def close(self) -> None:
        if self.board:
            self.board.close()

    def trained(self, step: int, **figures: float) -> None:
        """Note loss, learning rate and speed of a step."""
        for key, digits in (("seconds", 1), ("images_per_second", 2)):
            figures[key] = round(figures[key], digits)
        self.journal.write("train", step=step, **figures)
        if self.board:
            self.board.scalars(step, {f"train/{key}": value for key, value in figures.items()})

    def look(self, model: nn.Module, summary: Mapping[str, Any], last: bool) -> None:
        """After a step: evaluate and draw where it is time to.

        Args:
            model: what would be shipped now.
            summary: of the run so far.
            last: whether this was the last step.
        """
        config, step = self.config, summary["steps"]
        model = cast("Upsampler", model)
        training = model.training
        model.eval()
        if self.held_out and (step % config.eval_every == 0 or last):
            self._evaluate(model, summary)
        if config.preview_every and (step % config.preview_every == 0 or last):
            self._preview(step, model)
        model.train(training)

    def _evaluate(self, model: Upsampler, summary: Mapping[str, Any]) -> None:
        before, step = self.best(), summary["steps"]
        ratios = []
        for name, teacher in self.teachers.items():
            if name not in self.pairs:
                self.pairs[name] = prepare_pairs(self.config, self.held_out, teacher)
            found = score({"model": model}, self.pairs[name])
            figures = {
                "images": found["images"],
                "bilinear_mse": found["bilinear_mse"],
                **found["methods"]["model"],
            }
            self.journal.write("eval", step=step, backbone=name, **figures)
            if self.board:
                self.board.scalars(step, {f"held_out/{name}/{k}": v for k, v in figures.items()})
            ratios.append(figures["ratio_to_bilinear"])
        ratio = sum(ratios) / len(ratios)
        if math.isfinite(ratio) and (before is None or ratio < before["ratio_to_bilinear"]):
            self._write("best", model, summary)
            self.journal.write("best", step=step, ratio_to_bilinear=ratio)

    def best(self) -> dict[str, Any] | None:
        """Step and ``ratio_to_bilinear`` (mean over backbones) of the weights in ``best/``."""
        found = [line for line in self.journal.lines() if line["event"] == "best"]
        return {key: found[-1][key] for key in ("step", "ratio_to_bilinear")} if found else None

    def _preview(self, step: int, model: Upsampler) -> None:
        try:
            picture = draw_preview(self.config, self.shown, next(iter(self.teachers.values())), model)
        except (ValueError, RuntimeError) as error:  # a picture is not worth a run
            log.warning("no preview at step %d: %s", step, error)
            self.journal.write("no_preview", step=step, reason=str(error))
            return
        folder = self.out / "previews"
        folder.mkdir(exist_ok=True)
        picture.save(folder / f"step-{step:08d}.png")
        if self.board:
            self.board.picture(step, "preview", picture)

    def held_out_figures(self) -> dict[str, dict[str, Any]] | None:
        """The last held-out figures of each backbone."""
        lines = [line for line in self.journal.lines() if line["event"] == "eval"]
        keys = ("images", "bilinear_mse", "mse", "ratio_to_bilinear", "cosine")
        return {line["backbone"]: {key: line[key] for key in keys} for line in lines} or None

    def finish(self, model: nn.Module, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``weights/``; returns the whole summary."""
        losses = [line["loss"] for line in self.journal.lines() if line["event"] == "train"]
        loss = summary["loss"] if math.isfinite(summary["loss"]) else (losses[-1] if losses else None)
        whole = {**summary, "loss": loss, "best": self.best()}
        return {**whole, **self._write("weights", model, whole)}

    def _write(self, name: str, model: nn.Module, summary: Mapping[str, Any]) -> dict[str, Any]:
        config = self.config
        whole: dict[str, Any] = {
            "upsampler": config.upsampler,
            "backbone": list(config.backbone),
            **summary,
            "held_out": self.held_out_figures(),
            "hardware": describe_hardware(summary["device"], summary["processes"]),
        }
        provenance = {**whole, "skipped": len(summary["skipped"]), "config": config.to_dict()}
        folder = save_weights(
            self.out / name,
            model,
            name=config.upsampler,
            options=dict(config.upsampler_options),
            provenance=provenance,
            card=model_card(config, whole),
        )
        return {**whole, "weights": str(folder)}
