"""``naf-hub demo``: the whole main job on a photo that is already on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from ..contenders import name_model
from ..image_sizes import ImageSize
from ..made_with import require_free
from ..options import (
    backbone_option,
    device_option,
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    size_option,
    threads_option,
    upsampler_option,
    use_threads,
)
from ..reports import amount


def sample_photo(name: str) -> Path:
    """A photo bundled with scikit-image.

    Raises:
        FileNotFoundError: scikit-image or the photo is missing; says what to install.
    """
    import importlib.util

    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the demo's photo comes with scikit-image: pip install 'naf-hub[demo]'")
    path = Path(next(iter(spec.submodule_search_locations)), "data", name)
    if not path.is_file():
        raise FileNotFoundError(f"scikit-image ships no {name}; give a photo: naf-hub demo --image photo.jpg")
    return path


@click.command("demo")
@click.option(
    "-o",
    "--out",
    default="out",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Write to this folder.",
)
@click.option("--image", default=None, type=click.Path(exists=True, dir_okay=False),
              help="Take this photo of yours; default is scikit-image's cat.")  # fmt: skip
@upsampler_option("naf")
@backbone_option("pico")
@size_option("448", "Bring the photo to this size")
@device_option
@threads_option
def demo_command(
    out: str, image: str | None, upsampler: str, backbone: str, size: ImageSize, device: str, threads: int | None
) -> None:  # fmt: skip
    """Upsample the features of a photo, offline, and write the picture and the features."""
    import torch

    from ..pipeline import FeaturePipeline
    from .photo import Settings, upsample_file

    use_threads(threads)
    (chosen,) = parse_upsamplers([upsampler])
    behind = parse_backbone_option(backbone)
    source = Path(image) if image else sample_photo("chelsea.png")
    settings = Settings(size)
    targets = settings.outputs(Path(out, f"{source.stem}_{chosen.record.name}_{behind.record.name}"))
    for target in targets:
        require_free(target, force=True)
    where = pick_device(device)
    network = behind.load(device=where)
    model = FeaturePipeline(network, chosen.load(network, where)).eval()
    names = name_model(model.backbone), name_model(model.upsampler)
    Path(out).mkdir(parents=True, exist_ok=True)
    result = upsample_file(model, source, targets, settings)
    click.echo(
        f"photo      {source.name}, resized to {result['image_size'][0]}x{result['image_size'][1]} pixels"
    )
    click.echo(f"backbone   {names[0]}: features {tuple(result['low_res'])}")
    click.echo(f"upsampler  {names[1]}: features {tuple(result['features'])} in {result['seconds']:.2f} s, "
               f"{amount(torch.get_num_threads(), 'thread')}")  # fmt: skip
    for file in result["files"]:
        click.echo(f"wrote      {file}")
