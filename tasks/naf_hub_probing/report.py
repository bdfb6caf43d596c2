"""What an evaluation hands back: its metrics, IoU per class, and the trained heads."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
from .metrics import Confusion

METRICS = (
    Metric("miou", "%", True, 1, "mIoU"),
    Metric("pixel_accuracy", "%", True, 1, "pixel acc."),
    Metric("best_miou", "%", True, 1, "best mIoU"),
    Metric("best_epoch", "", False, 0, "in epoch"),
)
HEADS = {f"{epoch}.{part}" for epoch in ("last", "best") for part in ("weight", "bias")}


def epoch_scores(epoch: int, confusion: Confusion, names: Sequence[str]) -> dict[str, Any]:
    iou = confusion.iou()
    per_class = {name: None if v != v else 100 * v for name, v in zip(names, iou.tolist(), strict=True)}
    miou, accuracy = confusion.mean_iou(), confusion.accuracy()
    return {"epoch": epoch, "miou": 100 * miou, "pixel_accuracy": 100 * accuracy, "iou": per_class}


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
                ours = set(file.keys()) == HEADS
        except (SafetensorError, OSError):
            ours = False
        if not ours:
            raise FileExistsError(f"{path} exists and holds no heads of a probe: give --out another folder")
    return path


def save_heads(folder: Path, label: str, last: HeadWeights, best: HeadWeights) -> None:
    tensors: dict[str, Tensor] = {}
    for epoch, (weight, bias) in (("last", last), ("best", best)):
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
