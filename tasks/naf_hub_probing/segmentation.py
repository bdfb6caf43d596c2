"""The task: frozen backbone, frozen upsampler, one trainable 1x1 convolution; mIoU on ``val``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from naf_hub import Backbone, Task, Upsampler
from naf_hub.contenders import Contender, load_contenders, name_model, parse_backbone
from naf_hub.controls import add_controls
from naf_hub.reports import Report, Row, describe_environment
from naf_hub.store import FeatureStore

from .course import HeadCourse, Recipe, fit, forget_checkpoints, plan_epochs, run_folder
from .features import CellStatistics, SplitFeatures, Survey, survey
from .folders import IGNORE, SegmentationFolder, read_classes
from .head import HeadWeights, LinearHead, upsampled_scores
from .material import AllPixels, Material, sample_pixels
from .metrics import BANDS, Scores, boundary_band, predict
from .report import METRICS, SPREAD, average, epoch_scores, heads_file, save_heads, split_counts
from .transforms import Geometry, Size

NO_NETWORK = "no network (RGB statistics)"


@dataclasses.dataclass
class Splits:
    """Both splits as an upsampler sees them behind a backbone."""

    train: SegmentationFolder
    val: SegmentationFolder
    cache: SplitFeatures
    seen: dict[str, Survey]
    workers: int


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What decides the figures.

    Attributes:
        recipe: epochs, learning rate and so on.
        size, label_size: see :class:`naf_hub_probing.transforms.Geometry`.
        standardize: the head learns on features standardised per channel over the training split.
        limit, limit_train: at most that many pairs of each split (of training), evenly spaced.
        seeds: train so many heads, from ``seed`` on; figures are their means, with the standard deviation of the mIoU.
            Only the last epoch is scored then.
    """

    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    size: Size = 448
    label_size: Size | None = None
    standardize: bool = False
    limit: int | None = None
    limit_train: int | None = None
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Protocol:
        """The protocol of plain settings; those of :class:`Recipe` stand among the others.

        Raises:
            ValueError: a setting that does not exist or is out of range.
        """
        own = {field.name for field in dataclasses.fields(cls)} - {"recipe"}
        of_recipe = {field.name for field in dataclasses.fields(Recipe)}
        strangers = sorted(set(settings) - own - of_recipe)
        if strangers:
            raise ValueError(f"no setting {strangers[0]!r}; there are: {', '.join(sorted(own | of_recipe))}")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
        recipe = Recipe(**{key: value for key, value in values.items() if key in of_recipe})
        if recipe.train_pixels is not None:
            recipe = dataclasses.replace(recipe, flip=False)
        return cls(recipe, **{key: value for key, value in values.items() if key in own})

    def to_dict(self) -> dict[str, Any]:
        """Plain settings, as :meth:`read` takes them."""
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "recipe"}
        return {**dataclasses.asdict(self.recipe), **settings}

    @property
    def every_seed(self) -> tuple[int, ...]:
        """Seeds of the heads."""
        return tuple(range(self.recipe.seed, self.recipe.seed + self.seeds))

    def name_run(self, label: str, seed: int) -> str:
        """What the head of a seed is called in files."""
        return f"{label}-seed{seed}" if self.seeds > 1 else label


