"""``naf-hub extract``: the features of many photos put on disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..image_sizes import ImageSize
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
    size_option,
    threads_option,
    upsampler_option,
    upsampler_weights_option,
    use_threads,
)
from ..photo_batch import TOLD, describe_contender
from ..reports import amount
from ..shares import Share
from ..terminal import tell

if TYPE_CHECKING:
    from ..extraction import Extraction
    from ..image_files import Search


@click.command("extract")
@click.argument("images", nargs=-1, metavar="[IMAGE...]")
@click.option("--list", "list_file", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="Take the images that this file names, one path a line, from its folder on.")  # fmt: skip
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Write to this folder.")
@upsampler_option("naf")
@click.option("--low-res", is_flag=True, help="Write the features of the backbone as they are; no upsampler.")
@backbone_option("pico")
@upsampler_weights_option()
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@size_option("448", "Bring photos to this size")
@click.option("--dtype", default="float16", show_default=True, type=click.Choice(["float16", "float32"]),
              help="Save the features in this precision; they are computed in float32.")  # fmt: skip
@click.option("--shards-of", metavar="N|SIZE",
              help="Write shards of so many images (500) or bytes (2GiB), not a file an image.")  # fmt: skip
@click.option("--shard", metavar="I/N",
              help="Do every N-th image, from the I-th on. Default: all, or the share of this process where "
                   "accelerate launch or torchrun started several.")  # fmt: skip
@device_option
@threads_option
@json_option
@click.pass_context
def extract_command(
    ctx: click.Context, images: tuple[str, ...], list_file: str | None, out: str, upsampler: str, low_res: bool,
    backbone: str, weights: str | None, backbone_weights: str | None, options: dict[str, Any],
    backbone_options: dict[str, Any], size: ImageSize, dtype: str, shards_of: str | None, shard: str | None,
    device: str, threads: int | None, as_json: bool,
) -> int:  # fmt: skip
    """Put the features of a data set on disk: files, folders (recursively) and globs, or a list.

    Writes safetensors, upsampled features (and the low-resolution ones beside them) or with --low-res these alone;
    naf_hub.open_features reads them. A second call does what is missing or damaged. A broken image is named and left
    out. A folder that holds features of other settings is refused. Exit status 1 when any image failed.
    """
    use_threads(threads)
    from ..extraction import NO_UPSAMPLER, extract_features, require_places_apart, require_writable
    from ..image_files import listed_images, search_images
    from ..shard_writing import ShardLimit

    if bool(images) == bool(list_file):
        raise click.UsageError(
            "give images, or --list FILE" if not images else "give images or --list, not both"
        )
    if low_res:
        given = [ctx.get_parameter_source(name) for name in ("upsampler", "weights", "options")]
        if any(source is not click.core.ParameterSource.DEFAULT for source in given):
            raise click.UsageError("--low-res takes no --upsampler, --weights or --option")
    try:
        limit = None if shards_of is None else ShardLimit.parse(shards_of)
        share = Share.of_process() if shard is None else Share.parse(shard)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    chosen = [] if low_res else parse_upsamplers([upsampler], weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)
    found = listed_images(list_file) if list_file else search_images(images, without=[out])
    if found.left_out and share.number == 1:
        tell(found.describe())
    require_places_apart(found.images)
    require_writable(Path(out))

    from ..pipeline import FeaturePipeline

    where = share.device(pick_device(device))
    made = [one.load(behind.name, where) for one in chosen]
    model = behind.load(device=where)
    models = {"upsampler": NO_UPSAMPLER} if low_res else describe_contender(chosen[0], made[0])
    models |= describe_contender(behind, model)
    told = _Telling()
    try:
        done = extract_features(
            FeaturePipeline(model, made[0]).eval() if made else model, found, out, size=size, dtype=dtype,
            share=share, shards_of=limit, models=models, tell=told,
            progress=len(found.images) > 1 and not as_json and not (share.launched and share.number > 1),
        )  # fmt: skip
    finally:
        told.count_rest()
    _report(done, found, share, out, as_json)
    share.wait()
    return 1 if done.failures else 0


class _Telling:
    """Tells the first failures one by one, and at the end how many more there were."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, line: str) -> None:
        from tqdm import tqdm

        self.count += 1
        if self.count <= TOLD:
            tqdm.write(f"naf-hub: {line}", file=sys.stderr)

    def count_rest(self) -> None:
        if self.count > TOLD:
            click.echo(f"naf-hub: {self.count - TOLD} more failed; --json lists them all", err=True)


def _report(done: Extraction, found: Search, share: Share, out: str, as_json: bool) -> None:
    for reason in [] if share.launched else done.damaged.values():  # others may replace them yet
        click.echo(f"naf-hub: {reason}; its images were made anew, remove it", err=True)
    if as_json:
        failed = [{"image": str(photo), "error": error} for photo, error in done.failures.items()]
        left_out = {reason: len(paths) for reason, paths in found.left_out.items()}
        print_json({"out": os.path.abspath(out), "shard": str(share), "written": done.written, "kept": done.kept,
                    "failed": failed, "left_out": left_out})  # fmt: skip
        return
    total = done.written + done.kept + len(done.failures)
    of = f" of shard {share}" if share.of > 1 else ""
    click.echo(
        f"{done.written} of {amount(total, 'image')}{of} extracted to {out}, {done.kept} kept, "
        f"{len(done.failures)} failed"
    )
