"""Options that commands share, so that each means the same in each; for the commands of plugins too."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .contenders import Contender, parse_weights, require_distinct
from .devices import check_device_name
from .devices import pick_device as pick_device
from .devices import use_threads as compute_with
from .image_sizes import ImageSize, parse_image_size
from .name_completion import complete_backbones, complete_restorers, complete_upsamplers
from .photo_places import parse_pixels
from .records import BackboneRecord, Record, RestorerRecord, UpsamplerRecord
from .terminal import print_json as print_json
from .terminal import print_table as print_table

if TYPE_CHECKING:
    from .reports import Report

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

WORDS = {"true": True, "false": False, "True": True, "False": False, "None": None}


def parse_value(text: str) -> Any:
    """What a value of ``KEY=VALUE`` means.

    Numbers, quoted text, lists, tables and true/false as TOML or Python writes them; ``None``; anything else is
    text as it stands.
    """
    text = text.strip()
    if text in WORDS:
        return WORDS[text]
    for read in (lambda: tomllib.loads(f"value = {text}")["value"], lambda: ast.literal_eval(text)):
        try:
            value = read()
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # TOMLDecodeError is a ValueError
            continue
        if _is_plain(value):
            return value
    return text


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def parse_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """Values by key of ``KEY=VALUE`` texts; of a key that comes again the last counts.

    ``table.key=1`` sets one entry of a table and ``table.NAME.key=1`` one entry of the table NAME in it; NAME may
    contain dots itself, as names of models do.

    Raises:
        ValueError: no ``=``, a key that is no name, or a key that is both a value and a table.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        outer, dot, rest = key.strip().partition(".")
        if not equals or not outer.isidentifier() or (dot and not rest):
            raise ValueError(f"{pair!r} is not key=value")
        inner, nested, entry = rest.rpartition(".")
        table = values
        for name in [outer, inner] if nested else [outer] if dot else []:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ValueError(f"{pair!r}: {name} was given a value before and is no table")
        table[entry or outer] = parse_value(text)
    return values


