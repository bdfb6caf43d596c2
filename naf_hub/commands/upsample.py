"""``naf-hub upsample``: photos in, per-pixel features and a picture of them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..image_sizes import LONGEST_RATIO, ImageSize
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
    size_option,
    threads_option,
    upsampler_option,
    upsampler_weights_option,
    use_threads,
)
from ..photo_batch import PhotoBatch, PictureNames, describe_contender
from ..terminal import tell
from .photo import Settings, upsample_file


@click.command("upsample")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Write to this folder.")
@upsampler_option("naf")
@backbone_option("pico")
@upsampler_weights_option()
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@size_option("448", "Bring photos to this size")
@click.option("--format", "format_", default="safetensors", show_default=True,
              type=click.Choice(["safetensors", "npy", "none"]), help="Save the features in this format.")  # fmt: skip
@click.option("--dtype", default="float16", show_default=True, type=click.Choice(["float16", "float32"]),
              help="Save the features in this precision; they are computed in float32.")  # fmt: skip
@click.option(
    "--picture/--no-picture", default=True, show_default=True, help="Write the side-by-side picture."
)
@device_option
@threads_option
@click.option("--force", is_flag=True, help="Overwrite existing results.")
@json_option
def upsample_command(
    images: tuple[str, ...], out: str, upsampler: str, backbone: str, weights: str | None,
    backbone_weights: str | None, options: dict[str, Any], backbone_options: dict[str, Any], size: ImageSize,
    format_: str, dtype: str, picture: bool, device: str, threads: int | None, force: bool, as_json: bool,
) -> int:  # fmt: skip
    """Upsample the features of photos: files, folders (recursively) and globs.

    For each IMAGE writes to the output folder, whose folders mirror those searched, a picture (photo,
    low-resolution features, upsampled features, colours from one PCA basis) and the features. A second run makes
    what is missing. A broken image is named and skipped. Results that were made with other settings are named and
    stay, unless --force. Exit status 1 when any image failed or has results of other settings.
    """
    from ..image_files import search_images

    use_threads(threads)
    (chosen,) = parse_upsamplers([upsampler], weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)
    found = search_images(images, without=[out])
    if found.left_out:
        tell(found.describe())

    from ..pipeline import FeaturePipeline

    where = pick_device(device)
    # By name, so that weights which this backbone has none of are told before the backbone is fetched.
    made = chosen.load(behind.name, where)
    model = FeaturePipeline(behind.load(device=where), made).eval()
    models = describe_contender(chosen, made) | describe_contender(behind, model.backbone)
    settings = Settings(size, format_, dtype, picture, models, PictureNames.of_batch(found, Path(out)))

    def make(photo: Path, missing: list[Path], place: Path) -> dict[str, Any]:
        return upsample_file(model, photo, missing, settings, place)

    batch = PhotoBatch(make, found, Path(out), settings, force)
    return batch.run_all("upsampled", _describe, lambda results: _remarks(results, size), as_json)


def _describe(result: dict[str, Any]) -> str:
    return f"{tuple(result['low_res'])} -> {tuple(result['features'])} in {result['seconds']:.2f} s"


def _remarks(results: Sequence[dict[str, Any]], size: ImageSize) -> list[str]:
    """What is said once, at the end of a batch."""
    bounded = [result for result in results if result.get("bounded")]
    if not bounded or not isinstance(size, int):
        return []
    sides = "x".join(map(str, bounded[0]["image_size"]))
    return [
        f"longer than {LONGEST_RATIO}:1, so that the long side was made {LONGEST_RATIO * size} pixels: "
        f"{len(bounded)} of {len(results)} images, such as {bounded[0]['image']} (now {sides}); for more give "
        "--size HxW"
    ]
