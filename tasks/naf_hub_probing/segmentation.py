"""The task: frozen backbone, frozen upsampler, one trainable 1x1 convolution; mIoU on ``val``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import naf_hub
from naf_hub import Backbone, Task, Upsampler, UpsamplerRecord

from .features import CellStatistics, FeatureCache, Survey, survey
from .folders import SegmentationFolder, read_classes
from .head import HeadWeights, LinearHead, upsampled_scores
from .material import AllPixels, Material, SampledPixels
from .metrics import Confusion, predict
from .report import epoch_scores, plain_size, save_heads, split_counts
from .training import HeadCourse, Recipe, fit, forget_checkpoints, plan_epochs, run_folder
from .transforms import Geometry, Size

NO_NETWORK = "no network (RGB statistics)"


@dataclasses.dataclass
class Splits:
    """Both splits as a backbone sees them."""

    train: SegmentationFolder
    val: SegmentationFolder
    cache: FeatureCache
    seen: dict[str, Survey]
    workers: int


class Segmentation(Task):
    """Linear-probe semantic segmentation (NAF paper, sections 4.1 and B.2).

    The data folder holds ``{train,val}/images/``, ``{train,val}/labels/`` (one class id a pixel, same file
    name without suffix) and ``classes.json`` (see :func:`naf_hub_probing.folders.read_classes`).
    """

    name = "segmentation"

    def evaluate(self, **options: Any) -> dict[str, Any]:
        """See :func:`evaluate`."""
        return evaluate(**options)


def evaluate(
    *,
    data: str | os.PathLike[str],
    upsamplers: str | Upsampler | Sequence[str | Upsampler],
    backbone: str | Backbone,
    weights: str | None = "default",
    backbone_weights: str | None = "default",
    backbone_options: dict[str, Any] | None = None,
    size: Size = 448,
    label_size: Size | None = None,
    recipe: Recipe | None = None,
    standardize: bool = False,
    baseline: bool = False,
    limit: int | None = None,
    limit_train: int | None = None,
    cache: str = "auto",
    workers: int = 0,
    device: str | torch.device = "cpu",
    out: str | os.PathLike[str] | None = None,
    on_result: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train a linear head for each upsampler and score it, everything else being equal.

    Args:
        data: the data folder.
        upsamplers: names, ``"name=weights"`` (``"naf=none"`` is random initialisation), or modules.
        backbone: a name or a module.
        weights, backbone_weights, backbone_options: as for :func:`naf_hub.load`; ``weights`` serves the
            learned upsamplers that name none of their own.
        size, label_size: see :class:`naf_hub_probing.transforms.Geometry`.
        recipe: epochs, learning rate and so on; see :class:`naf_hub_probing.training.Recipe`.
        standardize: the head learns on features standardised per channel over the training split.
        baseline: add a row with per-cell RGB statistics in place of a backbone (standardised, bilinear).
        limit, limit_train: at most that many pairs of each split (of training), evenly spaced.
        cache: ``"auto"``, ``"float32"``, ``"float16"`` or ``"off"``; see
            :class:`naf_hub_probing.features.FeatureCache`.
        workers: processes that read pictures.
        device: where models run.
        out: folder for the trained heads, one safetensors file an upsampler, and for the log of their training
            in ``NAME-run/``; one that was interrupted goes on from its last checkpoint there.
        on_result: called with each entry of ``results`` as soon as it is there.

    Returns:
        Plain data: ``protocol``, ``data``, ``backbone`` and ``results``, one entry an upsampler with ``last``
        and ``best`` epoch; mIoU, pixel accuracy and IoU per class are in percent, ``None`` for a class
        that occurs neither in the labels nor in the predictions.

    Raises:
        DatasetError: the folder or a label is not as expected.
        UnknownNameError, WeightsError: see :func:`naf_hub.load`.
    """
    recipe = recipe or Recipe()
    if recipe.train_pixels is not None:
        recipe = dataclasses.replace(recipe, flip=False)
    geometry = Geometry(size, label_size)
    classes = read_classes(Path(data) / "classes.json")
    train = SegmentationFolder(data, "train", classes, geometry, limit_train or limit)
    val = SegmentationFolder(data, "val", classes, geometry, limit)
    device = torch.device(device)
    entries = [upsamplers] if isinstance(upsamplers, (str, Upsampler)) else list(upsamplers)
    name = backbone if isinstance(backbone, str) else type(backbone).__name__
    # All models first: a misspelt name must not cost a pass over the data.
    loaded = [load_upsampler(entry, weights, name, recipe.seed) for entry in entries]
    labels = [label for label, _ in loaded]
    if len(set(labels)) != len(labels):
        raise ValueError(f"an upsampler is named twice: {', '.join(labels)}")
    if isinstance(backbone, str):
        backbone = naf_hub.load_backbone(backbone, weights=backbone_weights, **(backbone_options or {}))

    splits = _prepare(train, val, backbone, recipe, cache, workers, device)
    results: list[dict[str, Any]] = []

    def run(label: str, model: Upsampler, splits: Splits, standardize: bool) -> None:
        results.append(_probe(label, model, splits, recipe, standardize, out))
        if on_result is not None:
            on_result(results[-1])

    for label, model in loaded:
        run(label, model, splits, standardize)
    if baseline:
        plain = _prepare(train, val, CellStatistics(), recipe, cache, workers, device)
        run(NO_NETWORK, load_upsampler("bilinear")[1], plain, True)
    if out is not None:  # not earlier: the same command, interrupted, must not train the first ones again
        for result in results:
            forget_checkpoints(run_folder(Path(out), result["upsampler"]))
    return {
        "task": "segmentation",
        "protocol": {
            **dataclasses.asdict(recipe),
            "size": plain_size(size),
            "label_size": plain_size(label_size),
            "standardize": standardize,
            "cache": splits.cache.precision,
        },
        "data": {
            "path": os.fspath(data),
            "classes": list(classes.names),
            "train": split_counts(train, splits.seen["train"]),
            "val": split_counts(val, splits.seen["val"]),
        },
        "backbone": {
            "name": name,
            "weights": os.fspath(backbone_weights) if backbone_weights else None,
            "parameters": sum(p.numel() for p in backbone.parameters()),
        },
        "results": results,
    }


