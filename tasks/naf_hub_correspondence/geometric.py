"""The task: points of an object found again from another side, where depth and cameras tell the truth (NAVI)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub import Backbone, Task
from naf_hub.contenders import Contender, load_contenders, name_model, parse_backbone
from naf_hub.controls import add_controls
from naf_hub.errors import DatasetError, ImageError
from naf_hub.kept_results import KeptResults
from naf_hub.paired_files import spread
from naf_hub.reports import Report, Row, amount, describe_environment
from naf_hub.store import FeatureStore
from naf_hub.terminal import progress_bar
from naf_hub.training.settings import build

from .matching import find_nearest, surest
from .navi import LARGEST_ANGLE, LARGEST_SEED, View, draw_pairs, find_navi, find_views
from .point_maps import read_point_map
from .poses import Pose
from .recalls import METRICS, Recalls, point_errors, shares_below
from .squares import require_patch


@dataclasses.dataclass(frozen=True)
class GeometricProtocol:
    """What decides the figures.

    Attributes:
        size: side of the squares that the backbone sees, in pixels.
        output_size: side of the upsampled maps, in cells.
        keep: so many of the surest cells count; where there are fewer, the rest counts as wrong.
        instance_stride: every so many photos are a source, from the first on; 1 for all.
        seed: of the partners' draw.
        limit: use only so many pairs, evenly spread; 0 for all.
    """

    size: int = 448
    output_size: int = 112
    keep: int = 1000
    instance_stride: int = 4
    seed: int = 8
    limit: int = 0

    def __post_init__(self) -> None:
        if min(self.size, self.output_size, self.keep, self.instance_stride) < 1:
            raise ValueError("size, output_size, keep and instance_stride must be positive")
        if self.limit < 0:
            raise ValueError(f"limit must not be negative, got {self.limit}")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"seed must be within 0 and {LARGEST_SEED}, got {self.seed}")


class GeometricCorrespondence(Task):
    """Nearest-feature matching of Probe3D (El Banani et al. 2024) on NAVI (Jampani et al. 2023).

    Two photos of an object go through backbone and upsampler apart. The feature of every cell of the source that shows
    the object is looked for among those of the target, by cosine similarity, and the surest matches are kept. Depth and
    cameras say where the point of the source lies in the target's camera, and how far the match is from it. As in the
    kit of ViT-Up, squares have 448 pixels, maps 112 x 112 cells, and every fourth photo is a source.
    """

    name = "geometric"
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
        """How near to the truth the surest matches of each upsampler are, everything else being equal.

        One pair is in memory at a time. Pairs of which a file is missing or broken, or of which a photo shows the
        object in fewer than two cells, are left out and told.

        Args:
            contenders: see :func:`naf_hub.contenders.load_contenders`.
            data: the folder of NAVI, see :data:`naf_hub_correspondence.navi.LAYOUT`.
            protocol: settings of :class:`GeometricProtocol`.
            backbone: gives the features; needed.
            device: where models run.
            controls: see :func:`naf_hub.controls.add_controls`.
            out: keep the figures of each pair in this folder; an interrupted evaluation goes on from them, see
                :class:`naf_hub.kept_results.KeptResults`.
            progress: show a progress bar on stderr.

        Returns:
            A report; figures are percent of pairs x ``keep`` matches. ``recall_2cm`` are those whose points in space
            are less than 2 cm apart, ``recall_25px`` those whose projections in the target are less than 25 pixels
            apart, ``recall_2cm_30_60`` is of pairs with an angle of [30, 60) degrees between the cameras; ``None``
            without such a pair.

        Raises:
            DatasetError: the folder is not as expected, or an annotation of it is wrong; it is named.
            FileExistsError: ``out`` holds other files.
            ImageError: no pair can be used.
            TypeError, ValueError: no backbone, or a setting that does not exist or makes no sense.
            UnknownNameError, WeightsError: see :func:`naf_hub.load`.
        """
        chosen = build(GeometricProtocol, protocol or {})
        if backbone is None:
            raise ValueError("geometric needs a backbone; give backbone=")
        views = find_views(find_navi(Path(data)))
        pairs = spread(draw_pairs(views, chosen.seed, chosen.instance_stride), chosen.limit or None)
        behind = parse_backbone(backbone)
        name = behind.label if isinstance(behind, Contender) else name_model(behind)
        made_for = behind.name if isinstance(behind, Contender) else behind
        models = add_controls(load_contenders(contenders, made_for=made_for, device=device), controls)
        if isinstance(behind, Contender):
            behind = behind.load(device=device)
        require_patch(chosen.size, behind.patch_size)
        store = FeatureStore("float32", device=device)
        settings = {key: getattr(chosen, key) for key in ("size", "output_size", "keep")}
        facts = {"version": self.version, "protocol": settings}
        kept = KeptResults(out, self.name, facts, [behind], models)
        scores = {label: Recalls() for label in models}
        skipped: dict[str, str] = {}
        things: set[str] = set()
        for source, target in progress_bar(pairs, unit="pair", desc=self.name, wanted=progress):
            if target is None:
                alone = f"{source.image}: no other photo of its object within {LARGEST_ANGLE:g} degrees"
                skipped[str(source.image)] = alone
                continue
            pose = source.pose.to(target.pose)
            files = [path for view in (source, target) for path in (view.image, view.depth)]
            files.append(source.annotations)
            found = {label: kept.recall(label, files) for label in models}
            if None in found.values():
                try:
                    seen = Seen.read(source, chosen), Seen.read(target, chosen)
                except (ImageError, DatasetError, OSError) as error:
                    skipped[f"{source.image} and {target.image}"] = str(error)
                    continue
                store.clear()
                images = [one.image[None].to(device) for one in seen]
                for label, model in models.items():
                    if found[label] is None:
                        features = [
                            store.gather(model, behind, [image[0]], [part])
                            for part, image in enumerate(images)
                        ]
                        asked, offered = (
                            model(*both, (chosen.output_size,) * 2)[0]
                            for both in zip(images, features, strict=True)
                        )
                        found[label] = measure(*seen, asked, offered, pose, chosen.keep)
                        kept.keep(label, files, found[label])
            things.add(source.thing)
            for label, figures in found.items():
                scores[label].add(pose.angle, figures)
        if len(skipped) == len(pairs):
            raise ImageError(f"no pair of usable photos and depths: {next(iter(skipped.values()))}")
        count = len(pairs) - len(skipped)
        return Report(
            self.name,
            self.version,
            dataclasses.asdict(chosen),
            self.metrics,
            tuple(
                Row.of(label, models[label], score.figures(), backbone=name)
                for label, score in scores.items()
            ),
            data={"path": os.fspath(data), "objects": len(things), "pairs": count, "skipped": skipped},
            seeds=(chosen.seed,),
            environment=describe_environment(device),
            heading=f"{name}: {amount(count, 'pair')} of {amount(len(things), 'object')}"
            + (f", {amount(len(skipped), 'pair')} skipped" if skipped else ""),
        )


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a photo shows of an object, cell by cell.

    Attributes:
        image: (3, S, S), the square around the object.
        cells: (N,) numbers of the map's cells that show the object, by rows.
        points: (N, 3) metres, what they show, in the camera's coordinates.
        focal: focal length in pixels of the square.
    """

    image: Tensor
    cells: Tensor
    points: Tensor
    focal: float

    @classmethod
    def read(cls, view: View, protocol: GeometricProtocol) -> Seen:
        """Of a photo; the point of a cell is that of the first of its pixels, as nearest interpolation has it.

        Raises:
            FileNotFoundError, ImageError, DatasetError: see :func:`~naf_hub_correspondence.point_maps.read_point_map`;
                or fewer than two cells show the object.
        """
        shown = read_point_map(view, protocol.size)
        points = F.interpolate(shown.points[None], (protocol.output_size,) * 2, mode="nearest")[0].flatten(1)
        cells = (points[2] > 0).nonzero().flatten()
        if len(cells) < 2:
            raise DatasetError(f"{view.depth}: shows the object in fewer than two cells")
        return cls(shown.image, cells, points[:, cells].T, shown.focal)


def measure(source: Seen, target: Seen, asked: Tensor, offered: Tensor, pose: Pose, keep: int) -> list[float]:
    """How many of the surest matches are near enough to the truth.

    Args:
        source, target: what both photos show.
        asked, offered: (C, H, W) their upsampled features.
        pose: from the source's camera to the target's.
        keep: so many matches count; those that there are not are wrong.

    Returns:
        Percent of ``keep``, see :func:`~naf_hub_correspondence.recalls.shares_below`.
    """
    vectors, among = (
        maps.flatten(1)[:, one.cells.to(maps.device)] for maps, one in ((asked, source), (offered, target))
    )
    nearest = find_nearest(vectors, among)
    kept = surest(nearest, keep).cpu()
    found = target.points[nearest.cells.cpu()[kept]]
    return shares_below(*point_errors(source.points[kept], found, pose, target.focal), keep)
