"""``naf-hub upsample``: photos in, per-pixel features and a picture of them out."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..contenders import Contender
from ..made_with import differences, read_record, sidecar
from ..memory import shortage
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
from ..plugins import one_line
from .photo import LONGEST_RATIO, Settings, image_size, result_stem, upsample_file

if TYPE_CHECKING:
    from ..pipeline import FeaturePipeline

log = logging.getLogger("naf_hub")

# So many failures are told one by one; the rest is counted, and in --json listed.
TOLD = 10


class Batch:
    """Photos upsampled one by one: what is there already is kept, and a failure costs its photo alone.

    Args:
        model: backbone and upsampler.
        photos: place of each photo, see :class:`~naf_hub.image_files.Search`.
        out: folder of the results.
        settings: of the results.
        force: whether results of other settings, or of other photos, are made anew.
    """

    def __init__(self, model: FeaturePipeline, photos: dict[Path, Path], out: Path, settings: Settings,
                 force: bool) -> None:  # fmt: skip
        self.model, self.photos, self.out, self.settings, self.force = model, photos, out, settings, force
        self.real = {photo.resolve() for photo in photos}
        self.written: dict[tuple[int, int], Path] = {}

    def run(self, photo: Path) -> dict[str, Any]:
        """Make what is missing of one photo; says ``kept`` if nothing was, ``error`` if it failed."""
        stem = self.out / result_stem(self.photos[photo])
        targets = self.settings.outputs(stem)
        try:
            missing = self._missing(photo, targets)
            if not missing:
                return {"image": str(photo), "kept": True, "files": [str(path) for path in targets]}
            result = upsample_file(self.model, photo, missing, self.settings, self.photos[photo])
            for path in missing:
                self.written[_identity(path)] = photo
            return result
        except Exception as error:  # of plugins and decoders, which may fail in any way
            log.debug("%s", photo, exc_info=True)
            expected = isinstance(error, (ValueError, OSError, RuntimeError, MemoryError))
            message = shortage(error) or (" ".join(str(error).split()) if expected else one_line(error))
            message = message if str(photo) in message else f"{photo}: {message}"
            return {"image": str(photo), "error": message}

    def _missing(self, photo: Path, targets: list[Path]) -> list[Path]:
        """Those of a photo's results that are to be made.

        Raises:
            FileExistsError: a file is in the way, and why it stays.
        """
        missing = []
        for path in targets:
            if path.resolve() in self.real:
                raise FileExistsError(f"{path} is one of the photos, which stay; choose another -o")
            taken = [p for p in (path, sidecar(path)) if os.path.lexists(p)]
            if not taken:
                missing.append(path)
                continue
            # Also where the file system does not tell a.jpg from A.jpg.
            other = self.written.get(_identity(path)) if path.exists() else None
            if other is not None:
                raise FileExistsError(
                    f"{path} is the result of {other}; give the folder above both photos, as results mirror its "
                    "folders, or another -o"
                )
            found = read_record(path)
            if found is None:
                raise FileExistsError(
                    f"{taken[0]} exists and is no result of naf-hub; it stays: choose another -o"
                )
            different = differences(found, self.settings.of(path), photo, self.photos[photo])
            if different and not self.force:
                raise FileExistsError(
                    f"{path} was made otherwise ({'; '.join(different)}): use --force to make it "
                    "anew, or another -o"
                )
            if self.force or path not in taken:
                missing.append(path)
        return missing


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino


def _describe(made: Contender, model: Any, word: str) -> dict[str, Any]:
    from ..contenders import name_model
    from ..made_with import describe_model

    return describe_model(word, model, name_model(model), made.options)


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

    For each IMAGE writes to the output folder, whose folders mirror those searched, a picture (photo,
    low-resolution features, upsampled features, colours from one PCA basis) and the features. A second run makes
    what is missing. A broken image is named and skipped. Results that were made with other settings are named and
    stay, unless --force. Exit status 1 when any image failed or has results of other settings.
    """
    from ..image_files import search_images

    image_size(16, 16, size, 1)  # a bad size is told before any model is loaded
    (chosen,) = parse_upsamplers([upsampler], weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)
    found = search_images(images, without=[out])
    if found.left_out:
        click.echo(f"naf-hub: {found.describe()}", err=True)

    import warnings

    from tqdm import tqdm

    from ..pipeline import FeaturePipeline

    where = pick_device(device)
    # By name, so that weights which this backbone has none of are told before the backbone is fetched.
    made = chosen.load(behind.name, where)
    model = FeaturePipeline(behind.load(device=where), made).eval()
    models = _describe(chosen, made, "upsampler") | _describe(behind, model.backbone, "backbone")
    batch = Batch(model, found.images, Path(out), Settings(size, format_, dtype, picture, models), force)
    results: list[dict[str, Any]] = []
    failed = 0
    bar = tqdm(
        found.images, disable=len(found.images) < 2 or as_json or not sys.stderr.isatty(), unit="image"
    )
    for photo in bar:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "image resized from")  # the sizes are printed anyway
            result = batch.run(photo)
        results.append(result)
        if "error" in result:
            failed += 1
            if failed <= TOLD:
                tqdm.write(f"naf-hub: skipped: {result['error']}", file=sys.stderr)
        elif not as_json and "kept" not in result:
            tqdm.write(
                f"{photo}: {tuple(result['low_res'])} -> {tuple(result['features'])} in {result['seconds']:.2f} s"
                f" -> {', '.join(result['files'])}"
            )
    kept = sum("kept" in result for result in results)
    for line in _summary(results, size, kept, failed):
        click.echo(f"naf-hub: {line}", err=True)
    if as_json:
        for result in results:
            result["files"] = [os.path.abspath(path) for path in result.get("files", [])]
        left_out = {reason: len(paths) for reason, paths in found.left_out.items()}
        print_json({"results": results, "failed": failed, "kept": kept, "left_out": left_out})
    return 1 if failed else 0


def _summary(results: list[dict[str, Any]], size: str, kept: int, failed: int) -> list[str]:
    """What is said once, at the end of a batch."""
    lines = []
    bounded = [result for result in results if result.get("bounded")]
    if bounded:
        sides = "x".join(map(str, bounded[0]["image_size"]))
        lines.append(
            f"longer than {LONGEST_RATIO}:1, so that the long side was made {LONGEST_RATIO * int(size)} pixels: "
            f"{len(bounded)} of {len(results)} images, such as {bounded[0]['image']} (now {sides}); for more give "
            "--size HxW"
        )
    if failed > TOLD:
        lines.append(f"{failed - TOLD} more failed; --json lists them all")
    if kept or failed:
        done = len(results) - kept - failed
        lines.append(f"{done} of {len(results)} images upsampled, {kept} kept, {failed} failed")
    return lines
