"""The task: points of a photo found again after a homography that is known, so that no labels are needed."""

from __future__ import annotations

import dataclasses
import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from naf_hub import Backbone, Task, Upsampler
from naf_hub.contenders import Contender, load_contenders, name_model, parse_backbone
from naf_hub.controls import add_controls
from naf_hub.crops import Cropping
from naf_hub.errors import ImageError
from naf_hub.image_files import find_images
from naf_hub.interfaces import Features
from naf_hub.kept_results import KeptResults
from naf_hub.paired_files import spread
from naf_hub.reports import Metric, Report, Row, amount, describe_environment
from naf_hub.store import FeatureStore
from naf_hub.terminal import progress_bar
from naf_hub.training.settings import build

from .homographies import centres, draw_homography, lie_inside, move, show
from .matching import find_nearest, surest
from .pck import LIMITS, Tally, distances, metrics
from .squares import require_patch

KEPT_PIXELS = (50, 25, 5)
"""How far off the surest points may be, in pixels: the limits of the NAVI protocol."""


@dataclasses.dataclass(frozen=True)
class HomographyProtocol:
    """What decides the figures.

    Attributes:
        size: side of the square photos that the backbone sees, in pixels.
        output_size: side of the upsampled maps, in cells.
        points: of each photo ask only for so many cells, drawn at random; 0 asks for all. The columns of the surest
            cells need all.
        keep: so many of the surest cells make those columns; where there are fewer, the rest counts as wrong.
        strength: of the homographies, see :func:`~naf_hub_correspondence.homographies.draw_homography`.
        seed: of homographies and points, together with the names of the photos.
        limit: use only so many photos, evenly spread; 0 for all.
    """

    size: int = 448
    output_size: int = 112
    points: int = 0
    keep: int = 1000
    strength: float = 1.0
    seed: int = 0
    limit: int = 0

    def __post_init__(self) -> None:
        if min(self.size, self.output_size, self.keep) < 1 or min(self.points, self.limit) < 0:
            raise ValueError(
                "size, output_size and keep must be positive, points and limit must not be negative"
            )
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be within 0 and 1, got {self.strength}")


