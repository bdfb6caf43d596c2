"""What an evaluation hands back: its metrics, IoU per class, and the trained heads."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from naf_hub.atomic import atomic_file
from naf_hub.reports import Metric, Report

from .features import Survey
from .folders import SegmentationFolder
from .head import HeadWeights
from .metrics import BANDS, Scores

METRICS = (
    Metric("miou", "%", True, 1, "mIoU"),
    *(Metric(f"miou_{width}px", "%", True, 1, f"within {width} px") for width in BANDS),
    Metric("pixel_accuracy", "%", True, 1, "pixel acc."),
    Metric("best_miou", "%", True, 1, "best mIoU"),
    Metric("best_epoch", "", False, 0, "in epoch"),
)
HEADS = {f"{epoch}.{part}" for epoch in ("last", "best") for part in ("weight", "bias")}

SPREAD = Metric("miou_spread", "%", False, 2, "+-")
"""Standard deviation of the mIoU over the seeds; a column where there are several."""


def epoch_scores(epoch: int, scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    iou = scores.whole.iou()
    per_class = {name: None if v != v else 100 * v for name, v in zip(names, iou.tolist(), strict=True)}
    bands = {f"miou_{width}px": 100 * confusion.mean_iou() for width, confusion in scores.bands.items()}
    miou, accuracy = scores.whole.mean_iou(), scores.whole.accuracy()
    return {"epoch": epoch, "miou": 100 * miou, **bands, "pixel_accuracy": 100 * accuracy, "iou": per_class}


def average(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """:func:`epoch_scores` of several seeds as their means; the IoU of a class over the seeds that have one."""
    first = runs[0]
    if len(runs) == 1:
        return dict(first)
    found = {key: statistics.fmean(run[key] for run in runs) for key in first if key not in ("epoch", "iou")}
    per_class: dict[str, float | None] = {}
    for name in first["iou"]:
        known = [run["iou"][name] for run in runs if run["iou"][name] is not None]
        per_class[name] = statistics.fmean(known) if known else None
    return {"epoch": first["epoch"], **found, "iou": per_class}


def split_counts(folder: SegmentationFolder, seen: Survey) -> dict[str, Any]:
    return {
        "images": len(seen.usable),
        "skipped": seen.skipped,
        "images_without_label": folder.unlabelled,
        "pixels": dict(zip(folder.classes.names, seen.pixels.tolist(), strict=True)),
    }


def plain_name(label: str) -> str:
    """The label as a name that every system takes for a file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", label).strip("-")


def heads_file(folder: Path, label: str) -> Path:
    """Where the heads of an upsampler are written.

    Raises:
        FileExistsError: another file lies there.
    """
    path = folder / f"{plain_name(label)}.safetensors"
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                keys = set(file.keys())
                ours = "last.weight" in keys and keys <= HEADS
        except (SafetensorError, OSError):
            ours = False
        if not ours:
            raise FileExistsError(f"{path} exists and holds no heads of a probe: give --out another folder")
    return path


def save_heads(folder: Path, label: str, last: HeadWeights, best: HeadWeights | None = None) -> None:
    tensors: dict[str, Tensor] = {}
    kept = {"last": last} if best is None else {"last": last, "best": best}
    for epoch, (weight, bias) in kept.items():
        # Copies, because safetensors refuses shared memory and the last epoch may be the best one.
        tensors[f"{epoch}.weight"] = weight.cpu().clone()
        tensors[f"{epoch}.bias"] = bias.cpu().clone()
    with atomic_file(heads_file(folder, label)) as temporary:
        save_file(tensors, temporary)


def class_table(report: Report) -> str:
    """IoU per class of the last epoch, a column for each row of the report, in its order."""
    classes = report.data["classes"]
    wide = max(map(len, classes))
    lines = ["IoU per class, last epoch:"]
    for name in classes:
        shares = [row.extras["last"]["iou"][name] for row in report.rows]
        lines.append(f"{name:{wide}}  " + "  ".join("   -" if v is None else f"{v:4.1f}" for v in shares))
    return "\n".join(lines)
