"""What a run makes of itself: log lines, examinations, previews, the best weights and the last."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..atomic import atomic_file, atomic_folder
from ..errors import WeightsError
from ..escapes import portable
from ..weights.files import read_config, save_weights
from ..weights.hub import CONFIG, FILE
from .board import Board
from .course import Course, Examination
from .folder import RunFolder
from .hardware import describe_hardware
from .journal import Journal

log = logging.getLogger("naf_hub")


@dataclasses.dataclass
class Examined:
    """One past examination.

    Attributes:
        step: finished steps.
        loss: mean loss of the steps since the examination before; ``None`` where none had a loss.
        figures, score, kept: as in :class:`~naf_hub.training.course.Examination`.
    """

    step: int
    loss: float | None
    figures: dict[str, dict[str, Any]]
    score: float | None
    kept: dict[str, Tensor]


class Results:
    """Of one run, written by its first process and remembered in its checkpoints.

    Args:
        course: what is learned.
        folder: of the run; ``None`` writes nothing.
        journal, board: where figures go; the board is optional.

    Attributes:
        examined: every examination so far.
        best: step and score, by the name of its metric, of the weights in ``best/``.
        loss: of the last step that had one.
    """

    def __init__(
        self, course: Course, folder: RunFolder | None, journal: Journal, board: Board | None
    ) -> None:
        self.course, self.folder, self.journal, self.board = course, folder, journal, board
        self.examined: list[Examined] = []
        self.best: dict[str, Any] | None = None
        self.loss: float | None = None
        self._since: list[float] = []

    def state(self) -> dict[str, Any]:
        """Plain data and tensors from which :meth:`restore` goes on."""
        # Not asdict: it would copy tensors.
        examined = [vars(one) for one in self.examined]
        return {"examined": examined, "best": self.best, "loss": self.loss, "since": list(self._since)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.examined = [Examined(**one) for one in state["examined"]]
        self.best, self.loss, self._since = state["best"], state["loss"], list(state["since"])

    def close(self) -> None:
        """Finish the files of the board."""
        if self.board:
            self.board.close()

    def count_step(self, loss: float | None) -> None:
        """Take the loss of a step into the mean until the next examination; ``None`` where it had none."""
        if loss is not None:
            self.loss = loss
            self._since.append(loss)

    def log_step(self, step: int, **figures: Any) -> None:
        """Log loss, learning rate and speed of a step."""
        for key, digits in (("seconds", 1), ("images_per_second", 2)):
            figures[key] = round(figures[key], digits)
        self.journal.write("train", step=step, **figures)
        if self.board:
            scalars = {f"train/{key}": value for key, value in figures.items() if value is not None}
            self.board.scalars(step, scalars)

    def examine(self, model: nn.Module, summary: Mapping[str, Any]) -> None:
        """Examine and draw where it is due after the steps of ``summary``.

        Args:
            model: what would be written now.
            summary: of the run so far.
        """
        settings, step = self.course.settings, summary["steps"]
        evaluates = settings.is_due(settings.eval_every, step)
        if not (evaluates or settings.is_due(settings.preview_every, step)):
            return
        modes = {module: module.training for module in model.modules()}
        model.eval()
        with torch.no_grad():
            found = self.course.examine(model, step)
            if found is not None and evaluates:
                self._note(found, model, summary)
            if found is not None and found.preview is not None:
                self._draw(found, step)
        for module, mode in modes.items():
            module.training = mode

    def _note(self, found: Examination, model: nn.Module, summary: Mapping[str, Any]) -> None:
        step = summary["steps"]
        for name, figures in found.figures.items():
            self.journal.write("eval", step=step, **{found.subject: name}, **figures)
            if self.board:
                self.board.scalars(step, {f"held_out/{name}/{key}": value for key, value in figures.items()})
        figures = {name: dict(values) for name, values in found.figures.items()}
        kept = {key: tensor.detach().cpu().clone() for key, tensor in found.kept.items()}
        mean = sum(self._since) / len(self._since) if self._since else None
        self.examined.append(Examined(step, mean, figures, found.score, kept))
        self._since = []
        if found.score is not None and self._improves(found):
            self.best = {"step": step, found.metric: found.score}
            self._write("best", model, summary)
            self.journal.write("best", **self.best)

    def _improves(self, found: Examination) -> bool:
        score = found.score
        if score is None or not math.isfinite(score):
            return False
        before = self.best[found.metric] if self.best else None
        return before is None or (score < before if found.lower_is_better else score > before)

    def _draw(self, found: Examination, step: int) -> None:
        assert found.preview is not None
        try:
            picture = found.preview()
        except (ValueError, RuntimeError) as error:  # a picture is not worth a run
            log.warning("no preview at step %d: %s", step, error)
            self.journal.write("no_preview", step=step, reason=str(error))
            return
        if self.folder is not None:
            with atomic_file(self.folder.path / "previews" / f"step-{step:08d}.png") as temporary:
                picture.save(temporary)
        if self.board:
            self.board.picture(step, "preview", picture)

    def finish(self, model: nn.Module, summary: Mapping[str, Any], trained: bool) -> dict[str, Any]:
        """Write ``weights/``; returns the whole summary.

        Args:
            model: what is written.
            summary: of the run.
            trained: whether there were steps since the run was taken up. If not, weights that are there already stay:
                their card may have been completed.
        """
        return self._write("weights", model, {**summary, "best": self.best}, again=trained)

    def _write(
        self, name: str, model: nn.Module, summary: Mapping[str, Any], again: bool = True
    ) -> dict[str, Any]:
        figures = next((one.figures for one in reversed(self.examined) if one.figures), None)
        whole: dict[str, Any] = {
            **summary,
            "held_out": figures,
            "hardware": describe_hardware(summary["device"], summary["processes"]),
        }
        exported = self.course.export(model) if self.folder is not None else None
        if exported is None or self.folder is None:
            return whole
        config, target = self.course.settings.to_dict(), self.folder.path / name
        if again or not _are_weights_of(target, whole):
            with atomic_folder(target, keep_others=True) as temporary:
                made = save_weights(
                    temporary / "made",
                    exported.weights,
                    name=exported.name,
                    options=dict(exported.options),
                    provenance=portable({**whole, "skipped": len(summary["skipped"]), "config": config}),
                    card=self.course.card(whole),
                )
                files = [path.name for path in made.iterdir()]
                for file in files:
                    (made / file).rename(temporary / file)
                made.rmdir()
                self.folder.set_changed_aside(name, files)
            self.folder.note_written(name, files)
        return {**whole, "weights": str(target)}


def _are_weights_of(folder: Path, summary: Mapping[str, Any]) -> bool:
    try:
        found = read_config(folder / CONFIG).get("provenance", {})
    except WeightsError:
        return False
    return (folder / FILE).is_file() and all(found.get(k) == summary[k] for k in ("steps", "seconds"))