def _checked(function: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A click callback: a ValueError of ``function`` becomes bad usage (exit 2)."""

    def callback(_: click.Context, __: click.Parameter, value: Any) -> Any:
        try:
            return function(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def pairs_option(name: str, destination: str, text: str) -> Callable[[F], F]:
    """A repeatable ``NAME KEY=VALUE`` option; the command receives a dict as ``destination``."""
    return click.option(
        name, destination, multiple=True, metavar="KEY=VALUE", callback=_checked(parse_pairs), help=text
    )


def pixels_option(name: str, form: str, text: str, *, required: bool = False) -> Callable[[F], F]:
    """``NAME X,Y`` or the like, as ``form`` (``"x,y"``) says; the command receives a tuple of whole numbers."""

    def parse(value: str | None) -> tuple[int, ...] | None:
        return None if value is None else parse_pixels(value, form)

    return click.option(name, required=required, metavar=form.upper(), callback=_checked(parse), help=text)


def weights_option(name: str, default: str, text: str) -> Callable[[F], F]:
    """An option that names weights; the command receives ``None`` for ``none``."""
    return click.option(
        name,
        default=default,
        show_default=True,
        metavar="WEIGHTS",
        callback=_checked(parse_weights),
        help=text,
    )


WEIGHTS_HELP = "WEIGHTS is a named set, a path, hf://owner/repo, or none for random ones."

device_option = click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", callback=_checked(check_device_name),
    help="Compute on this device: auto (the GPU where there is one), cpu, cuda, cuda:1 or mps.",
)  # fmt: skip
threads_option = click.option(
    "--threads", type=click.IntRange(1), metavar="N", show_default="a thread a core",
    help="Compute with so many CPU threads.",
)  # fmt: skip


def read_settings(read: Callable[[Mapping[str, Any]], T], settings: Mapping[str, Any]) -> T:
    """The settings of a task that were typed as options, read: what makes no sense is bad usage, with exit status 2.

    Without it a task says the same, as a job that failed.

    Args:
        read: raises a ValueError that says what is wrong.
        settings: as the task will get them.

    Raises:
        click.UsageError: what ``read`` says.
    """
    try:
        return read(settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def use_threads(threads: int | None) -> None:
    """Have torch compute with so many CPU threads until the running command ends; ``None`` leaves what it takes.

    A command may be called from Python, whose caller has a number of threads of its own. Outside a command the number
    stays.
    """
    context = click.get_current_context(silent=True)
    if threads is not None and context is not None:
        import torch

        before = torch.get_num_threads()
        context.call_on_close(lambda: torch.set_num_threads(before))
    compute_with(threads)


def size_option(
    default: str | None, text: str, *, native: str | None = "as it is", name: str = "--size"
) -> Callable[[F], F]:
    """``--size``; the command receives N, (H, W) or ``None`` for ``native``, see :func:`parse_image_size`.

    Args:
        default: as it is typed, or ``None`` for none, which the command then receives.
        text: what is brought to that size: the start of the help.
        native: what ``native`` means, ``None`` where it is no choice.
        name: of the option, where a command has sizes of several things.
    """

    def parse(value: str | None) -> ImageSize:
        return None if value is None else parse_image_size(value, native is not None)

    forms = "N pixels on the shorter side, HxW exactly" + (f", native {native}" if native else "")
    return click.option(
        name, default=default, show_default=True, metavar="N|HxW|native" if native else "N|HxW",
        callback=_checked(parse), help=f"{text}: {forms}.",
    )  # fmt: skip


def square_option(default: int | None, text: str, *, name: str = "--size") -> Callable[[F], F]:
    """A side of squares, of tasks whose pictures or maps are squares by their protocol; the command receives N.

    Args:
        default: N, or ``None`` for none, which the command then receives.
        text: the help.
        name: of the option.
    """

    def parse(value: str | None) -> int | None:
        size = None if value is None else parse_image_size(str(value), native=False)
        if isinstance(size, tuple):
            if size[0] != size[1]:
                raise ValueError(
                    f"size {value!r} is no square, which the protocol asks for; give N, the side"
                )
            return size[0]
        return size

    return click.option(
        name, default=None if default is None else str(default), show_default=True, metavar="N",
        callback=_checked(parse), help=text,
    )  # fmt: skip


def limit_option(what: str = "images") -> Callable[[F], F]:
    """``--limit N`` of ``what``, evenly spread; 0, the default, is all."""
    return click.option(
        "--limit",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help=f"Use so many {what}, evenly spread; 0 uses all.",
    )


def resize_option(default: int) -> Callable[[F], F]:
    """``--resize N`` of tasks that crop: the short side before that; 0 leaves it."""
    return click.option(
        "--resize",
        default=default,
        show_default=True,
        type=click.IntRange(min=0),
        help="Bring the short side to so many pixels first; 0 leaves it.",
    )


min_side_option = click.option(
    "--min-side",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Leave out images whose short side has fewer pixels.",
)
results_option = click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Keep what is measured on each picture here; an interrupted run goes on from it.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
constructor_option = pairs_option(
    "--option", "options", "Set a constructor option of the upsampler, e.g. memory=512MiB; repeatable."
)
restorer_constructor_option = pairs_option(
    "--restorer-option",
    "options",
    "Set a constructor option of the restorer, e.g. memory=512MiB; repeatable.",
)
backbone_constructor_option = pairs_option(
    "--backbone-option", "backbone_options", "Set a constructor option of the backbone; repeatable."
)
backbone_weights_option = weights_option(
    "--backbone-weights", "default", "Use these weights for a backbone that is named without its own."
)


control_option = click.option(
    "--control",
    "controls",
    multiple=True,
    type=click.Choice(["grey", "other"]),
    help="Add each guided upsampler guided by a grey picture, or by another picture; repeatable.",
)


def upsampler_weights_option(default: str = "default") -> Callable[[F], F]:
    """``--weights``, for learned upsamplers that are named without their own."""
    return weights_option(
        "--weights", default, "Use these weights for learned upsamplers that are named without their own."
    )


def upsampler_option(
    default: str | None = None, *, multiple: bool = False, text: str = "Use this registered upsampler. "
) -> Callable[[F], F]:
    """``--upsampler NAME[=WEIGHTS]``; the command receives the text, see :func:`parse_upsamplers`."""
    return click.option(
        "--upsampler", "upsamplers" if multiple else "upsampler", multiple=multiple, default=default,
        required=multiple and default is None, show_default=default is not None, metavar="NAME[=WEIGHTS]",
        shell_complete=complete_upsamplers, help=text + WEIGHTS_HELP + (" Repeat it to compare." if multiple else ""),
    )  # fmt: skip


def backbone_option(default: str | None = None, *, multiple: bool = False, required: bool = False,
                    text: str = "Use this registered backbone, or timm:<model>. ") -> Callable[[F], F]:  # fmt: skip
    """``--backbone NAME[=WEIGHTS]``; the command receives the text, see :func:`parse_backbone_option`."""
    return click.option(
        "--backbone", multiple=multiple, default=default, required=required, show_default=default is not None,
        metavar="NAME[=WEIGHTS]", shell_complete=complete_backbones, help=text + WEIGHTS_HELP,
    )  # fmt: skip


allow_changed_images_option = click.option(
    "--allow-changed-images", is_flag=True,
    help="Go on with a run although pictures were replaced under their names since.",
)  # fmt: skip


def continuation_options(command: F) -> F:
    """``--resume``, ``--extend`` and ``--allow-changed-images``, as :class:`naf_hub.training.run.Run` takes them."""
    for option in (
        allow_changed_images_option,
        click.option("--extend", is_flag=True,
                     help="Resume with more steps than the run was started with; rates from there on are those of "
                          "the longer run."),
        click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --out."),
    ):  # fmt: skip
        command = option(command)
    return command


def restorer_option(
    default: str | None = None,
    *,
    multiple: bool = False,
    required: bool = True,
    text: str = "Use this registered restorer. ",
) -> Callable[[F], F]:
    """``--restorer NAME[=WEIGHTS]``; the command receives the text, see :func:`parse_restorers`."""
    return click.option(
        "--restorer", "restorers" if multiple else "restorer", multiple=multiple, default=default,
        required=required and multiple and default is None, show_default=default is not None,
        metavar="NAME[=WEIGHTS]", shell_complete=complete_restorers,
        help=text + WEIGHTS_HELP + (" Repeat it to compare." if multiple else ""),
    )  # fmt: skip


FORMATS = ("table", "json", "csv", "markdown", "latex")


def _place_of_report(path: str | None) -> str | None:
    """``path``; a ValueError where a file lies there that is no report."""
    from .reports import Report, ReportError

    if path is not None and os.path.lexists(path):
        try:
            Report.load(path)
        except (OSError, ReportError) as error:
            raise ValueError(f"{path} exists and is no report of naf-hub; choose another name") from error
    return path


def report_options(command: F) -> F:
    """``--format``, ``--json`` and ``--save``; the command hands them to :func:`show_report`."""
    for option in (
        click.option("--save", type=click.Path(dir_okay=False), metavar="FILE.json",
                     callback=_checked(_place_of_report), help="Also write the report to this file, as JSON."),
        json_option,
        click.option("--format", "format_", default="table", show_default=True, type=click.Choice(FORMATS),
                     help="Print the report in this format; --json is short for json."),
    ):  # fmt: skip
        command = option(command)
    return command


def show_report(
    report: Report, format_: str = "table", as_json: bool = False, save: str | None = None
) -> None:
    """Print a report as the options of :func:`report_options` say, and write it where ``--save`` does."""
    if save:
        report.save(save)
    if as_json or format_ == "json":
        click.echo(report.to_json())
    else:
        click.echo(
            {"csv": report.csv, "markdown": report.markdown, "latex": report.latex}.get(
                format_, report.table
            )()
        )


def parse_upsamplers(
    texts: Iterable[str], weights: str | None = "default", options: dict[str, Any] | None = None
) -> list[Contender]:
    """The upsamplers named on a command line.

    Raises:
        click.UsageError: weights for a method that has none, or two of one label.
        UnknownNameError: no such upsampler.
    """
    return _parse_contenders(texts, weights, UpsamplerRecord, options)


def parse_restorers(
    texts: Iterable[str], weights: str | None = "default", options: dict[str, Any] | None = None
) -> list[Contender]:
    """The restorers named on a command line; errors as of :func:`parse_upsamplers`."""
    return _parse_contenders(texts, weights, RestorerRecord, options)


def parse_backbone_option(
    text: str, weights: str | None = "default", options: dict[str, Any] | None = None
) -> Contender:
    """The backbone named on a command line; errors as of :func:`parse_upsamplers`."""
    return _parse_contender(text, weights, BackboneRecord, options)


def _parse_contenders(
    texts: Iterable[str], weights: str | None, kind: type[Record], options: dict[str, Any] | None
) -> list[Contender]:
    return distinct([_parse_contender(text, weights, kind, options) for text in texts], kind)


def distinct(contenders: list[Contender], kind: type[Record] = UpsamplerRecord) -> list[Contender]:
    """Contenders as they are, where no two have one label.

    Raises:
        click.UsageError: two have; names it.
    """
    try:
        require_distinct([contender.label for contender in contenders], kind)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return contenders


def _parse_contender(
    text: str, weights: str | None, kind: type[Record], options: dict[str, Any] | None
) -> Contender:
    try:
        return Contender.parse(text, weights, kind=kind, options=options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
