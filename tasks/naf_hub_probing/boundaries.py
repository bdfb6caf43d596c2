"""The task: do the edges of upsampled features lie where people draw boundaries? No classes, no training."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub import Backbone, Task
from naf_hub.contenders import Contender, load_contenders, name_model, parse_backbone
from naf_hub.controls import add_controls
from naf_hub.errors import DatasetError, ImageError
from naf_hub.image_files import files_below, has_image_name
from naf_hub.images import read_image
from naf_hub.kept_results import KeptResults
from naf_hub.paired_files import require_like_sides, spread
from naf_hub.reports import Metric, Report, Row, amount, describe_environment
from naf_hub.store import FeatureStore
from naf_hub.terminal import progress_bar
from naf_hub.training.settings import build

from .boundary_scores import Drawn, score_edges
from .edges import Edges, find_edges

METRICS = (
    Metric("average_precision", "%", True, 1, "AP"),
    Metric("best_f", "%", True, 1, "best F"),
    Metric("recall", "%", True, 1, "recall there"),
    Metric("precision", "%", True, 1, "precision there"),
)
FARTHEST = 0.1
"""Tolerances are below this share of the diagonal: with more, nearly each edge is near each boundary, and matching them
does not end."""
IMAGE = "image"
"""Label of the row of the picture's own edges, which no features enter."""
LAYOUT = (
    "DATA/images/NAME.jpg and DATA/boundaries/NAME.png (grey: share of the annotators, black to white), made of "
    "BSDS500: https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html"
)


@dataclasses.dataclass(frozen=True)
class BoundaryProtocol:
    """What decides the figures.

    Attributes:
        tolerance: how far an edge may lie from a boundary, as a fraction of the picture's diagonal (BSDS500: 0.0075).
        sigma: blur of the structure tensor before thinning, in pixels.
        limit: use only so many pictures, evenly spread; 0 for all.
    """

    tolerance: float = 0.0075
    sigma: float = 1.0
    limit: int = 0

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> BoundaryProtocol:
        """The protocol of plain settings.

        Raises:
            ValueError: a setting that does not exist, is of the wrong type or makes no sense.
        """
        chosen = build(cls, settings)
        if not (chosen.tolerance > 0 and chosen.sigma > 0 and chosen.limit >= 0):
            raise ValueError("tolerance and sigma must be positive, limit must not be negative")
        if chosen.tolerance >= FARTHEST:
            raise ValueError(
                f"tolerance = {chosen.tolerance:g}: is a share of the picture's diagonal, not pixels, and must be below"
                f" {FARTHEST:g}; BSDS500 has 0.0075"
            )
        return chosen


