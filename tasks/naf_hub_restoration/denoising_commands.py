"""``naf-hub train denoising`` and ``naf-hub eval denoising``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from naf_hub.options import (
    continuation_options,
    device_option,
    json_option,
    limit_option,
    min_side_option,
    parse_restorers,
    pick_device,
    read_settings,
    report_options,
    resize_option,
    restorer_constructor_option,
    restorer_option,
    results_option,
    show_report,
    threads_option,
    use_threads,
    weights_option,
)
from naf_hub.reports import amount
from naf_hub.terminal import tell_skipped

F = TypeVar("F", bound=Callable[..., Any])


def noise_options(command: F) -> F:
    """``--noise``, ``--sigma`` and ``--probability``; the command hands them to :func:`noise_settings`."""
    for option in (
        click.option("--probability", "--p", metavar="P[:P]",
                     help="Set elements to 0 or 1 with this probability, or one drawn per batch from a range."),
        click.option("--sigma", metavar="SIGMA[:SIGMA]",
                     help="Add Gaussian noise of this standard deviation, or one drawn per batch from a range."),
        click.option("--noise", type=click.Choice(["gaussian", "salt_and_pepper"]),
                     help="Add this noise; gaussian unless set."),
    ):  # fmt: skip
        command = option(command)
    return command


def noise_settings(
    noise: str | None, sigma: str | None, probability: str | None, default: str = "gaussian"
) -> dict[str, Any]:
    """The keys ``noise`` and ``level`` of the settings, as far as they were given.

    Args:
        default: the kind of noise where none is given.

    Raises:
        click.UsageError: a level of the other kind of noise, or none where another kind than the default is chosen.
    """
    from .noise import parse_level

    kind = noise or default
    mine, other, name = (sigma, probability, "--sigma")
    if kind == "salt_and_pepper":
        mine, other, name = (probability, sigma, "--probability")
    if other is not None or (kind != default and mine is None):
        raise click.UsageError(f"the level of {kind} noise is given by {name}")
    found: dict[str, Any] = {} if noise is None else {"noise": noise}
    if mine is not None:
        try:
            found["level"] = list(dict.fromkeys(parse_level(mine)))
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    return found


@click.command("denoising", context_settings={"show_default": True})
@restorer_option(
    text="Train this registered restorer (the recipe's, else naf_denoiser), from WEIGHTS where they are given. "
)
@noise_options
@click.option("--images", multiple=True, help="Train on this image, folder or pattern; repeatable.")
@click.option(
    "--held-out", multiple=True, help="Measure PSNR and SSIM on this image, folder or pattern; repeatable."
)
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Keep the run in this folder.")
@click.option(
    "--recipe", help="Start from this recipe: a shipped one (naf-denoiser-gaussian, ...) or a TOML file."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeatable."
)
@continuation_options
@click.option("--tensorboard", is_flag=True, help="Also log to OUT/tensorboard.")
@device_option
@threads_option
@json_option
@click.argument("more_images", nargs=-1, metavar="[IMAGES]...")
def train(
    out: str, recipe: str | None, assignments: tuple[str, ...], resume: bool, extend: bool,
    allow_changed_images: bool, tensorboard: bool, device: str, threads: int | None, as_json: bool,
    images: tuple[str, ...], more_images: tuple[str, ...], held_out: tuple[str, ...],
    restorer: str | None, noise: str | None, sigma: str | None, probability: str | None,
) -> None:  # fmt: skip
    """Train a restorer to take noise away.

    IMAGES after the options are trained on too, so that a shell pattern works. Ctrl-C finishes the step,
    saves and ends (130); --resume goes on from there as if nothing had happened. Several GPUs or machines:
    accelerate launch -m naf_hub train denoising ...
    """
    use_threads(threads)

    from naf_hub.training.settings import build, parse_set

    from .denoising_config import RECIPES, TrainConfig

    layer = RECIPES.read(recipe) if recipe else {}
    given = noise_settings(noise, sigma, probability, layer.get("noise", "gaussian"))

    from naf_hub.training.run import Run

    from .course import DenoisingCourse

    if restorer:
        (student,) = parse_restorers([restorer])
        given["restorer"] = student.name
        if "=" in restorer:
            given["init"] = student.weights or "none"
    if images or more_images:
        given["images"] = [*images, *more_images]
    if held_out:
        given["held_out"] = list(held_out)
    config = build(TrainConfig, layer, given, parse_set(assignments))
    # Of several processes each has a GPU of its own, which accelerate knows.
    where = None if device == "auto" else pick_device(device)
    run = Run(
        DenoisingCourse(config),
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
    for level, figures in (summary["held_out"] or {}).items():
        click.echo(f"held-out, {level}: {figures['noisy_psnr']:.2f} dB -> {figures['psnr']:.2f} dB")
    if summary["best"]:
        click.echo("highest held-out PSNR: {psnr:.2f} dB at step {step}, in best/".format(**summary["best"]))
    if summary["skipped"]:
        click.echo(f"{amount(len(summary['skipped']), 'image')} skipped; log.jsonl names them")


@click.command("denoising", context_settings={"show_default": True})
@restorer_option(multiple=True, required=False)
@weights_option(
    "--weights", "default", "Use these weights for learned restorers that are named without their own."
)
@restorer_constructor_option
@noise_options
@click.option(
    "--images", multiple=True, required=True, help="Evaluate on this image, folder or pattern; repeatable."
)
@click.option(
    "--crop",
    default=448,
    type=click.IntRange(min=0),
    help="Cut a centre crop of so many pixels a side; 0 takes whole images.",
)
@resize_option(448)
@min_side_option
@click.option(
    "--batch",
    default=2,
    type=click.IntRange(min=1),
    help="Restore so many crops at a time; the paper's PSNR is that of a batch.",
)
@limit_option()
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Draw the noise from this seed.")
@click.option(
    "--classical",
    is_flag=True,
    help="Compare a Gaussian blur and classical methods, too, which are told the level: non-local means, total "
    "variation and wavelets, or medians against salt and pepper.",
)
@results_option
@device_option
@threads_option
@report_options
def evaluate(
    restorers: tuple[str, ...], weights: str | None, options: dict[str, Any], images: tuple[str, ...],
    noise: str | None, sigma: str | None, probability: str | None, device: str, threads: int | None, out: str | None,
    format_: str, as_json: bool, save: str | None, **protocol: Any,
) -> None:  # fmt: skip
    """PSNR and SSIM of restored images, as scikit-image defines them and as the paper's code does.

    scikit-image takes one image at a time. The paper's code takes the error of a batch together, and its SSIM has
    Gaussian windows that reach past borders.
    """
    use_threads(threads)
    given = noise_settings(noise, sigma, probability)
    if not restorers and not protocol["classical"]:
        raise click.UsageError("give --restorer, --classical or both")
    contenders = parse_restorers(restorers, weights, options)

    from .noisy_comparison import Protocol
    from .task import Denoising

    read_settings(Protocol.read, protocol | given)
    report = Denoising().evaluate(contenders, images, protocol | given, device=pick_device(device), out=out)
    tell_skipped(report.data["skipped"].values())
    show_report(report, format_, as_json, save)