def load_upsampler(
    entry: str | Upsampler, weights: str | None = "default", backbone: str = "", seed: int = 0
) -> tuple[str, Upsampler]:
    """A label for the table and the model of ``"name"``, ``"name=weights"`` or a module."""
    if isinstance(entry, Upsampler):
        return type(entry).__name__, entry
    name, equals, own = entry.partition("=")
    record = naf_hub.info(name)
    if isinstance(record, UpsamplerRecord):
        if equals:
            weights = None if own.lower() == "none" else own
        elif not record.learned:
            weights = "default"
        if weights == "default" and not record.backbone_agnostic:
            weights = backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # random initialisation is part of the result
        return entry, naf_hub.load(name, weights=weights)


def _prepare(
    train: SegmentationFolder,
    val: SegmentationFolder,
    backbone: Backbone,
    recipe: Recipe,
    precision: str,
    workers: int,
    device: torch.device,
) -> Splits:
    expected = len(train) * (2 if recipe.flip else 1) + len(val)
    with _frozen(backbone, device):
        cache = FeatureCache(backbone, precision, expected, device)
        seen = {"train": survey(train, "train", cache, workers), "val": survey(val, "val", cache, workers)}
    return Splits(train, val, cache, seen, workers)


def _probe(
    label: str,
    upsampler: Upsampler,
    splits: Splits,
    recipe: Recipe,
    standardize: bool,
    out: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    seen = splits.seen["train"]
    device = splits.cache.device
    names = splits.train.classes.names
    channels = len(seen.moments[0])
    moments = (seen.moments[0].cpu(), seen.moments[1].cpu()) if standardize else None
    head = LinearHead(channels, len(names), seed=recipe.seed, moments=moments).to(device)
    started = time.perf_counter()
    with _frozen(upsampler, device), _frozen(splits.cache.backbone, device):
        if recipe.train_pixels is None:
            material: Material = AllPixels(upsampler, splits.train, splits.cache, splits.workers)
        else:
            pixels = (recipe.train_pixels, recipe.seed)
            material = SampledPixels(
                upsampler, splits.train, seen.usable, splits.cache, *pixels, label, splits.workers
            )
        course = HeadCourse(head, plan_epochs(seen.usable, recipe), material, recipe)
        folder = None if out is None else run_folder(Path(out), label)
        snapshots, losses = fit(course, device, label, folder)
        trained = time.perf_counter()
        confusions = score(upsampler, snapshots, splits, label)
    epochs = [epoch_scores(epoch, confusion, names) for epoch, confusion in enumerate(confusions, start=1)]
    best = max(range(len(epochs)), key=lambda i: confusions[i].mean_iou())
    if out is not None:
        save_heads(Path(out), label, snapshots[-1], snapshots[best])
    return {
        "upsampler": label,
        "upsampler_parameters": sum(p.numel() for p in upsampler.parameters()),
        "probe_parameters": (channels + 1) * len(names),
        "last": epochs[-1],
        "best": epochs[best],
        "train_loss": losses,
        "seconds": {"train": trained - started, "evaluate": time.perf_counter() - trained},
    }


@torch.no_grad()
def score(
    upsampler: Upsampler, snapshots: Sequence[HeadWeights], splits: Splits, label: str
) -> list[Confusion]:
    """One confusion matrix over the validation split for the head of every epoch, in one pass.

    Scoring the epochs together costs one call of the upsampler a picture, not one a picture and epoch.
    """
    positions = splits.seen["val"].usable
    confusions = [Confusion(len(splits.val.classes.names)) for _ in snapshots]
    loader = DataLoader(
        splits.val, batch_sampler=[[p] for p in positions], collate_fn=list, num_workers=splits.workers
    )
    for samples in tqdm(loader, desc=f"evaluate: {label}", disable=None, unit="image"):
        sample = samples[0]
        features = splits.cache("val", samples)
        target = sample.label.to(features.device)
        size = (target.shape[0], target.shape[1])
        scores = upsampled_scores(
            upsampler, sample.image[None].to(features.device), features, size, snapshots
        )
        for confusion, one in zip(confusions, scores, strict=True):
            confusion.update(predict(one[0]), target)
    return confusions


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
