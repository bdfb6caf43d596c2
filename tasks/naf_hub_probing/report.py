"""What an evaluation hands back: its metrics, IoU per class, and the trained heads."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import SafetensorError, safe_open
from torch import Tensor

from naf_hub.atomic import atomic_file
from naf_hub.confusion import class_table
from naf_hub.escapes import plain_name
from naf_hub.made_with import KEY, read_record, record
from naf_hub.reports import Metric, Report
from naf_hub.safetensors_saving import save_tensors

from .features import Survey
from .head import HeadWeights
from .metrics import BANDS, Scores
from .pairs import Pairs

SEGMENTATION_METRICS = (
    Metric("miou", "%", True, 1, "mIoU"),
    *(Metric(f"miou_{width}px", "%", True, 1, f"within {width} px") for width in BANDS),
    Metric("pixel_accuracy", "%", True, 1, "pixel acc."),
    Metric("best_miou", "%", True, 1, "best mIoU"),
    Metric("best_epoch", "", False, 0, "in epoch"),
)
HEADS = {f"{epoch}.{part}" for epoch in ("last", "best") for part in ("weight", "bias")}


def spread_of(metric: Metric) -> Metric:
    """Standard deviation of a figure over the seeds; a column where there are several."""
    return Metric(f"{metric.name}_spread", metric.unit, False, metric.digits + 1, "+-")


def score_figures(scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    """Percent of everything that is scored, and under ``iou`` of each class."""
    bands = {f"miou_{width}px": 100 * confusion.mean_iou() for width, confusion in scores.bands.items()}
    miou, accuracy = scores.whole.mean_iou(), scores.whole.accuracy()
    return {
        "miou": 100 * miou,
        **bands,
        "pixel_accuracy": 100 * accuracy,
        "iou": scores.whole.iou_by_name(names),
    }


def average(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of several seeds as their means, those under a name too; of a figure that some lack, the others' mean."""
    found: dict[str, Any] = {}
    for key, first in runs[0].items():
        values = [run[key] for run in runs if run[key] is not None]
        if isinstance(first, Mapping):
            found[key] = average(values)
        elif isinstance(first, int):
            found[key] = first
        else:
            found[key] = statistics.fmean(values) if values else None
    return found


def split_counts(pairs: Pairs, seen: Survey) -> dict[str, Any]:
    return {
        "images": len(seen.usable),
        "skipped": seen.skipped,
        "images_without_label": pairs.unlabelled,
        "pixels": dict(zip(pairs.counted, seen.pixels.tolist(), strict=True)),
    }


def are_probes(folder: Path) -> bool:
    """Whether a folder holds logs of probes, see :func:`naf_hub_probing.course.run_folder`."""
    for path in folder.glob("*-run/log.jsonl"):
        with path.open(encoding="utf-8", errors="replace") as log:
            if '"linear probe"' in log.readline():
                return True
    return False


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
    save_tensors(heads_file(folder, label), tensors)


def picture_file(folder: Path, label: str) -> Path:
    """Where the picture of an upsampler's predictions is written.

    Raises:
        FileExistsError: a file lies there that naf-hub did not make.
    """
    path = folder / f"{plain_name(label)}.png"
    if path.is_symlink() or (path.exists() and read_record(path) is None):
        raise FileExistsError(f"{path} exists and is no picture of naf-hub: give --picture another folder")
    return path


def save_picture(sheet: Image.Image, path: Path, label: str) -> None:
    """Write a sheet of an upsampler's predictions as PNG, marked as one of naf-hub's results."""
    texts = PngInfo()
    texts.add_text(KEY, record({"predictions with": label}, {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG", pnginfo=texts)


def last_epoch_table(report: Report) -> str:
    """IoU per class of the last epoch, a column for each row of the report, in its order."""
    shares = {row.label: row.extras["last"]["iou"] for row in report.rows}
    return class_table("IoU per class, last epoch:", report.data["classes"], shares)
