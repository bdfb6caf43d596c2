"""``naf-hub upsample``: photos in, per-pixel features and a picture of them out."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..contenders import name_model
from ..options import (
    backbone_constructor_option,
    backbone_option,
    backbone_weights_option,
    constructor_option,
    device_option,
    json_option,
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    print_json,
    upsampler_option,
    upsampler_weights_option,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipeline import FeaturePipeline


# Bytes of a file name, less the longest ending.
LONGEST_STEM = 255 - len(".safetensors")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What ``upsample`` writes and how.

    Attributes:
        size: ``"448"`` (shorter side), ``"448x640"`` (exactly) or ``"native"``.
        format: ``"safetensors"``, ``"npy"`` or ``"none"``.
        dtype: ``"float16"`` or ``"float32"`` of the saved features.
        picture: whether to write the side-by-side picture.
    """

    size: str = "448"
    format: str = "safetensors"
    dtype: str = "float16"
    picture: bool = True


def image_size(height: int, width: int, size: str, patch: int) -> tuple[int, int]:
    """(H, W) an image is resized to.

    One number is the shorter side: the other follows the aspect ratio and both are rounded to the patch.

    Raises:
        ValueError: not a size.
    """
    if size == "native":
        return height, width
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if match is None or int(match[1]) < 1 or (match[2] and int(match[2]) < 1):
        raise ValueError(f"size {size!r} is not N, HxW or 'native'")
    if match[2]:
        return int(match[1]), int(match[2])
    scale = int(match[1]) / min(height, width)
    return tuple(max(patch, round(side * scale / patch) * patch) for side in (height, width))  # pyright: ignore


def upsample_file(model: FeaturePipeline, source: Path, stem: Path, settings: Settings) -> dict[str, Any]:
    """Upsample one image file and write ``stem.png`` and ``stem.safetensors`` (or ``.npy``).

    Returns:
        What was done: files, shapes, seconds.

    Raises:
        ImageError: the image cannot be read.
        ValueError: the sizes do not fit the model.
    """
    import torch
    import torch.nn.functional as F

    from ..images import read_image

    image = read_image(source)[None]
    patch = getattr(model.backbone, "patch_size", 1)
    size = image_size(image.shape[-2], image.shape[-1], settings.size, patch)
    if size != tuple(image.shape[-2:]):
        image = F.interpolate(image, size, mode="bilinear", antialias=True).clamp(0, 1)
    start = time.perf_counter()
    with torch.no_grad():
        image = image.to(next((t.device for t in (*model.parameters(), *model.buffers())), image.device))
        gathered = model.upsampler.gather(image, model.backbone)
        low, features = model.upsampler.reference(gathered), model.upsampler(image, gathered)
    seconds = time.perf_counter() - start
    written = []
    if settings.format != "none":
        written.append(write_features(stem, features[0], low[0], settings))
    if settings.picture:
        written.append(_write_picture(stem, image[0], low[0], features[0], model))
    return {
        "image": str(source),
        "image_size": list(size),
        "low_res": list(low.shape[1:]),
        "features": list(features.shape[1:]),
        "seconds": round(seconds, 3),
        "files": [str(path) for path in written],
    }


def write_features(stem: Path, features: Tensor, low: Tensor, settings: Settings) -> Path:
    """Write features (C, H, W), and in safetensors the low-resolution (C, h, w) ones beside them."""
    import torch

    from ..atomic import atomic_file

    dtype = {"float16": torch.float16, "float32": torch.float32}[settings.dtype]
    path = stem.with_name(f"{stem.name}.{settings.format}")
    tensors = {"features": features, "low_res": low}
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in tensors.items()}
    with atomic_file(path) as temporary:
        if settings.format == "npy":
            import numpy as np

            np.save(temporary, tensors["features"].numpy())
        else:
            from safetensors import SafetensorError
            from safetensors.torch import save_file

            try:
                save_file(tensors, temporary)
            except SafetensorError as error:  # a full disk, say
                raise OSError(f"cannot write {path}: {error}") from error
    return path


def _write_picture(stem: Path, image: Tensor, low: Tensor, features: Tensor, model: FeaturePipeline) -> Path:
    from ..atomic import atomic_file
    from ..picture import PcaBasis, photo, side_by_side

    basis = PcaBasis.fit(low)
    panels = [
        ("photo", photo(image)),
        (f"{name_model(model.backbone)} {low.shape[-2]}x{low.shape[-1]}", basis.picture(low)),
        (f"{name_model(model.upsampler)} {features.shape[-2]}x{features.shape[-1]}", basis.picture(features)),
    ]
    path = stem.with_name(f"{stem.name}.png")
    with atomic_file(path) as temporary:
        side_by_side(panels, (features.shape[-2], features.shape[-1])).save(temporary)
    return path


