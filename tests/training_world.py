"""A course of thirty lines, a line through noisy points, and ways to stop a run in the middle."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from naf_hub.training.course import Batch, Examination, Export, Share
from naf_hub.training.run import Run
from naf_hub.training.settings import RunSettings, build


class Line:
    """Linear regression: pure batches, a random draw in the loss, one figure."""

    model: nn.Module
    advice = "take a smaller lr"

    def __init__(self, settings: RunSettings, points: int = 64, pause: float = 0.0) -> None:
        self.settings, self.points, self.pause = settings, points, pause
        self.about = {"method": "line"}
        self.facts: Mapping[str, Any] = {"points": points}
        self.scores: Mapping[int, float] = {}
        self.dropout = 0.0

    def prepare(self, device: torch.device, share: Share) -> None:
        torch.manual_seed(self.settings.seed)
        self.model = nn.Linear(3, 1).to(device)

    def batches(self, start: int, stop: int, share: Share) -> Iterator[Batch]:
        size = self.settings.batch
        for step in range(start, stop):
            generator = torch.Generator().manual_seed(step)
            points = torch.randn(size * self.settings.accumulate * share.processes, 3, generator=generator)
            mine = points.chunk(share.processes)[share.rank]
            for rows in mine.split(size):
                yield Batch(rows, names=(f"points of {step}",))

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Tensor | None:
        time.sleep(self.pause)
        rows: Tensor = batch.content
        target = rows.sum(1, keepdim=True) + 1
        return (net(nn.functional.dropout(rows, self.dropout)) - target).square().mean()

    def examine(self, model: nn.Module, step: int) -> Examination | None:
        assert isinstance(model, nn.Linear)
        error = float((model.weight - 1).square().sum())
        return Examination({"line": {"error": error}}, score=self.scores.get(step, error), metric="error")

    def export(self, model: nn.Module) -> Export | None:
        return Export("line", model)

    def card(self, summary: Mapping[str, Any]) -> str:
        return f"# A line after {summary['steps']} steps\n"


def line(**changes: Any) -> Line:
    defaults = {"steps": 8, "batch": 4, "lr": 0.05, "log_every": 1, "eval_every": 100, "preview_every": 0}
    return Line(build(RunSettings, defaults, changes))


def stop_after(run: Run, step: int, number: int = signal.SIGINT) -> Run:
    """Deliver a signal in the middle of the given step."""
    work = run._train_step

    def interrupted(*arguments: Any) -> Any:
        if run.step == step - 1:
            signal.raise_signal(number)
        return work(*arguments)

    run._train_step = interrupted  # pyright: ignore[reportAttributeAccessIssue]
    return run


def logged(out: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in (out / "log.jsonl").read_text().splitlines()]
    return [entry for entry in lines if entry["event"] == event]


if __name__ == "__main__":  # python training_world.py OUT STEPS: a run to be killed
    slow = line(steps=int(sys.argv[2]), checkpoint_every=2, keep=99)
    slow.pause = 0.05
    Run(slow, sys.argv[1], resume=True, device="cpu", progress=False).run()