class Segmentation(Task):
    """Linear-probe semantic segmentation (NAF paper, sections 4.1 and B.2).

    The data folder holds ``{train,val}/images/``, ``{train,val}/labels/`` (one class id a pixel, same file
    name without suffix) and ``classes.json`` (see :func:`naf_hub_probing.folders.read_classes`).
    """

    name = "segmentation"
    version = 1
    metrics = METRICS

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
        controls: Sequence[str] = (),
        allow_changed_images: bool = False,
        on_result: Callable[[Row], None] | None = None,
    ) -> Report:
        """Train a linear head for each upsampler and score it, everything else being equal.

        Args:
            contenders: see :func:`naf_hub.contenders.load_contenders`.
            data: the data folder.
            protocol: settings of :class:`Protocol` and :class:`naf_hub_probing.course.Recipe`.
            backbone: ``NAME[=WEIGHTS]``, a contender or a module; needed.
            device: where models run.
            baseline: add a row with per-cell RGB statistics in place of a backbone (standardised, bilinear).
            cache: ``"auto"``, ``"float32"``, ``"float16"`` or ``"off"``; see :class:`naf_hub.store.FeatureStore`.
            workers: processes that read pictures.
            out: folder for the trained heads, one safetensors file an upsampler, and for the log of their training
                in ``NAME-run/``; one that was interrupted goes on from its last checkpoint there.
            controls: after each guided upsampler, rows of the same one guided by what must not help; see
                :func:`naf_hub.controls.add_controls`.
            allow_changed_images: go on so although pictures were replaced under their names since.
            on_result: called with each row as soon as it is there.

        Returns:
            A report; mIoU, pixel accuracy and IoU per class are in percent, ``None`` for a class that occurs
            neither in the labels nor in the predictions. Bands count the pixels at most so many rows and columns from
            one of another class. Extras of a row: ``last`` and (of one seed) ``best`` epoch, ``train_loss``,
            ``by_seed``, ``seconds``, parameters of upsampler and probe.

        Raises:
            DatasetError: the folder or a label is not as expected.
            ValueError: no backbone, a setting that does not exist, or an upsampler named twice.
            UnknownNameError, WeightsError: see :func:`naf_hub.load`.
        """
        chosen = Protocol.read(protocol or {})
        recipe, device = chosen.recipe, torch.device(device)
        if backbone is None:
            raise ValueError("segmentation needs a backbone; give backbone=")
        behind = parse_backbone(backbone)
        geometry = Geometry(chosen.size, chosen.label_size)
        classes = read_classes(Path(data) / "classes.json")
        train = SegmentationFolder(data, "train", classes, geometry, chosen.limit_train or chosen.limit, out)
        val = SegmentationFolder(data, "val", classes, geometry, chosen.limit, out)
        # All models first: a misspelt name must not cost a pass over the data.
        name = behind.label if isinstance(behind, Contender) else name_model(behind)
        made_for = behind.name if isinstance(behind, Contender) else behind
        models = add_controls(load_contenders(contenders, made_for=made_for, seed=recipe.seed), controls)
        if isinstance(behind, Contender):
            behind = behind.load(device=device, seed=recipe.seed)

        if out is not None:  # not after hours of training
            for label in models:
                for seed in chosen.every_seed:
                    heads_file(Path(out), chosen.name_run(label, seed))

        expected = len(train) * (2 if recipe.flip else 1) + len(val)
        store = FeatureStore(cache, expected, device)
        views = SplitViews(train, val, store, workers)
        rows: list[Row] = []

        def run(
            label: str, model: Upsampler, network: Backbone, standardize: bool, name: str | None
        ) -> Splits:
            splits = views.of(model, network)
            values, extras = _probe(label, model, splits, chosen, standardize, out, allow_changed_images)
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
            (*self.metrics, SPREAD) if chosen.seeds > 1 else self.metrics,
            tuple(rows),
            data={
                "path": os.fspath(data),
                "classes": list(classes.names),
                "train": split_counts(train, seen["train"]),
                "val": split_counts(val, seen["val"]),
                "backbone": {
                    "name": name if origin is None else origin.record.name,
                    "weights": None if origin is None else origin.weights,
                    "parameters": sum(p.numel() for p in behind.parameters()),
                },
            },
            seeds=chosen.every_seed,
            environment=describe_environment(device),
            heading=f"{name}: {len(seen['train'].usable)} training and {len(seen['val'].usable)} validation "
            f"images, {skipped} skipped",
        )


class SplitViews:
    """Both splits as each upsampler sees them; what one survey found serves all that see the same."""

    def __init__(
        self, train: SegmentationFolder, val: SegmentationFolder, store: FeatureStore, workers: int
    ) -> None:
        self.train, self.val, self.store, self.workers = train, val, store, workers
        self.found: dict[tuple[Any, ...], dict[str, Survey]] = {}

    def of(self, upsampler: Upsampler, backbone: Backbone) -> Splits:
        """The splits for ``upsampler`` behind ``backbone``, surveyed if nobody saw them so before."""
        cache = SplitFeatures(self.store, backbone, upsampler)
        # Another reference has other moments, even of the same features.
        space = None if type(upsampler).reference is Upsampler.reference else id(upsampler)
        key = (id(backbone), upsampler.gather_key, space)
        if key not in self.found:
            device = self.store.device
            with _frozen(backbone, device), _frozen(upsampler, device):
                self.found[key] = {
                    split: survey(folder, split, cache, self.workers)
                    for split, folder in (("train", self.train), ("val", self.val))
                }
        return Splits(self.train, self.val, cache, self.found[key], self.workers)


