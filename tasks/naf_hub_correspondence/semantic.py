"""The task: keypoints of an object found on another object of its class (SPair-71k)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from naf_hub import Backbone, Task, Upsampler
from naf_hub.contenders import Contender, load_contenders, name_model, parse_backbone
from naf_hub.controls import add_controls
from naf_hub.errors import DatasetError, ImageError
from naf_hub.images import read_image
from naf_hub.kept_results import KeptResults
from naf_hub.reports import Report, Row, amount, describe_environment
from naf_hub.store import FeatureStore, maps_in
from naf_hub.terminal import progress_bar
from naf_hub.training.settings import build

from .matching import find_nearest
from .pck import LIMITS, Tally, correct_plus, distances, metrics
from .spair import (
    Annotated,
    annotation_file,
    find_pairs,
    find_spair,
    read_annotation,
    read_pair,
    require_photos,
)
from .squares import Square, require_patch

GRID = "backbone's grid"
"""Label of the row of the features as the backbone gives them, which the published tables call bilinear."""


@dataclasses.dataclass(frozen=True)
class SPairProtocol:
    """What decides the figures.

    Attributes:
        size: side of the squares that the backbone sees and of the upsampled maps, in pixels.
        limit: use only so many pairs of each category, evenly spread; 0 for all.
    """

    size: int = 448
    limit: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or self.limit < 0:
            raise ValueError(f"size must be positive and limit not negative, got {self.size}, {self.limit}")


class SemanticCorrespondence(Task):
    """PCK on SPair-71k (Min et al. 2019) as the evaluation kit of ViT-Up measures it.

    Both photos are padded to black squares; the feature at a keypoint of the source is looked for among all pixels
    of the upsampled target, by cosine similarity. A point counts if it lies within 0.1, 0.05 or 0.01 times the
    longer side of the target's box.
    """

    name = "correspondence"
    version = 1
    goes_on = True
    metrics = (
        *metrics("pck", "per category"),
        *metrics("point", "per point"),
        *metrics("image", "per image"),
    )

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
        """PCK of each upsampler, everything else being equal.

        Args:
            contenders: see :func:`naf_hub.contenders.load_contenders`.
            data: the folder of SPair-71k, see :data:`naf_hub_correspondence.spair.LAYOUT`.
            protocol: settings of :class:`SPairProtocol`.
            backbone: gives the features; needed.
            device: where models run.
            controls: see :func:`naf_hub.controls.add_controls`.
            out: keep what is found of each pair in this folder; an interrupted evaluation goes on from it, see
                :class:`naf_hub.kept_results.KeptResults`.
            progress: show a progress bar on stderr.

        Returns:
            A report; figures are percent. ``pck_...`` is the mean over categories of the points within each,
            ``point_...`` of all points, ``image_...`` the mean over pairs. Extras hold the categories, and PCK+.
            The row :data:`GRID` matches the backbone's own cells.

        Raises:
            DatasetError: the folder is not as expected, or a file of it is wrong; it is named.
            FileExistsError: ``out`` holds other files.
            ImageError: no pair has photos that can be read.
            TypeError, ValueError: no backbone, or a setting that does not exist or makes no sense.
            UnknownNameError, WeightsError: see :func:`naf_hub.load`.
        """
        chosen = build(SPairProtocol, protocol or {})
        if backbone is None:
            raise ValueError("correspondence needs a backbone; give backbone=")
        root = find_spair(Path(data))
        categories = {
            name: [files[i * len(files) // count] for i in range(count)]
            for name, files in find_pairs(root).items()
            for count in [min(chosen.limit or len(files), len(files))]
        }
        named = {category: [read_pair(file) for file in files] for category, files in categories.items()}
        require_photos(root, named)
        behind = parse_backbone(backbone)
        name = behind.label if isinstance(behind, Contender) else name_model(behind)
        made_for = behind.name if isinstance(behind, Contender) else behind
        models = add_controls(load_contenders(contenders, made_for=made_for, device=device), controls)
        models = {GRID: _Unchanged(), **models}
        if isinstance(behind, Contender):
            behind = behind.load(device=device)
        require_patch(chosen.size, behind.patch_size)
        tallies = {label: _Tallies() for label in models}
        kept = KeptResults(out, self.name, {"version": self.version, "size": chosen.size}, [behind], models)
        skipped: dict[str, str] = {}
        total, pairs = sum(map(len, named.values())), 0
        with progress_bar(total=total * len(models), unit="pair", desc=self.name, wanted=progress) as bar:
            for category, names in named.items():
                photos = _Photos(root, category, behind, chosen.size, device)
                found: dict[tuple[str, str], Any] = {}
                for label, model in models.items():
                    found = {pair: kept.recall(label, photos.files(pair)) for pair in names}
                    missing = [pair for pair in names if found[pair] is None]
                    bar.update(len(names) - len(missing))
                    for pair, pixels in photos.match(model, missing, skipped):
                        found[pair] = pixels.tolist()
                        kept.keep(label, photos.files(pair), found[pair])
                        bar.update()
                    for pair in names:
                        if found[pair] is not None:
                            pixels = torch.tensor(found[pair], dtype=torch.long).view(-1, 2)
                            source, target = photos.annotation(pair[0]), photos.annotation(pair[1])
                            tallies[label].add(category, source, target, pixels)
                pairs += sum(each is not None for each in found.values())
        if not pairs:
            raise ImageError(f"no pair of readable photos: {next(iter(skipped.values()))}")
        if not any(tally.plain[LIMITS[0]].pictures for tally in tallies.values()):
            raise DatasetError(f"no pair in {root} has a keypoint that both photos show")
        return Report(
            self.name,
            self.version,
            dataclasses.asdict(chosen),
            self.metrics,
            tuple(
                Row.of(label, models[label], tally.figures(), backbone=name, extras=tally.extras())
                if label != GRID
                else Row(label, tally.figures(), backbone=name, extras=tally.extras())
                for label, tally in tallies.items()
            ),
            data={
                "path": os.fspath(data),
                "pairs": pairs,
                "categories": list(categories),
                "skipped": skipped,
            },
            environment=describe_environment(device),
            heading=f"{name}: {amount(pairs, 'pair')} of "
            f"{len(categories)} {'category' if len(categories) == 1 else 'categories'}"
            + (f", {amount(total - pairs, 'pair')} skipped" if skipped else ""),
        )


class _Unchanged(Upsampler):
    """Gives the features as they are, at their own size."""

    guided = False

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return features


class _Photos:
    """Photos of one category, their features gathered once for all contenders."""

    def __init__(self, root: Path, category: str, backbone: Any, size: int, device: Any) -> None:
        self.root, self.category, self.backbone = root, category, backbone
        self.size, self.device = size, device
        self.store = FeatureStore("float32", device=device)
        self.known: dict[str, Annotated] = {}

    def files(self, pair: tuple[str, str]) -> list[Path]:
        """Photos and annotations of a pair."""
        photos = [self.annotation(name).path for name in pair]
        return [*photos, *(annotation_file(self.root, self.category, name) for name in pair)]

    def match(
        self, model: Upsampler, pairs: list[tuple[str, str]], skipped: dict[str, str]
    ) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """Each pair, and the pixels of its target (N, 2) found for the source's keypoints. Each photo's map is made
        once, and let go before the next. Pairs of a photo that cannot be read are left out, which goes to
        ``skipped``."""
        sources: dict[str, Tensor] = {}
        for target in dict.fromkeys(target for _, target in pairs):
            try:
                image, features, side = self.view(model, target)
            except ImageError as error:
                skipped[str(self.annotation(target).path)] = str(error)
                continue
            partners: list[str] = []
            for source in (source for source, other in pairs if other == target):
                try:
                    if source not in sources:
                        sources[source] = self.at_keypoints(model, source)
                except ImageError as error:
                    skipped[str(self.annotation(source).path)] = str(error)
                    continue
                partners.append(source)
            cells = model(image, features, (side, side))[0].flatten(1)
            for source in partners:
                numbers = find_nearest(sources[source], cells).cells if sources[source].numel() else []
                found = Square(*self.annotation(target).size).pixels(
                    torch.as_tensor(numbers, dtype=torch.long), side
                )
                yield (source, target), found

    def at_keypoints(self, model: Upsampler, name: str) -> Tensor:
        """(C, N) features at the keypoints of a photo; of one without keypoints nothing."""
        photo = self.annotation(name)
        if not photo.points:
            return torch.empty(0)
        image, features, side = self.view(model, name)
        cells = Square(*photo.size).cells(photo.at(list(photo.points)), side)
        return model.features_at(image, features, cells, (side, side))[0]

    def annotation(self, name: str) -> Annotated:
        """What is known of a photo, read once."""
        if name not in self.known:
            self.known[name] = read_annotation(self.root, self.category, name)
        return self.known[name]

    def view(self, model: Upsampler, name: str) -> tuple[Tensor, Any, int]:
        """A photo in its square (1, 3, S, S), its features, and the side of the map to be made of them."""
        photo = self.annotation(name)
        image = read_image(photo.path)
        if image.shape[-2:] != photo.size:
            sizes = ["x".join(map(str, shape)) for shape in (image.shape[-2:], photo.size)]
            raise DatasetError(f"{photo.path} is {sizes[0]} pixels, its annotation says {sizes[1]}")
        image = Square(*photo.size).pad(image, self.size)[None].to(self.device)
        features = self.store.gather(model, self.backbone, [image[0]], [name])
        return image, features, maps_in(features)[0].shape[-1] if isinstance(model, _Unchanged) else self.size


class _Tallies:
    """What one contender found, by limit: points that are correct, and those that are nearest, too (PCK+)."""

    def __init__(self) -> None:
        self.plain = {limit: Tally() for limit in LIMITS}
        self.plus = {limit: Tally() for limit in LIMITS}

    def add(self, category: str, source: Annotated, target: Annotated, found: Tensor) -> None:
        """Take in one pair; ``found`` (N, 2) are pixels of the target for all keypoints of the source."""
        common = [number for number in source.points if number in target.points]
        places = [list(source.points).index(number) for number in common]
        if not common:
            return
        truth, found = target.at(common), found[places]
        for limit in LIMITS:
            reach = limit * target.extent
            self.plain[limit].add(category, distances(found, truth) <= reach)
            self.plus[limit].add(category, correct_plus(found, truth, reach))

    def figures(self) -> dict[str, float]:
        """Percent by the names of the metrics."""
        ways = {"pck": "per_category", "point": "per_point", "image": "per_image"}
        return {
            f"{way}_{limit}": getattr(tally, mean)
            for way, mean in ways.items()
            for limit, tally in self.plain.items()
        }

    def extras(self) -> dict[str, Any]:
        """PCK+ as PCK is averaged, and PCK by category."""
        return {
            "pck_plus": {str(limit): tally.per_category for limit, tally in self.plus.items()},
            "categories": {str(limit): tally.of_categories() for limit, tally in self.plain.items()},
        }
