"""``naf-hub compare``: several upsamplers on one photo, side by side in the colours of one PCA basis."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..contenders import Contender, name_model
from ..errors import as_typed
from ..image_sizes import ImageSize, fit_size, resized
from ..memory import shortage
from ..options import (
    backbone_constructor_option,
    backbone_option,
    backbone_weights_option,
    device_option,
    distinct,
    json_option,
    pairs_option,
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    pixels_option,
    print_json,
    size_option,
    threads_option,
    upsampler_option,
    upsampler_weights_option,
    use_threads,
)
from ..photo_places import box_in
from ..plugins import one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from ..picture import PcaBasis
    from ..store import FeatureStore

log = logging.getLogger("naf_hub")

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
QUALITY = 88  # of JPEG and WebP
# How far features may lie from the backbone's, relative to their size, and still be in its space.
SAME_SPACE = 1e-3


@click.command("compare")
@click.argument("photo", type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), metavar="FILE",
              help=f"Write the picture to this file: {', '.join(ENDINGS)}.")  # fmt: skip
@upsampler_option(multiple=True)
@backbone_option("pico")
@upsampler_weights_option()
@backbone_weights_option
@pairs_option("--option", "options", "Set a constructor option of every upsampler, or with NAME.KEY=VALUE "
              "of the upsampler NAME; repeatable.")  # fmt: skip
@backbone_constructor_option
@size_option("448", "Bring the photo to this size")
@pixels_option("--zoom", "x,y,w,h", "Show this part, in pixels of the photo: left, top, width and height.")
@click.option("--columns", default=4, show_default=True, type=click.IntRange(1),
              help="At most so many panels in a row; rows are as even as can be.")  # fmt: skip
@click.option("--panel", default=None, type=click.IntRange(16),
              help="Shorter side of each panel in pixels; default is that of what it shows.")  # fmt: skip
@device_option
@threads_option
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@json_option
def compare_command(
    photo: str, out: str, upsamplers: tuple[str, ...], backbone: str, weights: str | None,
    backbone_weights: str | None, options: dict[str, Any], backbone_options: dict[str, Any], size: ImageSize,
    zoom: Any, columns: int, panel: int | None, device: str, threads: int | None, force: bool, as_json: bool,
) -> int:  # fmt: skip
    """One picture of a photo's features by several upsamplers, to compare by eye.

    The panels are the photo, the features of the backbone (nearest), and what each upsampler makes of them. Colours
    are three principal components of the backbone's features of the whole photo, the same for all panels; an
    upsampler whose features lie in another space (layer-normed ones) has components of its own and says so.
    One that fails is named and left out. Exit status 1 when any failed.
    """
    use_threads(threads)
    # Bad names are told before any model is loaded.
    target = _checked_target(Path(out), Path(photo), force)
    contenders = _parse(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    import torch
    from tqdm import tqdm

    from ..images import read_image
    from ..interfaces import Upsampler
    from ..picture import PcaBasis
    from ..store import FeatureStore

    image = read_image(photo)[None]
    original = (image.shape[-2], image.shape[-1])
    if zoom is not None:
        box_in(zoom, original, original)
    where = pick_device(device)
    model = behind.load(device=where)
    sides = fit_size(*original, size, getattr(model, "patch_size", 1))
    image = resized(image, sides).to(where)
    store = FeatureStore("float32", device=where)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "image resized from")
        low = store.gather(Upsampler(), model, [image[0]], ["photo"])
        assert isinstance(low, torch.Tensor)
        view = View(image, model, store, low, PcaBasis.fit(low[0]), where)
        shown: list[Shown] = []
        quiet = len(contenders) < 2 or as_json or not sys.stderr.isatty()
        for contender in tqdm(contenders, disable=quiet, unit="upsampler"):
            with torch.no_grad():
                shown.append(show(contender, view))
            if shown[-1].error:
                tqdm.write(f"naf-hub: left out: {shown[-1].label}: {shown[-1].error}", file=sys.stderr)
    drawn = [one for one in shown if one.picture is not None]
    if drawn:
        title = f"{name_model(model)}, nearest: {low.shape[-2]}x{low.shape[-1]} cells"
        part = None if zoom is None else box_in(zoom, original, sides)
        _write(target, _sheet(image[0], (title, view.basis.picture(low[0])), drawn, part, columns, panel))
    _report(target if drawn else None, list(sides), list(low.shape[1:]), shown, as_json)
    return 0 if len(drawn) == len(shown) else 1


@dataclasses.dataclass(frozen=True)
class View:
    """A photo (1, 3, H, W) and what a backbone makes of it: features (1, C, h, w) and the basis of their colours."""

    image: Tensor
    backbone: nn.Module
    store: FeatureStore
    low: Tensor
    basis: PcaBasis
    device: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """What came of one upsampler: a picture (H, W), in colours of its own basis or not; or why not."""

    label: str
    picture: Image | None = None
    own_basis: bool = False
    error: str = ""

    @property
    def caption(self) -> str:
        """Of the panel."""
        return f"{self.label} (own basis)" if self.own_basis else self.label


def show(contender: Contender, view: View) -> Shown:
    """The features that an upsampler gives, as a picture. Failures are told, not raised."""
    try:
        return _show(contender, view)
    except Exception as error:  # of plugins and weights, which may fail in any way
        log.debug("%s", contender.label, exc_info=True)
        expected = isinstance(error, (ValueError, TypeError, OSError, RuntimeError, MemoryError))
        message = shortage(error) or (" ".join(as_typed(error).split()) if expected else one_line(error))
        return Shown(contender.label, error=message or one_line(error))


def _show(contender: Contender, view: View) -> Shown:
    import torch

    from ..memory import needed_memory, require_memory
    from ..picture import PcaBasis
    from ..pipeline import FeaturePipeline

    upsampler = contender.load(view.backbone, view.device)
    height, width = view.image.shape[-2:]
    needed = needed_memory(FeaturePipeline(view.backbone, upsampler), (height, width))
    require_memory(needed, f"{height}x{width} pixels of features", "give a smaller --size", view.device)
    gathered = view.store.gather(upsampler, view.backbone, [view.image[0]], ["photo"])
    own = upsampler.reference(gathered)
    close = SAME_SPACE * float(view.low.abs().max())
    apart = own.shape != view.low.shape or not torch.allclose(own, view.low, rtol=0, atol=close)
    basis = PcaBasis.fit(own[0]) if apart else view.basis
    return Shown(contender.label, basis.picture(upsampler(view.image, gathered)[0]), apart)


def _parse(texts: tuple[str, ...], weights: str | None, options: dict[str, Any]) -> list[Contender]:
    """The upsamplers, each with the options for all and those under its name."""
    names = [text.partition("=")[0] for text in texts]
    for name, value in options.items():
        if isinstance(value, dict) and name not in names:
            raise click.UsageError(f"--option {name}.{next(iter(value))}: there is no --upsampler {name}")
    own = {name: options[name] for name in names if isinstance(options.get(name), dict)}
    shared = {key: value for key, value in options.items() if key not in own}
    return distinct(
        [
            parse_upsamplers([text], weights, shared | own.get(name, {}))[0]
            for text, name in zip(texts, names, strict=True)
        ]
    )


def _checked_target(target: Path, photo: Path, force: bool) -> Path:
    if target.suffix.lower() not in ENDINGS:
        raise click.UsageError(f"-o {target}: the name must end in {', '.join(ENDINGS)}")
    if target.resolve() == photo.resolve():
        raise click.UsageError(f"-o {target} is the photo, which stays; choose another name")
    if os.path.lexists(target) and not force:
        raise FileExistsError(f"{target} exists; use --force to overwrite it, or another -o")
    return target


def _sheet(
    image: Tensor, low: tuple[str, Image], shown: list[Shown], part: tuple[slice, slice] | None,
    columns: int, panel: int | None,
) -> Image:  # fmt: skip
    """Panels of the whole photo, or of a part of it behind the photo with that part framed."""
    from PIL.Image import Resampling

    from ..picture import photo, side_by_side

    whole = photo(image)
    panels = [
        ("photo", whole),
        (low[0], low[1].resize(whole.size, Resampling.NEAREST)),
        *((one.caption, one.picture) for one in shown if one.picture is not None),
    ]
    rows, across = part or (slice(0, whole.height), slice(0, whole.width))
    corners = (across.start, rows.start, across.stop, rows.stop)
    height, width = rows.stop - rows.start, across.stop - across.start
    scale = 1 if panel is None else panel / min(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if part is not None:
        panels = [(caption, picture.crop(corners)) for caption, picture in panels]
        panels = [("photo, part shown framed", _framed(whole, corners, size)), *panels]
    return side_by_side(panels, size, columns)


def _framed(whole: Image, corners: tuple[int, int, int, int], size: tuple[int, int]) -> Image:
    """The photo, as large as fits on white of ``size`` (H, W), with a frame around a part."""
    from PIL import Image, ImageDraw

    height, width = size
    scale = min(height / whole.height, width / whole.width)
    small = whole.resize((max(1, round(whole.width * scale)), max(1, round(whole.height * scale))))
    x0, y0, x1, y1 = (round(n * scale) for n in corners)
    draw = ImageDraw.Draw(small)
    draw.rectangle((x0 - 1, y0 - 1, x1, y1), outline="black", width=4)
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline="white", width=2)
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
    return sheet


def _write(target: Path, sheet: Image) -> None:
    from ..atomic import atomic_file

    target.parent.mkdir(parents=True, exist_ok=True)
    kind = {".png": "PNG", ".webp": "WEBP"}.get(target.suffix.lower(), "JPEG")
    with atomic_file(target) as temporary:
        sheet.save(temporary, kind, **({} if kind == "PNG" else {"quality": QUALITY}))


def _report(target: Path | None, sides: list[int], low: list[int], shown: list[Shown], as_json: bool) -> None:
    if as_json:
        found = [
            {"upsampler": one.label, "own_basis": one.own_basis, "error": one.error or None} for one in shown
        ]
        file = None if target is None else os.path.abspath(target)
        print_json({"file": file, "image_size": sides, "low_res": low, "upsamplers": found})
    elif target is None:
        click.echo("naf-hub: no upsampler could be shown, so no picture was written", err=True)
    else:
        drawn = sum(one.picture is not None for one in shown)
        click.echo(f"{drawn} of {len(shown)} upsamplers at {sides[0]}x{sides[1]} pixels -> {target}")