class HomographyCorrespondence(Task):
    """Nearest-feature matching of Probe3D (El Banani et al. 2024) on photos and their homographies.

    A photo and the same photo under a homography go through backbone and upsampler apart. The feature of every cell
    of the source that the target shows is looked for among the cells of the target that the source shows, by cosine
    similarity; the homography says where it should be.
    """

    name = "homography"
    version = 1
    goes_on = True
    metrics = (
        *metrics("image", "per image"),
        *metrics("point", "per point"),
        *(Metric(f"kept_{pixels}", "%", True, 2, f"PCK@{pixels}px of the surest") for pixels in KEPT_PIXELS),
    )

    @torch.no_grad()
    def evaluate(
        self,
        contenders: Any,
        data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        protocol: Mapping[str, Any] | None = None,
        *,
        backbone: str | Contender | Backbone | None = None,
        device: Any = "cpu",
        controls: Sequence[str] = (),
        out: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Report:
        """How many points each upsampler finds again, everything else being equal.

        Args:
            contenders: see :func:`naf_hub.contenders.load_contenders`.
            data: photos, or folders of photos.
            protocol: settings of :class:`HomographyProtocol`.
            backbone: gives the features; needed.
            device: where models run.
            controls: see :func:`naf_hub.controls.add_controls`.
            out: keep the figures of each photo in this folder; an interrupted evaluation goes on from them, see
                :class:`naf_hub.kept_results.KeptResults`.
            progress: show a progress bar on stderr.

        Returns:
            A report; figures are percent. ``image_...`` and ``point_...`` are PCK of all points, limits being shares
            of the photo's side; ``kept_...`` is the share of the surest cells that lie within so many pixels.

        Raises:
            FileNotFoundError: no photo.
            FileExistsError: ``out`` holds other files.
            ImageError: none of the photos can be read.
            TypeError, ValueError: no backbone, or a setting that does not exist or makes no sense.
            UnknownNameError, WeightsError: see :func:`naf_hub.load`.
        """
        chosen = build(HomographyProtocol, protocol or {})
        if backbone is None:
            raise ValueError("homography needs a backbone; give backbone=")
        folders = [data] if isinstance(data, (str, os.PathLike)) else list(data)
        files = spread(find_images(folders), chosen.limit or None)
        behind = parse_backbone(backbone)
        name = behind.label if isinstance(behind, Contender) else name_model(behind)
        made_for = behind.name if isinstance(behind, Contender) else behind
        models = add_controls(load_contenders(contenders, made_for=made_for, device=device), controls)
        if isinstance(behind, Contender):
            behind = behind.load(device=device)
        require_patch(chosen.size, behind.patch_size)
        store = FeatureStore("float32", device=device)
        settings = {key: value for key, value in dataclasses.asdict(chosen).items() if key != "limit"}
        facts = {"version": self.version, "protocol": settings}
        kept = KeptResults(out, self.name, facts, [behind], models)
        scores = {label: _Scores(chosen) for label in models}
        skipped: dict[str, str] = {}
        asked = 0
        for path in progress_bar(files, unit="photo", desc=self.name, wanted=progress):
            try:
                pair = WarpedPair.read(path, chosen)
            except (ImageError, OSError) as error:
                skipped[str(path)] = str(error)
                continue
            asked += len(pair.asked)
            store.clear()
            images = [image[None].to(device) for image in (pair.source, pair.target)]
            for label, model in models.items():
                found = kept.recall(label, [path])
                if found is None:
                    features = [
                        store.gather(model, behind, [image[0]], [part]) for part, image in enumerate(images)
                    ]
                    found = scores[label].of(pair, *pair.match(model, images, features))
                    kept.keep(label, [path], found)
                scores[label].add(found)
        if len(skipped) == len(files):
            raise ImageError(f"no readable photo: {next(iter(skipped.values()))}")
        return Report(
            self.name,
            self.version,
            dataclasses.asdict(chosen),
            self.metrics,
            tuple(
                Row.of(label, models[label], found.figures(), backbone=name)
                for label, found in scores.items()
            ),
            data={
                "path": [os.fspath(folder) for folder in folders],
                "images": len(files) - len(skipped),
                "points": asked,
                "skipped": skipped,
            },
            seeds=(chosen.seed,),
            environment=describe_environment(device),
            heading=f"{name}: {amount(len(files) - len(skipped), 'photo')}, {amount(asked, 'point')}, "
            f"{len(skipped)} skipped",
        )


@dataclasses.dataclass(frozen=True)
class WarpedPair:
    """A square photo, the same under a homography, and the cells that both show.

    Attributes:
        source, target: (3, S, S).
        homography: (3, 3), from pixels of the source to those of the target.
        side: cells a side.
        asked: (N,) numbers of the source's cells that are looked for.
        offered: (M,) numbers of the target's cells among which they are.
    """

    source: Tensor
    target: Tensor
    homography: Tensor
    side: int
    asked: Tensor
    offered: Tensor

    @classmethod
    def read(cls, path: Path, protocol: HomographyProtocol) -> WarpedPair:
        """The pair of a photo, whose short side is brought to the size and whose middle is cut out.

        Raises:
            ImageError: unreadable.
        """
        size, side = protocol.size, protocol.output_size
        source = Cropping(resize=size).cut(path, 0, size)
        key = f"{protocol.seed}/homography/{path.name}"
        homography = draw_homography(key, size, protocol.strength)
        cells = centres(side, size)
        asked, offered = (
            lie_inside(move(cells, matrix), size).nonzero().flatten()
            for matrix in (homography, torch.linalg.inv(homography))
        )
        if protocol.points:
            some = random.Random(f"{key}/points").sample(range(len(asked)), min(protocol.points, len(asked)))
            asked = asked[some]
        return cls(source, show(source, homography), homography, side, asked, offered)

    def match(
        self, model: Upsampler, images: Sequence[Tensor], features: Sequence[Features]
    ) -> tuple[Tensor, Tensor]:
        """Pixels by which each cell asked for is missed, (N,), and their places from the surest on.

        Args:
            model: upsamples.
            images: source and target as batches of one, where the model runs.
            features: of both.
        """
        size, device = (self.side, self.side), images[0].device
        xy = torch.stack([self.asked % self.side, self.asked // self.side], dim=1)
        vectors = model.features_at(images[0], features[0], xy, size)[0]
        target = model(images[1], features[1], size)[0].flatten(1)
        nearest = find_nearest(vectors, target[:, self.offered.to(device)])
        places = centres(self.side, self.source.shape[-1])
        found = places[self.offered[nearest.cells.cpu()]]
        return distances(found, move(places[self.asked], self.homography)), surest(nearest, len(xy)).cpu()


class _Scores:
    """What one contender found."""

    def __init__(self, protocol: HomographyProtocol) -> None:
        self.protocol = protocol
        self.tallies = {limit: Tally() for limit in LIMITS}
        self.kept: defaultdict[int, list[float]] = defaultdict(list)

    def of(self, pair: WarpedPair, missed: Tensor, surest_first: Tensor) -> dict[str, list[float]]:
        """Plain figures of one photo, see :meth:`WarpedPair.match`: points that are right within each limit, how many
        there are, and percent of the surest ones."""
        right = [(missed <= limit * pair.source.shape[-1]).sum().item() for limit in LIMITS]
        kept = surest_first[: self.protocol.keep]
        sure = [(missed[kept] < pixels).sum().item() / self.protocol.keep for pixels in KEPT_PIXELS]
        return {"right": [*right, len(missed)], "surest": [100 * share for share in sure]}

    def add(self, found: Mapping[str, Sequence[float]]) -> None:
        """Take in what :meth:`of` says of one photo."""
        *right, points = found["right"]
        for tally, count in zip(self.tallies.values(), right, strict=True):
            tally.count("", int(count), int(points))
        for pixels, percent in zip(KEPT_PIXELS, found["surest"], strict=True):
            self.kept[pixels].append(percent)

    def figures(self) -> dict[str, float | None]:
        """Percent by the names of the metrics."""
        means = {
            f"{way}_{limit}": getattr(tally, f"per_{way}")
            for way in ("image", "point")
            for limit, tally in self.tallies.items()
        }
        kept = {pixels: None if self.protocol.points else sum(v) / len(v) for pixels, v in self.kept.items()}
        return {**means, **{f"kept_{pixels}": value for pixels, value in kept.items()}}
