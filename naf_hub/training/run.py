"""The training loop: resumable to the bit, stoppable at any moment, in one process or many."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import NafHubError
from ..terminal import progress_bar
from .board import Board
from .checkpoints import Checkpoint, clean, newest, save_checkpoint
from .continuation import compare
from .course import Batch, Course
from .folder import CHECKPOINTS, LOG, FolderError, RunFolder
from .hardware import peak_memory, slow_precision
from .interrupts import StopRequest
from .journal import Journal
from .processes import Processes, seed_step, start
from .results import Results
from .schedule import rate_factor

log = logging.getLogger("naf_hub")


class TrainingError(NafHubError, RuntimeError):
    """Training cannot go on."""


class Run:
    """One training run of a course, in one folder.

    The folder gets ``log.jsonl``, ``checkpoints/``, ``previews/``, ``best/`` (the weights with the best score so
    far) and, at the end, ``weights/``. Building a run does everything that can fail early: it makes the folder,
    prepares the course and, with ``resume``, takes up the newest valid checkpoint. From then to the end of
    :meth:`run` the folder is closed to other processes. What others put into it stays as it is.

    Of several processes every one builds its own; the first writes, all compute, and they separate at the end:
    a process of several trains once.

    Args:
        course: what is learned.
        out: folder of the run; ``None`` writes nothing and keeps no checkpoints.
        resume: go on from the newest checkpoint there, if there is one.
        extend: resume a run of fewer steps, going on to those of the settings. The steps done stay; from there on
            rates are those of a run that had the new number of steps from the start, see
            :func:`~naf_hub.training.schedule.rate_factor`.
        allow_changed_images: resume although pictures were replaced under their names since.
        device: where to train; default is what accelerate finds: CUDA, MPS, the CPU.
        processes: instead of ``device``, those of the run.
        tensorboard: also log to ``out/tensorboard``.
        progress: show a progress bar on stderr.
        title: of the progress bar.

    Raises:
        ConfigError: unusable settings, or a run to be resumed that differs, see
            :func:`~naf_hub.training.continuation.compare`.
        TrainingError: the folder already holds a run and ``resume`` was not asked for, or none that ``extend`` could go
            on from.
        FolderError: the folder holds something else, or another process trains in it.
        CheckpointError: not one of its checkpoints can be read.
        MissingExtraError: accelerate (for several processes) or TensorBoard is not installed.
    """

    def __init__(
        self,
        course: Course,
        out: str | os.PathLike[str] | None = None,
        *,
        resume: bool = False,
        extend: bool = False,
        allow_changed_images: bool = False,
        device: str | torch.device | None = None,
        processes: Processes | None = None,
        tensorboard: bool = False,
        progress: bool = True,
        title: str | None = None,
    ) -> None:
        self.course, self.settings = course, course.settings
        self.processes = processes or start(device)
        self.device, self.main = self.processes.device, self.processes.main
        self.progress, self.title = progress and self.main, title
        self.out = None if out is None else Path(out)
        self.folder = None if self.out is None or not self.main else RunFolder(self.out)
        self.extends, self.allow_changed_images = extend, allow_changed_images
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._close_folder)
            checkpoint = self._open_folder(resume or extend)
            course.prepare(self.device, self.processes.share)
            self.model = course.model
            self.net = self.processes.connect(self.model)
            self.ema = self._average() if self.settings.ema else None
            self.optimizer = self._build_optimizer()
            self.step, self.seconds, self.skipped = 0, 0.0, dict[str, str]()
            self.extended: list[dict[str, int]] = []
            self.results = Results(course, self.folder, self.journal, None)
            if checkpoint:
                self._restore(checkpoint)
            else:
                config = self.settings.to_dict()
                self.journal.start(**course.about, processes=self.processes.count, config=config)
            if tensorboard and self.folder is not None:
                self.results.board = Board(self.folder.path / "tensorboard", self.step)
            on_failure.pop_all()

    @property
    def checkpoints(self) -> Path | None:
        """The folder of the checkpoints."""
        return None if self.out is None else self.out / CHECKPOINTS

    @property
    def shipped(self) -> nn.Module:
        """The model that is examined and written: the average of the weights where one is kept."""
        return self.model if self.ema is None else self.ema.module

    def _open_folder(self, resume: bool) -> Checkpoint | None:
        self.journal = Journal((self.out or Path()) / LOG, writes=self.folder is not None)
        if self.checkpoints is None:
            return None
        problem: Exception | None = None
        if self.folder is not None:
            try:
                self.folder.open()
                self.checkpoints.mkdir(exist_ok=True)
                self.journal.path.touch()  # a place that cannot be written fails here, before any work
                clean(self.checkpoints)
            except (FolderError, OSError) as error:
                problem = error
        # All processes must learn of it, else the others would wait for the first.
        told = self.processes.gather([str(problem)] if problem else [])
        if told:
            raise problem or FolderError(told[0])
        checkpoint = newest(self.checkpoints)
        if checkpoint and not resume:
            raise TrainingError(
                f"{self.out} already holds a run at step {checkpoint.step}: continue it with --resume, "
                "or choose another folder"
            )
        if self.extends and not checkpoint:
            raise TrainingError(f"{self.out} holds no checkpoint that --extend could go on from")
        return checkpoint

    def _close_folder(self) -> None:
        if self.folder is not None:
            self.folder.close()

    def _average(self) -> AveragedModel:
        # With buffers: the statistics of batch norms must be those of the averaged weights.
        average = get_ema_multi_avg_fn(self.settings.ema)
        return AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)

    def _build_optimizer(self) -> torch.optim.AdamW:
        settings, parameters = self.settings, list(self.model.parameters())
        groups: list[dict[str, Any]] = [{"params": parameters}]
        if not settings.decay_vectors:
            groups = [
                {"params": [p for p in parameters if p.ndim > 1]},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ]
        betas = (settings.beta1, settings.beta2)
        return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay)

    def _restore(self, checkpoint: Checkpoint) -> None:
        manifest = checkpoint.manifest
        extension, replaced = compare(
            manifest,
            self.course,
            self.processes.count,
            folder=self.out or Path(),
            extend=self.extends,
            allow_changed_images=self.allow_changed_images,
        )
        self.model.load_state_dict(checkpoint.model())
        state = checkpoint.training()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.results.restore(state["results"])
        self.step, self.seconds = checkpoint.step, manifest["seconds"]
        self.skipped = dict(manifest["skipped"])
        self.extended = list(manifest.get("extended", []))
        self.journal.rewind(self.step)
        self.journal.write("resume", step=self.step)
        if extension is not None:
            self.extended.append(extension)
            self.journal.write("extend", **extension)
        for line in replaced if self.main else ():
            log.warning("going on with other pictures: %s", line)
            self.journal.write("changed_images", step=self.step, what=line)

    def run(self) -> dict[str, Any]:
        """Train to the last step and write the weights.

        Returns:
            A summary: what the course says of itself, steps, last loss, figures and score of the best step,
            skipped files, seconds, images per second, peak memory in bytes, hardware, folder of the weights.

        Raises:
            TrainingError: the loss or a gradient is no longer finite.
            CheckpointError: a checkpoint cannot be written.
            KeyboardInterrupt: Ctrl-C; a checkpoint has been written.
            SystemExit: SIGTERM, SIGHUP or SIGUSR1 (status 128 and the signal's number); likewise.
        """
        try:
            return self._run()
        finally:
            self._close_folder()

    def _run(self) -> dict[str, Any]:
        settings, started, before, first = self.settings, time.perf_counter(), self.seconds, self.step
        size = settings.batch * settings.accumulate * self.processes.count
        batches = iter(self.course.batches(self.step, settings.steps, self.processes.share))
        if self.main and (why := slow_precision(settings.precision, self.device)):
            log.warning("%s", why)
        with StopRequest() as stop, self._bar(size) as bar, contextlib.closing(self.results):
            while self.step < settings.steps:
                passes = list(itertools.islice(batches, settings.accumulate))
                if len(passes) < settings.accumulate:
                    raise TrainingError(f"the course has no batch for step {self.step + 1}")
                self._note_skipped({p: why for batch in passes for p, why in batch.skipped.items()})
                loss, norm, stopping = self._train_step(passes, stop)
                self.step += 1
                self.results.count_step(loss)
                elapsed = time.perf_counter() - started
                self.seconds = before + elapsed
                bar.update(size)
                last = self.step == settings.steps
                if self.step % settings.log_every == 0 or last:
                    text = "none" if loss is None else f"{loss:.4g}"
                    bar.set_postfix_str(f"step {self.step}/{settings.steps} loss {text}")
                    self.results.log_step(
                        self.step,
                        loss=loss,
                        lr=self.optimizer.param_groups[0]["lr"],
                        gradient_norm=norm,
                        seconds=self.seconds,
                        images_per_second=(self.step - first) * size / elapsed,
                    )
                if self.main:
                    self.results.examine(self.shipped, self._summary())
                if self.step % settings.checkpoint_every == 0 or last or stopping:
                    self.save()
                if stopping and not last:
                    self.processes.separate()
                    stop.leave(stopping)
        summary = self._summary()
        if self.main:
            summary = self.results.finish(self.shipped, summary, trained=self.step > first)
        self.processes.separate()
        return summary

    def _summary(self) -> dict[str, Any]:
        settings = self.settings
        seen = self.step * settings.batch * settings.accumulate * self.processes.count
        return {
            **self.course.about,
            "steps": self.step,
            "skipped": sorted(self.skipped),
            "loss": self.results.loss,
            "seconds": round(self.seconds, 1),
            "images_per_second": round(seen / max(self.seconds, 1e-9), 2),
            "peak_memory_bytes": peak_memory(self.device),
            "device": str(self.device),
            "processes": self.processes.count,
            **({"extended": self.extended} if self.extended else {}),
        }

    def _bar(self, size: int) -> Any:
        return progress_bar(
            desc=self.title,
            total=self.settings.steps * size,
            initial=self.step * size,
            unit="image",
            wanted=self.progress,
        )

    def _train_step(
        self, passes: Sequence[Batch], stop: StopRequest
    ) -> tuple[float | None, float | None, int]:
        """One step of the optimizer.

        Returns:
            Mean loss over all processes, norm of the gradient (``None`` where no pass had a loss), and the
            signal that stops the run.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * rate_factor(self.settings, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        total, learned = torch.zeros((), device=self.device), False
        for batch in passes:
            last = batch is passes[-1]
            with contextlib.nullcontext() if last else self.processes.hold_back(self.net):
                seed_step(self.settings.seed, self.step)
                loss = self.course.loss(self.net, batch, self.step)
                if loss is None:
                    self._refuse_several()
                    continue
                loss = loss / self.settings.accumulate
                loss.backward()
            total, learned = total + loss.detach(), True
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip or math.inf)
        # Every process must learn of a signal that any of them got, else they would wait for each other.
        news = torch.stack([total, norm.float(), *(total.new_tensor(float(flag)) for flag in stop.flags())])
        value, gradient, *flags = self.processes.mean(news).tolist()
        if not learned:
            return None, None, stop.signal_of(flags)
        if not (math.isfinite(value) and math.isfinite(gradient)):
            self._stop_diverged(value, passes)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return value, gradient, stop.signal_of(flags)

    def _refuse_several(self) -> None:
        if self.processes.count > 1:
            raise TrainingError(
                f"step {self.step + 1} has a batch without anything to learn from, which several processes "
                "cannot skip: train in one"
            )

    def _stop_diverged(self, loss: float, passes: Sequence[Batch]) -> None:
        # The optimizer has not stepped: the weights are still those of the last good step.
        saved = self.save()
        what = f"loss became {loss}" if not math.isfinite(loss) else "a gradient is not finite"
        self.journal.write("diverged", step=self.step + 1, loss=str(loss))
        names = ", ".join(name for batch in passes for name in batch.names)
        message = f"{what} at step {self.step + 1}" + (f" (images {names})" if names else "")
        if saved is not None:
            message += f"; the weights before it are in {saved}"
        raise TrainingError(f"{message}; {self.course.advice.format(saved=saved)}")

    def _note_skipped(self, skipped: Mapping[str, str]) -> None:
        for path, reason in skipped.items():
            if path not in self.skipped:
                self.skipped[path] = reason
                log.warning("skipped: %s", reason)
                self.journal.write("skipped", step=self.step + 1, path=path, reason=reason)

    def save(self) -> Path | None:
        """Write a checkpoint of the present state; returns its folder. All processes must call it.

        Raises:
            CheckpointError: see :func:`~naf_hub.training.checkpoints.save_checkpoint`.
        """
        for path, reason in self.processes.gather(list(self.skipped.items())):
            self._note_skipped({path: reason})
        if not self.main or self.checkpoints is None:
            return self.checkpoints
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "results": self.results.state(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        manifest = {
            "config": self.settings.to_dict(),
            "processes": self.processes.count,
            "facts": dict(self.course.facts),
            "seconds": self.seconds,
            "skipped": self.skipped,
            "extended": self.extended,
        }
        weights: dict[str, Tensor] = self.model.state_dict()
        return save_checkpoint(self.checkpoints, self.step, weights, state, manifest, self.settings.keep)
