"""``naf-hub attention``: figures of what one pixel of NAF attends to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from naf_hub.contenders import Contender, name_model
from naf_hub.image_sizes import ImageSize, fit_size, resized
from naf_hub.made_with import KEY, record, require_free
from naf_hub.options import (
    backbone_constructor_option,
    backbone_option,
    backbone_weights_option,
    constructor_option,
    device_option,
    json_option,
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    pixels_option,
    print_json,
    print_table,
    size_option,
    threads_option,
    upsampler_option,
    upsampler_weights_option,
    use_threads,
)
from naf_hub.photo_places import point_in

if TYPE_CHECKING:
    from .query_window import QueryWindow

VIEWS = ("window", "spectrum", "distance", "pair")


@click.command("attention")
@click.argument("photo", type=click.Path(exists=True, dir_okay=False))
@pixels_option("--at", "x,y", "Look at this pixel of the photo: columns from the left, rows from the top, from 0.",
               required=True)  # fmt: skip
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Write to this folder.")
@click.option("--view", "views", multiple=True, type=click.Choice(VIEWS), default=VIEWS, show_default=True,
              help="Draw this; repeatable.")  # fmt: skip
@upsampler_option("naf", text="Use this NAF. ")
@backbone_option("pico")
@upsampler_weights_option()
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@size_option("448", "Bring the photo to this size")
@device_option
@threads_option
@click.option("--force", is_flag=True, help="Make anew what naf-hub wrote before; other files stay.")
@json_option
def attention_command(
    photo: str, at: Any, out: str, views: tuple[str, ...], upsampler: str, backbone: str, weights: str | None,
    backbone_weights: str | None, options: dict[str, Any], backbone_options: dict[str, Any], size: ImageSize,
    device: str, threads: int | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Figures of what one pixel attends to in NAF, and how sharp each head is there.

    window: logits and weights of its window, mean and by head. spectrum: their amplitudes by frequency, and the
    window as frequencies add up. distance: weights by distance, and what place alone does. pair: the pair of guidance
    channels that tells most. Figures are PHOTO_xX_yY_VIEW.png.
    """
    use_threads(threads)
    (chosen,) = parse_upsamplers([upsampler], weights, options)
    _require_naf(chosen)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from naf_hub.atomic import atomic_file
    from naf_hub.images import read_image

    from .cell_maps import require_matplotlib
    from .query_window import query_window
    from .window_figures import FIGURES

    image = read_image(photo)[None]
    original = (image.shape[-2], image.shape[-1])
    point_in(at, original, original)
    require_matplotlib()
    folder = Path(out)
    stem = f"{Path(photo).stem}_x{at[0]}_y{at[1]}"
    targets = {view: folder / f"{stem}_{view}.png" for view in dict.fromkeys(views)}
    for path in targets.values():
        require_free(path, force)

    import torch

    where = pick_device(device)
    model = behind.load(device=where)
    naf = chosen.load(model, where)
    sides = fit_size(*original, size, getattr(model, "patch_size", 1))
    image = resized(image, sides).to(where)
    with torch.no_grad():
        features = naf.gather(image, model)
    window = query_window(naf, image, features, point_in(at, original, sides))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for view, path in targets.items():
        try:
            figure = FIGURES[view](naf, image[0], window, name_model(naf))
        except ValueError as error:  # a model without rotary encoding still has its window
            click.echo(f"naf-hub: left out: {view}: {error}", err=True)
            continue
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png", metadata={KEY: record({"attention": view}, {})})
        written.append(path)
    _report(window, written, as_json)


def _require_naf(chosen: Contender) -> None:
    from .model import NAF

    target = chosen.record.resolve()
    if not (isinstance(target, type) and issubclass(target, NAF)):
        raise click.UsageError(
            f"--upsampler {chosen.name}: these figures are of NAF alone; take naf[=WEIGHTS]"
        )


def _report(window: QueryWindow, written: list[Path], as_json: bool) -> None:
    distances = window.distances()
    heads = [
        {
            "entropy": float(-(weights * weights.clamp_min(1e-30).log()).sum()),
            "largest": float(weights.max()),
            "mean_distance": float((weights * distances).sum()),
        }
        for weights in window.weights
    ]
    if as_json:
        print_json({"files": [os.path.abspath(path) for path in written], "row": window.at[0],
                    "column": window.at[1], "size": list(window.size), "grid": list(window.grid),
                    "heads": heads})  # fmt: skip
        return
    rows = [("head", "entropy (nats)", "largest weight", "mean distance (cells)")]
    rows += [
        (str(n), f"{head['entropy']:.2f}", f"{head['largest']:.3f}", f"{head['mean_distance']:.2f}")
        for n, head in enumerate(heads)
    ]
    print_table(rows)
    for path in written:
        click.echo(f"wrote {path}")
