"""The training loop: resumable to the bit, stoppable at any moment, in one process or many."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from naf_hub.errors import NafHubError
from naf_hub.images import find_images
from naf_hub.training.board import Board
from naf_hub.training.checkpoints import Checkpoint, clean, newest, save_checkpoint
from naf_hub.training.interrupts import StopRequest, leave_signals_to_parent
from naf_hub.training.journal import Journal
from naf_hub.training.processes import part, seed_step, start

from .config import ConfigError, TrainConfig, difference
from .data import Crops, Sample
from .plan import Steps
from .preparation import held_out_files, prepare_model, prepare_schedule, prepare_teachers
from .results import Results, peak_memory

log = logging.getLogger("naf_hub")


class TrainingError(NafHubError, RuntimeError):
    """Training cannot go on."""


class Trainer:
    """One training run in one folder.

    The folder gets ``log.jsonl``, ``checkpoints/``, ``previews/``, ``best/`` (the weights with the least
    held-out error so far) and, at the end, ``weights/``; the last two can be loaded with ``weights=``.
    Building a trainer does everything that can fail early: it makes the folder, finds the images, loads the
    models and, with ``resume``, the newest valid checkpoint.

    Of several processes every one builds its own; the first writes, all compute, and they part at the end: a
    process of several trains once.

    Args:
        config: what to compute.
        out: folder of the run.
        resume: go on from the newest checkpoint there, if there is one.
        cache_features: folder for features of the frozen backbones; needs ``config.views``.
        device: where to train; default is what accelerate finds: CUDA, MPS, the CPU.
        tensorboard: also log to ``out/tensorboard``.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: unusable settings, or settings that differ from those of the run to be resumed.
        TrainingError: the folder already holds a run and ``resume`` was not asked for.
        MissingExtraError: accelerate or TensorBoard is not installed.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: str | os.PathLike[str],
        *,
        resume: bool = False,
        cache_features: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        tensorboard: bool = False,
        progress: bool = True,
    ) -> None:
        self.config, self.out = config, Path(out)
        self.folder = self.out / "checkpoints"
        self.accelerator = start(device)
        self.device = self.accelerator.device
        self.main = self.accelerator.is_main_process
        self.progress = progress and self.main
        self.journal = Journal(self.out / "log.jsonl", writes=self.main)
        if self.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.journal.path.touch()  # a place that cannot be written fails here, before any work
            clean(self.folder)
        self.accelerator.wait_for_everyone()
        checkpoint = newest(self.folder)
        if checkpoint and not resume:
            raise TrainingError(
                f"{self.out} already holds a run at step {checkpoint.step}: continue it with --resume, "
                "or choose another folder"
            )
        if not config.images:
            raise ConfigError("no training images given")
        self.files = find_images(config.images)
        held_out = held_out_files(config, self.files)
        self.teachers, self.plan, self.facts = prepare_teachers(
            config,
            self.files,
            self.device,
            cache_features,
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
        self.by_place = list(self.teachers.values())
        self.model = prepare_model(config, self.device)
        self.net: nn.Module = self.accelerator.prepare_model(self.model)  # shares gradients between processes
        self.ema = (
            AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )
        self.schedule = prepare_schedule(config, self.optimizer)
        self.step, self.seconds, self.skipped = 0, 0.0, dict[str, str]()
        if checkpoint:
            self._restore(checkpoint)
        else:
            self.journal.start(
                images=len(self.files), processes=self.accelerator.num_processes, config=config.to_dict()
            )
        self.board = Board(self.out / "tensorboard", self.step) if tensorboard and self.main else None
        self.results = Results(
            config, self.out, self.teachers, held_out, self.files, self.journal, self.board
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        manifest = checkpoint.manifest
        changes = difference(manifest["config"], self.facts["config"])
        for key, what in (
            ("processes", f"number of processes ({manifest.get('processes')} -> {self.facts['processes']})"),
            ("images_sha256", f"list of images ({manifest['images']} -> {self.facts['images']} files)"),
            ("backbone_sha256", "weights of the backbone"),
            ("cached", "use of --cache-features"),
        ):
            if manifest.get(key) != self.facts[key] and not (key == "images_sha256" and changes):
                changes.append(what)
        if changes:
            raise ConfigError(
                f"{self.out} was started with other settings, so it cannot go on: {'; '.join(changes)}"
            )
        self.model.load_state_dict(checkpoint.model())
        state = checkpoint.training()
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.step, self.seconds = checkpoint.step, manifest["seconds"]
        self.skipped = dict(manifest["skipped"])
        self.journal.rewind(self.step)
        self.journal.write("resume", step=self.step)

    @property
    def shipped(self) -> nn.Module:
        """The model that is evaluated and written: the average of the weights where one is kept."""
        return self.model if self.ema is None else self.ema.module

    def run(self) -> dict[str, Any]:
        """Train to the last step and write the weights.

        Returns:
            A summary: steps, last loss, held-out figures by backbone, best step, skipped images, seconds,
            images per second, peak memory in bytes, hardware, folder of the weights.

        Raises:
            TrainingError: the loss or a gradient is no longer finite.
            CheckpointError: a checkpoint cannot be written.
            KeyboardInterrupt: Ctrl-C; a checkpoint has been written.
        """
        config, started, before, first = self.config, time.perf_counter(), self.seconds, self.step
        loss = float("nan")
        with StopRequest() as stop, self._bar() as bar, contextlib.closing(self.results):
            for samples in self._loader():
                self._note_skipped({p: why for sample in samples for p, why in sample.skipped.items()})
                rate = float(self.schedule.get_last_lr()[0])
                loss, norm, stopping = self._train_step(samples, stop)
                self.step += 1
                elapsed = time.perf_counter() - started
                self.seconds = before + elapsed
                bar.update(self.plan.batch)
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    speed = (self.step - first) * self.plan.batch / elapsed
                    bar.set_postfix_str(f"step {self.step}/{config.steps} loss {loss:.4g}")
                    self.results.trained(
                        self.step,
                        loss=loss,
                        lr=rate,
                        gradient_norm=norm,
                        seconds=self.seconds,
                        images_per_second=speed,
                    )
                if self.main:
                    self.results.look(self.shipped, self._summary(loss), last)
                if self.step % config.checkpoint_every == 0 or last or stopping:
                    self.save()
                if stopping and not last:
                    part(self.accelerator)
                    stop.leave(stopping)
        summary = self._summary(loss)
        if self.main:
            summary = self.results.finish(self.shipped, summary)
        part(self.accelerator)
        return summary

    def _summary(self, loss: float) -> dict[str, Any]:
        return {
            "steps": self.step,
            "images": len(self.files),
            "skipped": sorted(self.skipped),
            "loss": loss,
            "seconds": round(self.seconds, 1),
            "images_per_second": round(self.step * self.plan.batch / max(self.seconds, 1e-9), 2),
            "peak_memory_bytes": peak_memory(self.device),
            "device": str(self.device),
            "processes": self.accelerator.num_processes,
        }

    def _loader(self) -> DataLoader[Sample]:
        return DataLoader(
            Crops(self.config, self.files, [teacher.cache for teacher in self.by_place]),
            batch_sampler=Steps(self.plan, self.step, self.config.steps),  # pyright: ignore[reportArgumentType]
            num_workers=self.config.workers,
            collate_fn=list,
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator(),  # else it draws from the global generator
        )

    def _bar(self) -> tqdm[Any]:
        return tqdm(
            total=self.config.steps * self.plan.batch,
            initial=self.step * self.plan.batch,
            unit="image",
            disable=None if self.progress else True,
        )

    def _train_step(self, samples: Sequence[Sample], stop: StopRequest) -> tuple[float, float, int]:
        """One step of the optimizer.

        Returns:
            Mean loss over all processes, norm of the gradient, and the signal that stops the run.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for crops, sync in self._passes(samples):
            with contextlib.nullcontext() if sync else self.accelerator.no_sync(self.net):
                loss = self._loss(crops) / self.config.accumulate
                self.accelerator.backward(loss)
            total = total + loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip or math.inf)
        # Every process must learn of a signal that any of them got, else they would wait for each other.
        news = torch.stack([total, norm.float(), *(total.new_tensor(float(flag)) for flag in stop.flags())])
        value, gradient, *flags = cast("Tensor", self.accelerator.reduce(news, "mean")).tolist()
        if not (math.isfinite(value) and math.isfinite(gradient)):
            self._diverged(value, samples)
        self.optimizer.step()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return value, gradient, stop.signal_of(flags)

    def _passes(self, samples: Sequence[Sample]) -> Iterator[tuple[Sequence[Sample], bool]]:
        """The crops of each pass, and whether it is the last, after which gradients are shared."""
        size = self.config.batch
        for first in range(0, len(samples), size):
            yield samples[first : first + size], first + size >= len(samples)

    def _loss(self, samples: Sequence[Sample]) -> Tensor:
        teacher = self.by_place[samples[0].item.sizes.teacher]
        guidance, small, target = teacher.batch(samples)
        seed_step(self.config.seed, self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            output = self.net(guidance, small, (target.shape[-2], target.shape[-1]))
        return F.mse_loss(output.float(), target)

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

    def _note_skipped(self, skipped: dict[str, str]) -> None:
        for path, reason in skipped.items():
            if path not in self.skipped:
                self.skipped[path] = reason
                log.warning("skipped: %s", reason)
                self.journal.write("skipped", step=self.step + 1, path=path, reason=reason)

    def save(self) -> Path:
        """Write a checkpoint of the present state; returns its folder. All processes must call it.

        Raises:
            CheckpointError: see :func:`save_checkpoint`.
        """
        if self.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            for path, reason in gather_object(list(self.skipped.items())):
                self._note_skipped({path: reason})
        if not self.main:
            return self.folder
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        facts = {**self.facts, "seconds": self.seconds, "skipped": self.skipped}
        weights: dict[str, Tensor] = self.model.state_dict()
        return save_checkpoint(self.folder, self.step, weights, state, facts, self.config.keep)
