"""Reconstruction error of several upsamplers on the same images, each in the space of its own output."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.errors import ImageError
from naf_hub.interfaces import Backbone, Features, StandIn, Upsampler
from naf_hub.kept_results import KeptResults
from naf_hub.store import each_map, maps_in
from naf_hub.terminal import progress_bar
from naf_hub.training.settings import build, require

from .evaluate import bilinear, held_out_crops, pair_sizes
from .features import resize
from .image_free import ImageFree, LeastSquares
from .plan import Sizes
from .tiles import tiled_features

FITTED = 64
"""Most pictures that the image-free ceiling is fitted on: 81 numbers a phase need no more."""
IMAGE_FREE = "image_free"
CONVEX = "image_free_convex"
"""Labels of the ceilings: the best kernels, and the best whose weights are those of averages."""
KEPT = 2**30
"""Bytes of features that fitting may keep for the comparison on the same pictures."""
PLAIN = (Upsampler().gather_key, None)
"""The space of upsamplers that take and give features as the backbone does."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What decides the figures.

    Attributes:
        crop, resize: centre crop of that many pixels, rounded down to whole patches, after bringing the short side
            to ``resize`` pixels (0: leave it, enlarging only what is smaller than the crop).
        down: side of the input image over that of the crop; 0.5 is x2 upsampling, 1 needs a ``ratio``.
        guidance, guidance_max: side of the guidance image: pixels per target cell, and its bound (0: none).
        min_side: images with a shorter side are left out.
        pooled: the input is the target averaged to the input grid, not the features of a smaller image: what is
            lost is detail alone.
        limit: use only so many images, evenly spread over the list; 0 for all.
        ratio: upsample so many times, a side; 0 is 1 / ``down``. Beyond 1 / ``down`` the target has the features of
            the enlarged crop, taken in tiles of the crop's own side that overlap, and the guidance is the crop.
    """

    crop: int = 384
    resize: int = 0
    down: float = 0.5
    guidance: float = 4.0
    guidance_max: int = 224
    min_side: int = 0
    pooled: bool = False
    limit: int = 0
    ratio: float = 0

    def __post_init__(self) -> None:
        require(self.crop >= 1, "crop", self.crop, "must be at least 1")
        for key in ("resize", "guidance_max", "min_side", "limit"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        require(self.guidance > 0, "guidance", self.guidance, "must be positive")
        require(self.ratio == 0 or self.ratio > 1, "ratio", self.ratio, "must be 0 or more than 1")
        if self.ratio:
            require(0 < self.down <= 1, "down", self.down, "must be more than 0 and at most 1")
        else:  # the input would be no smaller than the crop
            require(0 < self.down < 1, "down", self.down, "must lie between 0 and 1; 1 needs a ratio")
        if self.ratio and self.ratio * self.down < 1:
            raise ValueError(
                f"ratio {self.ratio:g} needs down to be at least {1 / self.ratio:.4g}, not {self.down:g}"
            )

    @property
    def enlarge(self) -> float:
        """Side of the picture that the target's features are of, over that of the crop."""
        return self.ratio * self.down if self.ratio else 1.0

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Protocol:
        """The protocol of plain settings.

        Raises:
            ConfigError: a setting that does not exist or makes no sense.
        """
        return build(cls, settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain settings, as :meth:`read` takes them."""
        return dataclasses.asdict(self)


@torch.no_grad()
def compare(
    models: Mapping[str, Upsampler],
    backbone: Backbone,
    files: Sequence[Path],
    protocol: Protocol,
    device: Any = "cpu",
    skipped: dict[str, str] | None = None,
    progress: bool = False,
    fit_files: Sequence[Path] = (),
    out: str | os.PathLike[str] | None = None,
) -> tuple[dict[str, dict[str, float]], int]:
    """Errors of ``models`` on the same images, and how many those are.

    Upsamplers of one ``gather_key`` share the passes of the backbone. What an upsampler makes of the input's
    features is compared with its reference features of the crop itself. The image-free ceiling
    (:mod:`~naf_hub_reconstruction.image_free`) is fitted once for every space in which upsamplers answer.

    Args:
        models: upsamplers by label.
        backbone: gives the features.
        files: images to compare on.
        protocol: see :class:`Protocol`.
        device: where to compute.
        skipped: receives the images passed over and why.
        progress: show progress bars on stderr.
        fit_files: images to fit the image-free ceiling on; by default ``files``, which favours the ceiling.
        out: folder to keep the figures of each image and upsampler in.

    Returns:
        For each name, and for both ceilings, ``mse`` (mean over images, channels and cells), ``bilinear_mse`` (of
        bilinear interpolation of the reference features of the input), ``ratio_to_bilinear`` (the one over the
        other), ``guidance_gain`` (100 x (1 - mse / mse of the ceiling), percent) and ``cosine`` (mean cosine
        similarity of upsampled and target vectors, cell by cell); and the number of images.

    Raises:
        FileExistsError: ``out`` holds other files.
        ImageError: no usable image.
        ValueError: an output has another size than was asked for, or the input would hold no patch of the backbone.
    """
    sizes = pair_sizes(
        backbone.patch_size, protocol.crop, protocol.down, protocol.guidance, protocol.guidance_max, protocol.pooled
    )  # fmt: skip
    if sizes.crop * protocol.down < backbone.patch_size:
        raise ValueError(
            f"down = {protocol.down:g} makes {sizes.crop * protocol.down:.3g} pixels of a crop of {sizes.crop}, less "
            f"than a patch of the backbone ({backbone.patch_size} pixels): choose a larger down or crop"
        )
    backbone.to(device).eval()
    for model in models.values():
        model.to(device).eval()
    pairs = Pairs(backbone, sizes, protocol)
    spaces = {label: space_of(model) for label, model in models.items()}
    ceilings = fit_ceilings(models, pairs, fit_files or files, device, progress)
    measured = {**models, **ceilings}
    sums: dict[Any, dict[str, float]] = {
        name: dict.fromkeys(("mse", "bilinear_mse", "cosine"), 0.0) for name in measured
    }
    count = 0
    settings = {key: value for key, value in protocol.to_dict().items() if key != "limit"}
    kept = KeptResults(out, "reconstruction", {"protocol": settings}, [backbone], models)
    skipped = {} if skipped is None else skipped
    crops = held_out_crops(files, sizes.crop, protocol.resize, protocol.min_side, skipped)
    for path, crop in progress_bar(crops, total=len(files), unit="image", desc="evaluate", wanted=progress):
        count += 1
        pairs.turn_to(path, crop.to(device))
        for name, model in measured.items():
            found = kept.recall(name, [path]) if name in models else None
            if found is None:
                found = pairs.measure(model)
                if name in models:
                    kept.keep(name, [path], found)
            for key, value in found.items():
                sums[name][key] += value
        pairs.forget()
    if not count:
        raise _nothing_usable(files, protocol, skipped)
    figures = {name: {key: total / count for key, total in found.items()} for name, found in sums.items()}
    for name, found in figures.items():
        least = figures[IMAGE_FREE, spaces[name] if isinstance(name, str) else name[1]]["mse"]
        base = found["bilinear_mse"]
        found["ratio_to_bilinear"] = found["mse"] / base if base else float("nan")
        found["guidance_gain"] = 100 * (1 - found["mse"] / least) if least else float("nan")
    plain = PLAIN if PLAIN in spaces.values() else next(iter(spaces.values()))
    blind = {label: figures[label, plain] for label in (IMAGE_FREE, CONVEX)}
    return {**{label: figures[label] for label in models}, **blind}, count


def space_of(model: Upsampler) -> tuple[Any, Any]:
    """What decides input and target of a comparison: what is gathered, and how it is referred to."""
    own = model.like if isinstance(model, StandIn) else model
    return (model.gather_key, None if type(own).reference is Upsampler.reference else id(own))


def fit_ceilings(
    models: Mapping[str, Upsampler], pairs: Pairs, files: Sequence[Path], device: Any, progress: bool
) -> dict[tuple[str, Any], ImageFree]:
    """The image-free ceilings by label and space, from at most ``FITTED`` of the files, evenly spread.

    Raises:
        ImageError: no usable image.
    """
    members = {space_of(model): model for model in models.values()}
    sums = {space: LeastSquares() for space in members}
    chosen = [files[i * len(files) // FITTED] for i in range(FITTED)] if len(files) > FITTED else files
    protocol, seen = pairs.protocol, False
    skipped: dict[str, str] = {}
    crops = held_out_crops(chosen, pairs.sizes.crop, protocol.resize, protocol.min_side, skipped)
    bar = progress_bar(crops, total=len(chosen), unit="image", desc="image-free", wanted=progress)
    for path, crop in bar:
        seen = True
        pairs.turn_to(path, crop.to(device))
        for space, model in members.items():
            given, whole = pairs.gather(model)
            sums[space].add(model.reference(given), model.reference(whole))
        if pairs.size() > KEPT:
            pairs.forget()
    if not seen:
        raise _nothing_usable(chosen, protocol, skipped)
    kernels = {
        (label, space): (members[space], kernels)
        for space, found in sums.items()
        for label, kernels in ((IMAGE_FREE, found.kernels()), (CONVEX, found.convex_kernels()))
    }
    return {key: ImageFree(model, found).to(device).eval() for key, (model, found) in kernels.items()}


def _nothing_usable(files: Sequence[Path], protocol: Protocol, skipped: Mapping[str, str]) -> ImageError:
    where = os.path.commonpath([path.parent for path in files])
    wanted = (
        f"with a short side of {protocol.min_side} pixels or more"
        if protocol.min_side
        else "that can be read"
    )
    return ImageError(f"no image {wanted} in {where or '.'}: {next(iter(skipped.values()))}")


class Pairs:
    """Input and target features of one crop after another, each pass of the backbone made once.

    Args:
        backbone: gives the features.
        sizes: of the crops.
        protocol: see :class:`Protocol`.
    """

    def __init__(self, backbone: Backbone, sizes: Sizes, protocol: Protocol) -> None:
        self.backbone, self.sizes, self.protocol = backbone, sizes, protocol
        self.kept: dict[Path, dict[tuple[Any, str], Features]] = {}

    def turn_to(self, path: Path, crop: Tensor) -> None:
        """From now on it is about this crop (3, side, side) of that file."""
        self.path, self.crop = path, crop

    def forget(self) -> None:
        """Drop the features of the present crop."""
        self.kept.pop(self.path, None)

    def size(self) -> int:
        """Bytes of all features that are kept."""
        return sum(t.nbytes for found in self.kept.values() for maps in found.values() for t in maps_in(maps))

    def gather(self, model: Upsampler) -> tuple[Features, Features]:
        """What ``model`` gathers of the input, and of the target."""
        sizes, patch = self.sizes, self.backbone.patch_size
        whole = self._once(model, "target", self._target)
        if sizes.pooled:
            side = sizes.input // patch
            return each_map(lambda found: pool(found, side), whole), whole
        return self._once(model, "input", lambda run: run(resize(self.crop[None], sizes.input))), whole

    def _once(
        self, model: Upsampler, part: str, make: Callable[[Callable[[Tensor], Features]], Features]
    ) -> Features:
        kept = self.kept.setdefault(self.path, {})
        key = (model.gather_key, part)
        if key not in kept:
            kept[key] = make(lambda image: each_map(Tensor.float, model.gather(image, self.backbone)))
        return kept[key]

    def _target(self, run: Callable[[Tensor], Features]) -> Features:
        sizes, patch = self.sizes, self.backbone.patch_size
        cells = round(sizes.grid * self.protocol.enlarge)
        if cells == sizes.grid:
            return run(self.crop[None])
        return tiled_features(run, resize(self.crop[None], cells * patch), patch, sizes.grid)

    def measure(self, model: Upsampler) -> dict[str, float]:
        """``mse``, ``bilinear_mse`` and ``cosine`` of one upsampler on the present crop."""
        given, whole = self.gather(model)
        target, low = model.reference(whole), model.reference(given)
        size = (target.shape[-2], target.shape[-1])
        guidance = (
            self.crop[None] if self.protocol.enlarge > 1 else resize(self.crop[None], self.sizes.guidance)
        )
        output = model(guidance, given, size).float()
        if output.shape != target.shape:
            raise ValueError(
                f"{type(model).__name__} gave {tuple(output.shape)} where {tuple(target.shape)} was asked for; "
                "its ratio is fixed: choose --down to fit it"
            )
        return {
            "mse": F.mse_loss(output, target).item(),
            "bilinear_mse": F.mse_loss(bilinear(guidance, low, size), target).item(),
            "cosine": F.cosine_similarity(output, target, dim=1).mean().item(),
        }


def pool(features: Tensor, side: int) -> Tensor:
    """The map averaged to ``side`` x ``side`` cells; a map of one cell, such as a class token, as it is."""
    return features if features.shape[-2:] == (1, 1) else F.adaptive_avg_pool2d(features, side)