class Boundaries(Task):
    """Edges of upsampled features against boundaries that people drew (BSDS500, Arbelaez et al., TPAMI 2011).

    Features are upsampled to the picture's size; the gradient of the L2-normalised features is thinned to lines and
    compared with the drawings, see :func:`~naf_hub_probing.boundary_scores.score_edges`. What smooths without looking
    at the picture moves edges off their place and loses.
    """

    name = "boundaries"
    version = 1
    goes_on = True
    metrics = METRICS

    @torch.no_grad()
    def evaluate(
        self,
        contenders: Any,
        data: str | os.PathLike[str],
        protocol: Mapping[str, Any] | None = None,
        *,
        backbone: str | Contender | Backbone | None = None,
        device: Any = "cpu",
        controls: Sequence[str] = (),
        out: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Report:
        """Average precision and best F of each upsampler's edges, everything else being equal.

        Args:
            contenders: see :func:`naf_hub.contenders.load_contenders`.
            data: folder with ``images/`` and ``boundaries/`` (grey pictures of the same names: the share of the
                annotators who drew a boundary through the pixel, from black to white).
            protocol: settings of :class:`BoundaryProtocol`.
            backbone: gives the features; needed.
            device: where models run.
            controls: see :func:`naf_hub.controls.add_controls`.
            out: keep the edges found in each picture in this folder; an interrupted evaluation goes on from them, see
                :class:`naf_hub.kept_results.KeptResults`.
            progress: show a progress bar on stderr.

        Returns:
            A report; figures are percent. The row ``image`` has the edges of the picture itself, without features.

        Raises:
            DatasetError: the folder is not as expected, or a drawing does not fit its picture.
            FileExistsError: ``out`` holds other files.
            ValueError: no backbone, or a setting that makes no sense.
            UnknownNameError, WeightsError: see :func:`naf_hub.load`.
            MissingExtraError: SciPy is not installed.
        """
        chosen = BoundaryProtocol.read(protocol or {})
        if backbone is None:
            raise ValueError("boundaries need a backbone; give backbone=")
        found_pairs, undrawn = match_drawings(Path(data))
        pairs = spread(found_pairs, chosen.limit or None)
        require_like_sides(pairs, exactly=True)
        behind = parse_backbone(backbone)
        name = behind.label if isinstance(behind, Contender) else name_model(behind)
        made_for = behind.name if isinstance(behind, Contender) else behind
        models = add_controls(load_contenders(contenders, made_for=made_for, device=device), controls)
        if isinstance(behind, Contender):
            behind = behind.load(device=device)
        store = FeatureStore("float32", device=torch.device(device))
        # Edges depend neither on the tolerance nor on how many pictures there are.
        kept = KeptResults(out, self.name, {"version": self.version, "sigma": chosen.sigma}, [behind], models)
        found: dict[str, list[Edges]] = {label: [] for label in (*models, IMAGE)}
        drawn: list[Drawn] = []
        skipped: dict[str, str] = {}
        bar = progress_bar(pairs, unit="image", desc="boundaries", wanted=progress)
        for path, picture, boundary in read_pairs(bar, skipped):
            drawn.append(Drawn.of(boundary, chosen.tolerance))
            image = picture[None].to(device)
            fitted = whole_cells(image, behind.patch_size)
            store.clear()
            for label, model in models.items():
                known = kept.recall(label, [path])
                if known is None:
                    features = store.gather(model, behind, [fitted[0]], ["picture"])
                    output = model(image, features, (image.shape[-2], image.shape[-1]))[0]
                    edges = to_cpu(find_edges(output, chosen.sigma))
                    kept.keep(label, [path], edges.to_plain())
                else:
                    edges = Edges.from_plain(known)
                found[label].append(edges)
            found[IMAGE].append(to_cpu(find_edges(image[0], chosen.sigma, normalize=False)))
        if not drawn:
            raise DatasetError(f"no readable pair in {data}: {next(iter(skipped.values()))}")
        rows: list[Row] = []
        for label, edges in found.items():
            figures = {
                key: 100 * value for key, value in dataclasses.asdict(score_edges(edges, drawn)).items()
            }
            if label == IMAGE:
                rows.append(Row(label, figures, label))
            else:
                rows.append(Row.of(label, models[label], figures, backbone=name))
        return Report(
            self.name,
            self.version,
            dataclasses.asdict(chosen),
            self.metrics,
            tuple(rows),
            data={
                "path": os.fspath(data),
                "images": len(drawn),
                "images_without_drawing": undrawn,
                "skipped": skipped,
            },
            environment=describe_environment(device),
            heading=f"{name}: {amount(len(drawn), 'image')}, {len(skipped)} skipped",
        )


def find_pairs(root: Path) -> list[tuple[Path, Path]]:
    """Pictures and their drawings, by name.

    Raises:
        DatasetError: a folder is missing, or no picture has a drawing.
    """
    return match_drawings(root)[0]


def match_drawings(root: Path) -> tuple[list[tuple[Path, Path]], int]:
    """The pairs of :func:`find_pairs`, and the number of pictures without a drawing."""
    for part in ("images", "boundaries"):
        if not (root / part).is_dir():
            raise DatasetError(f"no folder {root / part}; expected {LAYOUT}")
    drawings = {path.stem: path for path in files_below(root / "boundaries") if has_image_name(path)}
    images = sorted(path for path in files_below(root / "images") if has_image_name(path))
    pairs = [(path, drawings[path.stem]) for path in images if path.stem in drawings]
    if not pairs:
        raise DatasetError(f"no picture in {root / 'images'} has a drawing of its name; expected {LAYOUT}")
    return pairs, len(images) - len(pairs)


def read_pairs(
    pairs: Iterable[tuple[Path, Path]], skipped: dict[str, str]
) -> Iterator[tuple[Path, Tensor, Tensor]]:
    """Paths of pictures, pictures (3, H, W) and shares (H, W), both in [0, 1] and turned as EXIF says.

    Unreadable ones go to ``skipped``.

    Raises:
        DatasetError: a drawing of another size than its picture.
    """
    for picture, drawing in pairs:
        try:
            image = read_image(picture)
            share = read_image(drawing).amax(0)  # of grey, whose three channels are one
        except (ImageError, OSError) as error:
            skipped[str(picture)] = str(error)
            continue
        if share.shape != image.shape[-2:]:
            sizes = ["x".join(map(str, shape)) for shape in (share.shape, image.shape[-2:])]
            raise DatasetError(f"{drawing} is {sizes[0]} pixels, its picture {picture} is {sizes[1]}")
        yield picture, image, share


def whole_cells(image: Tensor, patch: int) -> Tensor:
    """``image`` with its sides at the nearest multiples of ``patch``, so that cells tile it."""
    size = [max(1, round(length / patch)) * patch for length in image.shape[-2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=True).clamp(0, 1)


def to_cpu(edges: Edges) -> Edges:
    return Edges(edges.points.cpu(), edges.strength.float().cpu(), edges.size)
