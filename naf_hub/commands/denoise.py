"""``naf-hub denoise``: photos in, restored photos out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..contenders import Contender
from ..errors import WeightsError
from ..options import (
    device_option,
    json_option,
    parse_restorers,
    pick_device,
    restorer_constructor_option,
    restorer_option,
    threads_option,
    use_threads,
    weights_option,
)
from ..photo_batch import PhotoBatch, PictureNames, describe_contender
from ..terminal import tell


@click.command("denoise")
@click.argument("images", nargs=-1, required=True, metavar="PHOTO...")
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Write to this folder.")
@restorer_option("naf_denoiser")
@weights_option("--weights", "default", "Use these weights for a restorer that is named without its own.")
@restorer_constructor_option
@click.option("--sigma", type=click.Choice(["auto"]),
              help="Print the noise that is estimated in each photo and in its result.")  # fmt: skip
@click.option("--compare", is_flag=True, help="Also write photo and result side by side.")
@device_option
@threads_option
@click.option("--force", is_flag=True, help="Overwrite existing results.")
@json_option
def denoise_command(
    images: tuple[str, ...], out: str, restorer: str, weights: str | None, options: dict[str, Any],
    sigma: str | None, compare: bool, device: str, threads: int | None, force: bool, as_json: bool,
) -> int:  # fmt: skip
    """Take the noise of photos away: files, folders (recursively) and globs.

    For each PHOTO writes a PNG of its size to the output folder, whose folders mirror those searched; grey, 16 bits and
    transparency are kept. A second run makes what is missing. A broken photo is named and skipped. Results that were
    made with other settings are named and stay, unless --force. Exit status 1 when any photo failed or has results of
    other settings.
    """
    from ..image_files import search_images
    from .restored_photo import RestoredSettings, noise_estimator, restore_file

    use_threads(threads)
    (chosen,) = parse_restorers([restorer], weights, options)
    _need_weights(chosen)
    estimate = noise_estimator() if sigma else None
    found = search_images(images, without=[out], restored=False)
    if found.left_out:
        tell(found.describe())
    model = chosen.load(device=pick_device(device))
    settings = RestoredSettings(
        compare, describe_contender(chosen, model), PictureNames.of_batch(found, Path(out))
    )

    def make(photo: Path, missing: list[Path], place: Path) -> dict[str, Any]:
        return restore_file(model, photo, missing, settings, place, estimate)

    return PhotoBatch(make, found, Path(out), settings, force).run_all("denoised", _describe, as_json=as_json)


def _need_weights(chosen: Contender) -> None:
    """Say what to do where no weights were named and none are the default."""
    record = chosen.record
    if chosen.weights == "default" and record.learned and "default" not in record.weights:
        named = f"one of {', '.join(record.weights)}, " if record.weights else ""
        raise WeightsError(
            f"restorer {record.name!r} has no default weights; give --weights {named}a path or hf://owner/repo, or "
            f"train some: naf-hub train denoising PHOTOS --restorer {record.name} --out RUN, then --weights RUN/best"
        )


def _describe(result: dict[str, Any]) -> str:
    height, width = result["image_size"]
    noise = "noise {photo:.3f} -> {restored:.3f}, ".format(**result["sigma"]) if "sigma" in result else ""
    return f"{noise}{height}x{width} in {result['seconds']:.2f} s"
