"""``naf-hub train reconstruction`` and ``naf-hub eval reconstruction``."""

from __future__ import annotations

import json
from typing import Any

import click

from naf_hub.options import (
    backbone_constructor_option,
    backbone_option,
    backbone_weights_option,
    constructor_option,
    continuation_options,
    control_option,
    device_option,
    json_option,
    limit_option,
    min_side_option,
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    read_settings,
    report_options,
    resize_option,
    results_option,
    show_report,
    threads_option,
    upsampler_option,
    upsampler_weights_option,
    use_threads,
)
from naf_hub.reports import amount
from naf_hub.terminal import tell_skipped


@click.command("reconstruction", context_settings={"show_default": True})
@upsampler_option(
    text="Train this registered upsampler (the recipe's, else naf), from WEIGHTS where they are given. "
)
@backbone_option(
    multiple=True,
    text="Learn from this frozen backbone, or timm:<model>; of several, one is drawn per step. ",
)
@click.option("--backbone-weights", help="Use these weights for backbones that are named without their own.")
@click.option("--images", multiple=True, help="Train on this image, folder or pattern; repeatable.")
@click.option(
    "--held-out", multiple=True, help="Measure the error on this image, folder or pattern; repeatable."
)
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Keep the run in this folder.")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    default=("naf-code",),
    help="Start from this recipe: a shipped one (naf-cpu, ...) or a TOML file; of several, later ones win.",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeatable."
)
@click.option(
    "--cache-features",
    type=click.Path(file_okay=False),
    help="Keep features of the frozen backbones here; needs views >= 1.",
)
@continuation_options
@click.option("--tensorboard", is_flag=True, help="Also log to OUT/tensorboard.")
@device_option
@threads_option
@json_option
@click.argument("more_images", nargs=-1, metavar="[IMAGES]...")
def train(
    out: str,
    recipes: tuple[str, ...],
    assignments: tuple[str, ...],
    cache_features: str | None,
    resume: bool,
    extend: bool,
    allow_changed_images: bool,
    tensorboard: bool,
    device: str,
    threads: int | None,
    as_json: bool,
    backbone: tuple[str, ...],
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    held_out: tuple[str, ...],
    upsampler: str | None,
    **named: str | None,
) -> None:
    """Train an upsampler to reconstruct the features of a larger image.

    IMAGES after the options are trained on too, so that a shell pattern works. Ctrl-C finishes the step,
    saves and ends (130), and so do SIGTERM, SIGHUP and Slurm's SIGUSR1 (128 and the signal's number); --resume
    goes on from there as if nothing had happened. Several GPUs or machines:
    accelerate launch -m naf_hub train reconstruction ...
    """
    use_threads(threads)

    from naf_hub.training.run import Run
    from naf_hub.training.settings import build, parse_set

    from .config import TrainConfig, read_recipe
    from .course import ReconstructionCourse

    given: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if upsampler:
        (student,) = parse_upsamplers([upsampler])
        given["upsampler"] = student.name
        if "=" in upsampler:
            given["init"] = student.weights or "none"
    if backbone:
        given["backbone"] = list(backbone)
    if images or more_images:
        given["images"] = [*images, *more_images]
    if held_out:
        given["held_out"] = list(held_out)
    config = build(TrainConfig, *map(read_recipe, recipes), given, parse_set(assignments))
    course = ReconstructionCourse(config, cache_features, out)
    # Of several processes each has a GPU of its own, which accelerate knows.
    where = None if device == "auto" else pick_device(device)
    run = Run(
        course,
        out,
        resume=resume,
        extend=extend,
        allow_changed_images=allow_changed_images,
        device=where,
        tensorboard=tensorboard,
    )
    summary = run.run()
    if not run.main:
        return
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    click.echo(
        f"{amount(summary['steps'], 'step')} in {summary['seconds']:.0f} s; weights: {summary['weights']}"
    )
    for name, figures in (summary["held_out"] or {}).items():
        click.echo(f"held-out error on {name}: {figures['ratio_to_bilinear']:.4f} of bilinear's")
    if summary["best"]:
        click.echo(
            "least held-out error: {ratio_to_bilinear:.4f} at step {step}, in best/".format(**summary["best"])
        )
    if summary["skipped"]:
        click.echo(f"{amount(len(summary['skipped']), 'image')} skipped; log.jsonl names them")


@click.command("reconstruction", context_settings={"show_default": True})
@upsampler_option(multiple=True)
@upsampler_weights_option()
@backbone_option(required=True)
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@click.option(
    "--images", multiple=True, required=True, help="Evaluate on this image, folder or pattern; repeatable."
)
@click.option(
    "--crop", default=384, type=click.IntRange(min=1), help="Cut a centre crop of so many pixels a side."
)
@resize_option(0)
@click.option(
    "--down",
    default=0.5,
    type=click.FloatRange(0, 1, min_open=True),
    help="Make the input image this fraction of the crop, a side.",
)
@click.option(
    "--guidance",
    default=4.0,
    type=click.FloatRange(min=0, min_open=True),
    help="Guide by so many pixels per target cell, a side.",
)
@click.option(
    "--guidance-max",
    default=224,
    type=click.IntRange(min=0),
    help="Let the guidance have at most so many pixels a side; 0 sets no bound.",
)
@min_side_option
@click.option(
    "--pooled", is_flag=True, help="Take the averaged target as input, not the features of a smaller image."
)
@limit_option()
@click.option(
    "--ratio",
    default=0.0,
    type=click.FloatRange(min=0),
    help="Upsample so many times; 0 is 1 / --down. Beyond that, the target comes from tiles of the enlarged crop.",
)
@click.option(
    "--fit", multiple=True, help="Fit the image-free ceiling on this image, folder or pattern; repeatable."
)
@control_option
@device_option
@threads_option
@results_option
@report_options
def evaluate(
    upsamplers: tuple[str, ...], weights: str | None, backbone: str, backbone_weights: str | None,
    options: dict[str, Any], backbone_options: dict[str, Any], images: tuple[str, ...], device: str,
    threads: int | None, fit: tuple[str, ...], controls: tuple[str, ...], out: str | None, format_: str, as_json: bool,
    save: str | None, **protocol: Any,
) -> None:  # fmt: skip
    """Error of upsampled features against the features of the larger image, and its ratio to bilinear's.

    Upsamplers that want the same maps of the backbone share one pass over each image; one that wants others is
    compared with those, and with bilinear interpolation of those. The row image_free is the best linear
    upsampler that never sees the image: guidance gain is what of its error an upsampler avoids, in percent.
    """
    use_threads(threads)
    contenders = parse_upsamplers(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from .comparison import Protocol
    from .task import Reconstruction

    read_settings(Protocol.read, protocol)
    report = Reconstruction().evaluate(
        contenders,
        images,
        protocol,
        backbone=behind,
        device=pick_device(device),
        controls=controls,
        fit=fit,
        out=out,
    )
    tell_skipped(report.data["skipped"].values())
    show_report(report, format_, as_json, save)
