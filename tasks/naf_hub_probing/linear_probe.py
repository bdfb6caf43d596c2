"""What linear probes share: frozen backbone, frozen upsampler, one trainable 1x1 convolution for each upsampler."""

from __future__ import annotations

import abc
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from naf_hub import Backbone, Task, Upsampler
from naf_hub.contenders import Contender, load_contenders, name_model, parse_backbone
from naf_hub.controls import add_controls
from naf_hub.reports import Metric, Report, Row, amount, describe_environment
from naf_hub.result_folder import claim_folder
from naf_hub.store import FeatureStore

from .course import HeadCourse, fit, forget_checkpoints, plan_epochs, run_folder
from .features import CellStatistics
from .goal import Goal, score
from .head import HeadWeights, LinearHead
from .material import AllPixels, Material, sample_pixels
from .protocol import ProbeProtocol
from .report import (
    are_probes,
    average,
    heads_file,
    picture_file,
    save_heads,
    save_picture,
    split_counts,
    spread_of,
)
from .splits import Splits, SplitViews, frozen

NO_NETWORK = "no network (RGB statistics)"
PREDICTIONS = "predictions.png"


class LinearProbe(Task):
    """A 1x1 convolution on frozen upsampled features; a subclass says what it is to learn.

    Attributes:
        settings: class of the protocol.
        scores_epochs: with one seed, every epoch is scored, and the best one told beside the last.
    """

    settings: ClassVar[type[ProbeProtocol]]
    scores_epochs: ClassVar[bool]
    metrics: ClassVar[tuple[Metric, ...]]
    goes_on: ClassVar[bool] = True

    @abc.abstractmethod
    def goal(self, data: str | os.PathLike[str], protocol: Any, out: str | os.PathLike[str] | None) -> Goal:
        """The goal on a data folder; ``out`` is the folder of results, which is not searched for pictures.

        Raises:
            DatasetError: the folder is not as expected.
        """

    def adapt(self, model: Upsampler, protocol: Any) -> Upsampler:
        """What stands for an upsampler under a protocol; by default itself."""
        return model

    def evaluate(
        self,
        contenders: Any,
        data: str | os.PathLike[str],
        protocol: Mapping[str, Any] | None = None,
        *,
        backbone: str | Contender | Backbone | None = None,
        device: str | torch.device = "cpu",
        baseline: bool = False,
        cache: str = "auto",
        workers: int = 0,
        out: str | os.PathLike[str] | None = None,
        picture: str | os.PathLike[str] | None = None,
        controls: Sequence[str] = (),
        allow_changed_images: bool = False,
        on_result: Callable[[Row], None] | None = None,
    ) -> Report:
        """Train a linear head for each upsampler and score it, everything else being equal.

        Args:
            contenders: see :func:`naf_hub.contenders.load_contenders`.
            data: the data folder.
            protocol: settings of the task's protocol and of :class:`naf_hub_probing.course.Recipe`.
            backbone: ``NAME[=WEIGHTS]``, a contender or a module; needed.
            device: where models run.
            baseline: add a row with per-cell RGB statistics in place of a backbone (standardised, bilinear).
            cache: ``"auto"``, ``"float32"``, ``"float16"`` or ``"off"``; see :class:`naf_hub.store.FeatureStore`.
            workers: processes that read pictures.
            out: folder for the trained heads, one safetensors file an upsampler, and for the log of their training
                in ``NAME-run/``; one that was interrupted goes on from its last checkpoint there. ``predictions.png``
                in it shows a few predictions.
            picture: folder for that picture alone, ``NAME.png``.
            controls: after each guided upsampler, rows of the same one guided by what must not help; see
                :func:`naf_hub.controls.add_controls`.
            allow_changed_images: go on so although pictures were replaced under their names since.
            on_result: called with each row as soon as it is there.

        Returns:
            A report. Extras of a row: ``last`` and, where every epoch is scored, ``best`` epoch; of several seeds
            ``by_seed``; ``train_loss``, ``seconds``, parameters of upsampler and probe.

        Raises:
            DatasetError: the folder or a label is not as expected.
            FileExistsError: ``out`` or ``picture`` holds files that are not ours.
            ValueError: no backbone, a setting that does not exist, or an upsampler named twice.
            UnknownNameError, WeightsError: see :func:`naf_hub.load`.
        """
        chosen = self.settings.read(protocol or {})
        recipe, device = chosen.recipe, torch.device(device)
        if backbone is None:
            raise ValueError(f"{self.name} needs a backbone; give backbone=")
        behind = parse_backbone(backbone)
        goal = self.goal(data, chosen, out)
        # All models first: a misspelt name must not cost a pass over the data.
        name = behind.label if isinstance(behind, Contender) else name_model(behind)
        made_for = behind.name if isinstance(behind, Contender) else behind
        models = add_controls(load_contenders(contenders, made_for=made_for, seed=recipe.seed), controls)
        models = {label: self.adapt(model, chosen) for label, model in models.items()}
        if isinstance(behind, Contender):
            behind = behind.load(device=device, seed=recipe.seed)

        if out is not None:  # not after hours of training
            claim_folder(Path(out), self.name, are_probes)
            for label in models:
                for seed in chosen.every_seed:
                    heads_file(Path(out), chosen.name_run(label, seed))

        if picture is not None:
            for label in models:
                picture_file(Path(picture), label)

        expected = len(goal.train) * (2 if recipe.flip else 1) + len(goal.val)
        store = FeatureStore(cache, expected, device)
        views = SplitViews(goal.train, goal.val, store, workers)
        rows: list[Row] = []

        def run(
            label: str, model: Upsampler, network: Backbone, standardize: bool, name: str | None
        ) -> Splits:
            splits = views.of(model, network)
            values, extras = self._probe(
                label, model, splits, goal, chosen, standardize, out, picture, allow_changed_images
            )
            rows.append(Row.of(label, model, values, backbone=name, extras=extras))
            if on_result is not None:
                on_result(rows[-1])
            return splits

        splits = None
        for label, model in models.items():
            splits = run(label, model, behind, chosen.standardize, name)
        assert splits is not None
        precision = store.precision
        if baseline:
            plain = Contender.parse("bilinear").load()
            run(NO_NETWORK, plain, CellStatistics(), True, None)
        if out is not None:  # not earlier: the same command, interrupted, must not train the first ones again
            for row in rows:
                for seed in chosen.every_seed:
                    forget_checkpoints(run_folder(Path(out), chosen.name_run(row.label, seed)))
        seen = splits.seen
        skipped = len(seen["val"].skipped) + len(seen["train"].skipped)
        origin = behind.origin
        return Report(
            self.name,
            self.version,
            {**chosen.to_dict(), "cache": precision},
            (*self.metrics, spread_of(self.metrics[0])) if chosen.seeds > 1 else self.metrics,
            tuple(rows),
            data={
                "path": os.fspath(data),
                **goal.facts,
                "train": split_counts(goal.train, seen["train"]),
                "val": split_counts(goal.val, seen["val"]),
                "backbone": {
                    "name": name if origin is None else origin.record.name,
                    "weights": None if origin is None else origin.weights,
                    "parameters": sum(p.numel() for p in behind.parameters()),
                },
            },
            seeds=chosen.every_seed,
            environment=describe_environment(device),
            heading=f"{name}: {len(seen['train'].usable)} training and "
            f"{amount(len(seen['val'].usable), 'validation image')}, {skipped} skipped",
        )

    def _probe(
        self,
        label: str,
        upsampler: Upsampler,
        splits: Splits,
        goal: Goal,
        protocol: ProbeProtocol,
        standardize: bool,
        out: str | os.PathLike[str] | None,
        picture: str | os.PathLike[str] | None,
        allow_changed_images: bool,
    ) -> tuple[dict[str, float | None], dict[str, Any]]:
        recipe, seeds = protocol.recipe, protocol.every_seed
        seen = splits.seen["train"]
        device = splits.cache.device
        channels = len(seen.moments[0])
        moments = (seen.moments[0].cpu(), seen.moments[1].cpu()) if standardize else None
        names = [protocol.name_run(label, seed) for seed in seeds]
        folders = [None if out is None else run_folder(Path(out), name) for name in names]
        started = time.perf_counter()
        with frozen(upsampler, device), frozen(splits.cache.backbone, device):
            materials: Sequence[Material]
            if recipe.train_pixels is None:
                materials = [AllPixels(upsampler, splits.train, splits.cache, splits.workers)] * len(seeds)
            else:
                materials = sample_pixels(
                    upsampler, splits.train, seen.usable, splits.cache, recipe.train_pixels, seeds, label,
                    splits.workers,
                )  # fmt: skip
            heads: list[list[HeadWeights]] = []
            losses: list[list[float]] = []
            for seed, material, name, folder in zip(seeds, materials, names, folders, strict=True):
                own = dataclasses.replace(recipe, seed=seed)
                head = LinearHead(channels, goal.outputs, seed=seed, moments=moments).to(device)
                epochs = plan_epochs(seen.usable, own)
                course = HeadCourse(head, epochs, material, own, goal.objective)
                snapshots, loss = fit(course, device, name, folder, allow_changed_images)
                heads.append(snapshots)
                losses.append(loss)
            trained = time.perf_counter()
            # A pass scores all heads together: those of every epoch, or the last one of each seed.
            every_epoch = self.scores_epochs and len(seeds) == 1
            scored = heads[0] if every_epoch else [snapshots[-1] for snapshots in heads]
            meters = score(upsampler, scored, splits, goal, label)
        extras: dict[str, Any] = {
            "upsampler_parameters": sum(p.numel() for p in upsampler.parameters()),
            "probe_parameters": (channels + 1) * goal.outputs,
            "train_loss": losses[0] if len(seeds) == 1 else losses,
            "seconds": {"train": trained - started, "evaluate": time.perf_counter() - trained},
        }
        first = self.metrics[0].name
        numbers = range(1, recipe.epochs + 1) if every_epoch else [recipe.epochs] * len(seeds)
        runs = [
            {"epoch": number, **goal.figures(meter)} for number, meter in zip(numbers, meters, strict=True)
        ]
        last, best = runs[-1], None
        if every_epoch:
            best = max(range(len(runs)), key=lambda i: runs[i][first])
            extras["best"] = runs[best]
        elif len(seeds) > 1:
            last, extras["by_seed"] = average(runs), dict(zip(map(str, seeds), runs, strict=True))
        extras["last"] = last
        values: dict[str, float | None] = {metric.name: last.get(metric.name) for metric in self.metrics}
        if best is not None:
            values |= {f"best_{first}": runs[best][first], "best_epoch": runs[best]["epoch"]}
        if len(seeds) > 1:
            values[spread_of(self.metrics[0]).name] = statistics.stdev(run[first] for run in runs)
        if out is not None:
            for name, snapshots in zip(names, heads, strict=True):
                save_heads(Path(out), name, snapshots[-1], None if best is None else heads[0][best])
        sheet = goal.show(meters) if out is not None or picture is not None else None
        if sheet is not None and folders[-1] is not None:
            save_picture(sheet, folders[-1] / PREDICTIONS, label)
        if sheet is not None and picture is not None:
            save_picture(sheet, picture_file(Path(picture), label), label)
        return values, extras
