"""The training loop: resumable to the bit, stoppable at any moment."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from naf_hub.errors import NafHubError
from naf_hub.images import find_images
from naf_hub.weights import save_weights

from .card import model_card
from .checkpoints import Checkpoint, clean, newest, save_checkpoint
from .config import ConfigError, TrainConfig, difference
from .data import Crops, Sample
from .evaluate import Pair, score
from .interrupts import StopRequest, leave_signals_to_parent
from .journal import Journal
from .plan import Steps
from .preparation import held_out_files, prepare_model, prepare_pairs, prepare_schedule, prepare_teacher
from .random_state import get_random_state, set_random_state

log = logging.getLogger("naf_hub")


class TrainingError(NafHubError, RuntimeError):
    """Training cannot go on."""


class Trainer:
    """One training run in one folder.

    The folder gets ``log.jsonl``, ``checkpoints/`` and, at the end, ``weights/`` (to be loaded with
    ``weights=``). Building a trainer does everything that can fail early: it makes the folder, finds the
    images, loads the models and, with ``resume``, the newest valid checkpoint.

    Args:
        config: what to compute.
        out: folder of the run.
        resume: go on from the newest checkpoint there, if there is one.
        cache_features: folder for features of the frozen backbone; needs ``config.views``.
        device: where to train; default CUDA where there is one, else the CPU.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: unusable settings, or settings that differ from those of the run to be resumed.
        TrainingError: the folder already holds a run and ``resume`` was not asked for.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: str | os.PathLike[str],
        *,
        resume: bool = False,
        cache_features: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        progress: bool = True,
    ) -> None:
        self.config, self.out, self.progress = config, Path(out), progress
        self.folder = self.out / "checkpoints"
        self.journal = Journal(self.out / "log.jsonl")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.journal.path.touch()  # a place that cannot be written fails here, before any work
        clean(self.folder)
        checkpoint = newest(self.folder)
        if checkpoint and not resume:
            raise TrainingError(
                f"{self.out} already holds a run at step {checkpoint.step}: continue it with --resume, "
                "or choose another folder"
            )
        if not config.images:
            raise ConfigError("no training images given")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.files = find_images(config.images)
        self.held_out = held_out_files(config, self.files)
        self.pairs: list[Pair] | None = None
        self.teacher, self.plan, self.facts = prepare_teacher(config, self.files, self.device, cache_features)
        self.model = prepare_model(config, self.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )
        self.schedule = prepare_schedule(config, self.optimizer)
        self.random_state = get_random_state(self.device)
        self.step, self.seconds, self.skipped = 0, 0.0, dict[str, str]()
        if checkpoint:
            self._restore(checkpoint)
        else:
            self.journal.start(images=len(self.files), config=config.to_dict())

    def _restore(self, checkpoint: Checkpoint) -> None:
        manifest = checkpoint.manifest
        changes = difference(manifest["config"], self.facts["config"])
        for key, what in (
            ("images_sha256", f"list of images ({manifest['images']} -> {self.facts['images']} files)"),
            ("backbone_sha256", "weights of the backbone"),
            ("cached", "use of --cache-features"),
        ):
            if manifest[key] != self.facts[key] and not (key == "images_sha256" and changes):
                changes.append(what)
        if changes:
            raise ConfigError(
                f"{self.out} was started with other settings, so it cannot go on: {'; '.join(changes)}"
            )
        self.model.load_state_dict(checkpoint.model())
        state = checkpoint.training()
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.random_state = state["random_state"]
        self.step, self.seconds = checkpoint.step, manifest["seconds"]
        self.skipped = dict(manifest["skipped"])
        self.journal.rewind(self.step)
        self.journal.write("resume", step=self.step)

    def run(self) -> dict[str, Any]:
        """Train to the last step and write the weights.

        Returns:
            A summary: steps, last loss, held-out figures, skipped images, seconds, folder of the weights.

        Raises:
            TrainingError: the loss or a gradient is no longer finite.
            CheckpointError: a checkpoint cannot be written.
            KeyboardInterrupt: Ctrl-C; a checkpoint has been written.
        """
        config, started, before = self.config, time.perf_counter(), self.seconds
        loss = float("nan")
        set_random_state(self.random_state, self.device)  # whatever the host drew meanwhile
        with StopRequest() as stop, self._bar() as bar:
            for samples in self._loader():
                self._note_skipped(samples)
                rate = self.schedule.get_last_lr()[0]
                loss = self._train_step(samples)
                self.step += 1
                self.seconds = before + time.perf_counter() - started
                bar.update(len(samples))
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    bar.set_postfix_str(f"step {self.step}/{config.steps} loss {loss:.4g}")
                    self.journal.write(
                        "train", step=self.step, loss=loss, lr=rate, seconds=round(self.seconds, 1)
                    )
                if self.held_out and (self.step % config.eval_every == 0 or last):
                    self._evaluate()
                if self.step % config.checkpoint_every == 0 or last or stop.signal:
                    self.save()
                if stop.signal and not last:
                    stop.leave()
        return self._finish(loss)

    def _loader(self) -> DataLoader[Sample]:
        return DataLoader(
            Crops(self.config, self.files, self.teacher.cache),
            batch_sampler=Steps(self.plan, self.step, self.config.steps),  # pyright: ignore[reportArgumentType]
            num_workers=self.config.workers,
            collate_fn=list,
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator(),  # else it draws from the generator that resuming restores
        )

    def _bar(self) -> tqdm[Any]:
        return tqdm(
            total=self.config.steps * self.config.batch,
            initial=self.step * self.config.batch,
            unit="image",
            disable=None if self.progress else True,
        )

    def _train_step(self, samples: Sequence[Sample]) -> float:
        guidance, small, target = self.teacher.batch(samples)
        size = (target.shape[-2], target.shape[-1])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            output = self.model(guidance, small, size)
        loss = F.mse_loss(output.float(), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip or math.inf)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            self._diverged(value, samples)
        self.optimizer.step()
        self.schedule.step()
        return value

    def _diverged(self, loss: float, samples: Sequence[Sample]) -> None:
        # The optimizer has not stepped: the weights are still those of the last good step.
        saved = self.save()
        what = f"loss became {loss}" if not math.isfinite(loss) else "a gradient is not finite"
        self.journal.write("diverged", step=self.step + 1, loss=str(loss))
        names = ", ".join(sample.path.name for sample in samples)
        raise TrainingError(
            f"{what} at step {self.step + 1} (images {names}); the weights before it are in {saved}; "
            f"start anew from them with --set init={saved} and a smaller lr or grad_clip=1"
        )

    def _note_skipped(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            for path, reason in sample.skipped.items():
                if path not in self.skipped:
                    self.skipped[path] = reason
                    log.warning("skipped: %s", reason)
                    self.journal.write("skipped", step=self.step + 1, path=path, reason=reason)

    def _evaluate(self) -> None:
        if self.pairs is None:
            self.pairs = prepare_pairs(self.config, self.held_out, self.teacher)
        self.model.eval()
        figures = score({"model": self.model}, self.pairs)
        self.model.train()
        model = figures["methods"]["model"]
        self.journal.write(
            "eval", step=self.step, images=figures["images"], bilinear_mse=figures["bilinear_mse"], **model
        )

    def save(self) -> Path:
        """Write a checkpoint of the present state; returns its folder.

        Raises:
            CheckpointError: see :func:`save_checkpoint`.
        """
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random_state": get_random_state(self.device),
        }
        facts = {**self.facts, "seconds": self.seconds, "skipped": self.skipped}
        weights: dict[str, Tensor] = self.model.state_dict()
        return save_checkpoint(self.folder, self.step, weights, state, facts, self.config.keep)

    def _finish(self, loss: float) -> dict[str, Any]:
        config = self.config
        lines = self.journal.lines()
        losses = [line["loss"] for line in lines if line["event"] == "train"]
        evaluations = [line for line in lines if line["event"] == "eval"]
        held_out = (
            {k: v for k, v in evaluations[-1].items() if k not in ("event", "step")} if evaluations else None
        )
        summary: dict[str, Any] = {
            "upsampler": config.upsampler,
            "backbone": config.backbone,
            "steps": self.step,
            "images": len(self.files),
            "skipped": sorted(self.skipped),
            "loss": loss if math.isfinite(loss) else (losses[-1] if losses else None),
            "held_out": held_out,
            "seconds": round(self.seconds, 1),
            "device": str(self.device),
        }
        provenance = {**summary, "skipped": len(self.skipped), "config": config.to_dict()}
        folder = save_weights(
            self.out / "weights",
            self.model,
            name=config.upsampler,
            options=dict(config.upsampler_options),
            provenance=provenance,
            card=model_card(config, summary),
        )
        return {**summary, "weights": str(folder)}
