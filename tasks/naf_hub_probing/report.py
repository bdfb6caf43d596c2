"""What an evaluation hands back: plain data, a table, and the trained heads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from naf_hub.atomic import atomic_file

from .features import Survey
from .folders import SegmentationFolder
from .head import HeadWeights
from .metrics import Confusion
from .transforms import Size


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


def save_heads(folder: Path, label: str, last: HeadWeights, best: HeadWeights) -> None:
    tensors: dict[str, Tensor] = {}
    for epoch, (weight, bias) in (("last", last), ("best", best)):
        # Copies, because safetensors refuses shared memory and the last epoch may be the best one.
        tensors[f"{epoch}.weight"] = weight.cpu().clone()
        tensors[f"{epoch}.bias"] = bias.cpu().clone()
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", label).strip("-")
    with atomic_file(folder / f"{name}.safetensors") as temporary:
        save_file(tensors, temporary)


def plain_size(size: Size | None) -> int | list[int] | None:
    return list(size) if isinstance(size, tuple) else size


def table(report: dict[str, Any]) -> str:
    """The figures in columns: last and best epoch, then IoU per class of the last."""
    data, rows = report["data"], report["results"]
    wide = max(len(name) for name in [*data["classes"], *(row["upsampler"] for row in rows)])
    lines = [
        f"{report['backbone']['name']}: {data['train']['images']} training and {data['val']['images']} "
        f"validation images, {len(data['val']['skipped']) + len(data['train']['skipped'])} skipped",
        f"{'':{wide}}  mIoU  pixel acc.  best mIoU (epoch)",
    ]
    for row in rows:
        last, best = row["last"], row["best"]
        lines.append(
            f"{row['upsampler']:{wide}}  {last['miou']:4.1f}  {last['pixel_accuracy']:10.1f}"
            f"  {best['miou']:9.1f} ({best['epoch']})"
        )
    lines.append("IoU per class, last epoch:")
    for name in data["classes"]:
        shares = [row["last"]["iou"][name] for row in rows]
        lines.append(f"{name:{wide}}  " + "  ".join("   -" if v is None else f"{v:4.1f}" for v in shares))
    return "\n".join(lines)