def _probe(
    label: str,
    upsampler: Upsampler,
    splits: Splits,
    protocol: Protocol,
    standardize: bool,
    out: str | os.PathLike[str] | None,
    allow_changed_images: bool,
) -> tuple[dict[str, float | None], dict[str, Any]]:
    recipe, seeds = protocol.recipe, protocol.every_seed
    seen = splits.seen["train"]
    device = splits.cache.device
    names = splits.train.classes.names
    channels = len(seen.moments[0])
    moments = (seen.moments[0].cpu(), seen.moments[1].cpu()) if standardize else None
    started = time.perf_counter()
    with _frozen(upsampler, device), _frozen(splits.cache.backbone, device):
        materials: Sequence[Material]
        if recipe.train_pixels is None:
            materials = [AllPixels(upsampler, splits.train, splits.cache, splits.workers)] * len(seeds)
        else:
            materials = sample_pixels(
                upsampler, splits.train, seen.usable, splits.cache, recipe.train_pixels, seeds, label, splits.workers
            )  # fmt: skip
        heads: list[list[HeadWeights]] = []
        losses: list[list[float]] = []
        for seed, material in zip(seeds, materials, strict=True):
            own = dataclasses.replace(recipe, seed=seed)
            head = LinearHead(channels, len(names), seed=seed, moments=moments).to(device)
            course = HeadCourse(head, plan_epochs(seen.usable, own), material, own)
            name = protocol.name_run(label, seed)
            folder = None if out is None else run_folder(Path(out), name)
            snapshots, loss = fit(course, device, name, folder, allow_changed_images)
            heads.append(snapshots)
            losses.append(loss)
        trained = time.perf_counter()
        # Of one seed every epoch is scored, of several the last one of each: a pass scores all heads together.
        scored = heads[0] if len(seeds) == 1 else [snapshots[-1] for snapshots in heads]
        found = score(upsampler, scored, splits, label)
    extras: dict[str, Any] = {
        "upsampler_parameters": sum(p.numel() for p in upsampler.parameters()),
        "probe_parameters": (channels + 1) * len(names),
        "train_loss": losses[0] if len(seeds) == 1 else losses,
        "seconds": {"train": trained - started, "evaluate": time.perf_counter() - trained},
    }
    values: dict[str, float | None] = {"best_miou": None, "best_epoch": None}
    if len(seeds) == 1:
        epochs = [epoch_scores(epoch, scores, names) for epoch, scores in enumerate(found, start=1)]
        best = max(range(len(epochs)), key=lambda i: found[i].whole.mean_iou())
        values |= {"best_miou": epochs[best]["miou"], "best_epoch": epochs[best]["epoch"]}
        extras["best"], last = epochs[best], epochs[-1]
        if out is not None:
            save_heads(Path(out), label, heads[0][-1], heads[0][best])
    else:
        runs = [epoch_scores(recipe.epochs, scores, names) for scores in found]
        last, extras["by_seed"] = average(runs), dict(zip(map(str, seeds), runs, strict=True))
        values["miou_spread"] = statistics.stdev(run["miou"] for run in runs)
        if out is not None:
            for seed, snapshots in zip(seeds, heads, strict=True):
                save_heads(Path(out), protocol.name_run(label, seed), snapshots[-1])
    extras["last"] = last
    return values | {key: value for key, value in last.items() if key not in ("epoch", "iou")}, extras


@torch.no_grad()
def score(upsampler: Upsampler, snapshots: Sequence[HeadWeights], splits: Splits, label: str) -> list[Scores]:
    """Scores of several heads over the validation split, in one pass.

    Scoring them together costs one call of the upsampler a picture, not one a picture and head.
    """
    positions = splits.seen["val"].usable
    found = [Scores(len(splits.val.classes.names)) for _ in snapshots]
    loader = DataLoader(
        splits.val, batch_sampler=[[p] for p in positions], collate_fn=list, num_workers=splits.workers
    )
    for samples in tqdm(loader, desc=f"evaluate: {label}", disable=None, unit="image"):
        sample = samples[0]
        features = splits.cache("val", samples)
        target = sample.label.to(splits.cache.device)
        bands = {width: boundary_band(target, width, IGNORE) for width in BANDS}
        size = (target.shape[0], target.shape[1])
        scores = upsampled_scores(
            upsampler, sample.image[None].to(splits.cache.device), features, size, snapshots
        )
        for one, confusions in zip(scores, found, strict=True):
            confusions.update(predict(one[0]), target, bands, IGNORE)
    return found


@contextlib.contextmanager
def _frozen(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode, on the device, no gradients to the parameters; a caller's module gets its state back."""
    flags = {parameter: parameter.requires_grad for parameter in module.parameters()}
    modes = {part: part.training for part in module.modules()}
    module.eval().requires_grad_(False).to(device)
    try:
        yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for part, mode in modes.items():
            part.training = mode