def stems(images: list[Path], out: Path) -> list[Path]:
    """Output path without suffix for each image; images that share a name keep their suffix or folder in it."""
    names = [path.stem for path in images]
    if len(set(names)) < len(names):
        names = [path.name.replace(".", "_") if names.count(path.stem) > 1 else path.stem for path in images]
    if len(set(names)) < len(names):
        names = [
            re.sub(r"[^\w-]+", "_", str(path)).strip("_") if names.count(name) > 1 else name
            for path, name in zip(images, names, strict=True)
        ]
    return [out / _writable(name) for name in names]


def _writable(name: str) -> str:
    """A name that still fits the 255 bytes of a file name with the longest ending behind it."""
    data = name.encode(errors="surrogateescape")
    if len(data) <= LONGEST_STEM:
        return name
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{data[: LONGEST_STEM - 9].decode(errors='ignore')}-{digest}"


def outputs(stem: Path, settings: Settings) -> list[Path]:
    """What is written for one photo."""
    endings = [settings.format] * (settings.format != "none") + ["png"] * settings.picture
    return [stem.with_name(f"{stem.name}.{ending}") for ending in endings]


def refuse_to_overwrite(targets: list[Path], photos: set[Path], force: bool) -> None:
    """Require that no target is one of the photos and, unless ``force``, that none exists.

    Raises:
        FileExistsError: says which, and what to do.
    """
    for path in targets:
        if path.resolve() in photos:
            raise FileExistsError(f"{path} exists and is one of the photos, which stay; choose another -o")
        if path.exists() and not force:
            raise FileExistsError(f"{path} exists; use --force to overwrite")


@click.command("upsample")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Write to this folder.")
@upsampler_option("naf")
@backbone_option("pico")
@upsampler_weights_option()
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@click.option("--size", default="448", show_default=True,
              help="Bring the shorter side to so many pixels, or the picture to HxW exactly, or leave it: "
                   "'native'.")  # fmt: skip
@click.option("--format", "format_", default="safetensors", show_default=True,
              type=click.Choice(["safetensors", "npy", "none"]), help="Save the features in this format.")  # fmt: skip
@click.option("--dtype", default="float16", show_default=True, type=click.Choice(["float16", "float32"]),
              help="Save the features in this precision; they are computed in float32.")  # fmt: skip
@click.option(
    "--picture/--no-picture", default=True, show_default=True, help="Write the side-by-side picture."
)
@device_option
@click.option("--force", is_flag=True, help="Overwrite existing results.")
@json_option
def upsample_command(
    images: tuple[str, ...], out: str, upsampler: str, backbone: str, weights: str | None,
    backbone_weights: str | None, options: dict[str, Any], backbone_options: dict[str, Any], size: str,
    format_: str, dtype: str, picture: bool, device: str, force: bool, as_json: bool,
) -> int:  # fmt: skip
    """Upsample the features of photos: files, folders (recursively) and globs.

    For each IMAGE writes to the output folder a picture (photo, low-resolution features, upsampled features,
    colours from one PCA basis) and the features. A broken image is named and skipped; existing results are
    kept unless --force. Exit status 1 when any image failed.
    """
    from ..image_files import find_images

    image_size(16, 16, size, 1)  # a bad size is told before any model is loaded
    (chosen,) = parse_upsamplers([upsampler], weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)
    found = find_images(images, without=[out])
    settings = Settings(size, format_, dtype, picture)
    photos = {path.resolve() for path in found}
    todo = list(zip(found, stems(found, Path(out)), strict=True))

    import warnings

    from tqdm import tqdm

    from ..pipeline import FeaturePipeline

    where = pick_device(device)
    # By name, so that weights which this backbone has none of are told before the backbone is fetched.
    made = chosen.load(behind.name, where)
    model = FeaturePipeline(behind.load(device=where), made).eval()
    results, failures = [], 0
    bar = tqdm(todo, disable=len(todo) < 2 or as_json or not sys.stderr.isatty(), unit="image")
    for source, stem in bar:
        try:
            refuse_to_overwrite(outputs(stem, settings), photos, force)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "image resized from")  # the sizes are printed anyway
                result = upsample_file(model, source, stem, settings)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            failures += 1
            message = " ".join(str(error).split())
            message = message if str(source) in message or "exists" in message else f"{source}: {message}"
            tqdm.write(f"naf-hub: skipped: {message}", file=sys.stderr)
            results.append({"image": str(source), "error": message})
            continue
        results.append(result)
        if not as_json:
            tqdm.write(
                f"{source}: {tuple(result['low_res'])} -> {tuple(result['features'])} in {result['seconds']:.2f} s"
                f" -> {', '.join(result['files'])}"
            )
    if as_json:
        print_json({"results": results, "failed": failures})
    elif failures:
        click.echo(f"naf-hub: {failures} of {len(todo)} images failed", err=True)
    return 1 if failures else 0
