"""``naf-hub train reconstruction`` and ``naf-hub eval reconstruction``."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command("reconstruction", context_settings={"show_default": True})
@click.option("--upsampler", help="Registered trainable upsampler.  [default: naf]")
@click.option(
    "--backbone",
    multiple=True,
    metavar="NAME[=WEIGHTS]",
    help="Frozen teacher: a registered backbone or timm:<model>; of several, one is drawn per step.",
)
@click.option("--backbone-weights", help="Weights of teachers named without: a named set, a path or hf://.")
@click.option("--images", multiple=True, help="Image, folder or pattern to train on; repeatable.")
@click.option(
    "--held-out", multiple=True, help="Image, folder or pattern to measure the error on; repeatable."
)
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder of the run.")
@click.option("--recipe", default="naf-code", help="A shipped recipe (naf-cpu, ...) or a TOML file.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeatable."
)
@click.option(
    "--cache-features", type=click.Path(file_okay=False), help="Keep features here; needs views >= 1."
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --out.")
@click.option("--tensorboard", is_flag=True, help="Also log to OUT/tensorboard.")
@click.option("--device", help="cpu, cuda, ...  [default: what accelerate finds]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.argument("more_images", nargs=-1, metavar="[IMAGES]...")
def train(
    out: str,
    recipe: str,
    assignments: tuple[str, ...],
    cache_features: str | None,
    resume: bool,
    tensorboard: bool,
    device: str | None,
    as_json: bool,
    backbone: tuple[str, ...],
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    held_out: tuple[str, ...],
    **named: str | None,
) -> None:
    """Train an upsampler to reconstruct the features of a larger image.

    IMAGES after the options are trained on too, so that a shell pattern works. Ctrl-C finishes the step,
    saves and ends (130); --resume goes on from there as if nothing had happened. Several GPUs or machines:
    accelerate launch -m naf_hub train reconstruction ...
    """
    from naf_hub.training.run import Run
    from naf_hub.training.settings import build, parse_set

    from .config import TrainConfig, read_recipe
    from .course import ReconstructionCourse

    given: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if backbone:
        given["backbone"] = list(backbone)
    if images or more_images:
        given["images"] = [*images, *more_images]
    if held_out:
        given["held_out"] = list(held_out)
    config = build(TrainConfig, read_recipe(recipe), given, parse_set(assignments))
    course = ReconstructionCourse(config, cache_features)
    run = Run(course, out, resume=resume, device=device, tensorboard=tensorboard)
    summary = run.run()
    if not run.main:
        return
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    click.echo(f"{summary['steps']} steps in {summary['seconds']:.0f} s; weights: {summary['weights']}")
    for name, figures in (summary["held_out"] or {}).items():
        click.echo(f"held-out error on {name}: {figures['ratio_to_bilinear']:.4f} of bilinear's")
    if summary["best"]:
        click.echo(
            "least held-out error: {ratio_to_bilinear:.4f} at step {step}, in best/".format(**summary["best"])
        )
    if summary["skipped"]:
        click.echo(f"{len(summary['skipped'])} images skipped; log.jsonl names them")


@click.command("reconstruction", context_settings={"show_default": True})
@click.option(
    "--upsampler", "upsamplers", multiple=True, required=True, metavar="NAME[=WEIGHTS]",
    help="What to score; repeatable. WEIGHTS: a named set, a path, hf://owner/repo, or none for random.",
)  # fmt: skip
@click.option("--weights", help="Weights of learned upsamplers given without their own.  [default: default]")
@click.option("--backbone", required=True, help="A registered backbone or timm:<model>.")
@click.option("--backbone-weights", default="default", help="Weights of the backbone.")
@click.option("--backbone-option", "backbone_options", multiple=True, metavar="KEY=VALUE", help="Repeatable.")
@click.option("--images", multiple=True, required=True, help="Image, folder or pattern; repeatable.")
@click.option("--crop", default=384, help="Side of the centre crop, in pixels.")
@click.option("--resize", default=0, help="Bring the short side to so many pixels first; 0: leave it.")
@click.option("--down", default=0.5, help="Side of the input image over that of the crop.")
@click.option("--guidance", default=4.0, help="Guidance pixels per target cell, a side.")
@click.option("--guidance-max", default=224, help="Largest guidance side; 0: no bound.")
@click.option("--min-side", default=0, help="Leave out images with a shorter side.")
@click.option("--pooled", is_flag=True, help="Input: the target averaged, not features of a smaller image.")
@click.option("--limit", default=0, help="Use so many images, evenly spread; 0: all.")
@click.option("--device", default="cpu", help="cpu, cuda, ...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    upsamplers: tuple[str, ...], weights: str | None, backbone: str, backbone_weights: str,
    backbone_options: tuple[str, ...], as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Error of upsampled features against the features of the larger image, and its ratio to bilinear's."""
    from naf_hub.training.settings import parse_set

    from .task import evaluate as run

    figures = run(
        upsamplers=upsamplers,
        backbone=backbone,
        weights=weights,
        backbone_weights=None if backbone_weights == "none" else backbone_weights,
        backbone_options=parse_set(backbone_options),
        **options,
    )
    if as_json:
        click.echo(json.dumps({"backbone": backbone, **options, **figures}, indent=2))
        return
    click.echo(f"{figures['images']} images, {backbone}, {len(figures['skipped'])} skipped")
    click.echo(f"{'upsampler':<32} {'mse':>10} {'/bilinear':>10} {'cosine':>8}")
    for name, line in figures["methods"].items():
        click.echo(
            f"{name:<32} {line['mse']:>10.5f} {line['ratio_to_bilinear']:>10.4f} {line['cosine']:>8.4f}"
        )
