"""``naf-hub demo``: the whole main job on a photo that is already on this machine."""

from __future__ import annotations

from pathlib import Path

import click


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
    "-o", "--out", default="out", show_default=True, type=click.Path(file_okay=False), help="Folder."
)
@click.option("--image", default=None, type=click.Path(exists=True, dir_okay=False),
              help="A photo of yours; default scikit-image's cat.")  # fmt: skip
def demo_command(out: str, image: str | None) -> None:
    """Upsample the features of a photo, offline, and write the picture and the features."""
    import torch

    from ..loading import load
    from .upsample import Settings, upsample_file

    source = Path(image) if image else sample_photo("chelsea.png")
    model = load("naf", backbone="pico")
    stem = Path(out, f"{source.stem}_naf_pico")
    Path(out).mkdir(parents=True, exist_ok=True)
    result = upsample_file(model, source, stem, Settings(), "pico|naf")
    click.echo(
        f"photo      {source.name}, resized to {result['image_size'][0]}x{result['image_size'][1]} pixels"
    )
    click.echo(f"backbone   pico: features {tuple(result['low_res'])}")
    click.echo(f"upsampler  naf: features {tuple(result['features'])} in {result['seconds']:.2f} s, "
               f"{torch.get_num_threads()} threads")  # fmt: skip
    for file in result["files"]:
        click.echo(f"wrote      {file}")
