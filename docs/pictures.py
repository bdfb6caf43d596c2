"""Makes the pictures that show features of pico again: ``python docs/pictures.py PHOTOS [NAME...]``.

PHOTOS is a folder with the photos of the gallery and AnyUp's weights as their authors released them. To be run when
default weights of pico or NAF changed; the gallery's page is written by generate.py from what stands here.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from naf_hub.commands.main import cli

DOCS = Path(__file__).parent
ASSETS = DOCS / "assets"
CC_BY = "[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/)"


class Photograph(NamedTuple):
    """A photo of the gallery: its file, what one sees, whose it is under which terms, and what it comes with."""

    file: str
    sees: str
    credit: str
    source: str = "scikit-image"

    @property
    def picture(self) -> str:
        return f"gallery-{Path(self.file).stem}.webp"


PHOTOGRAPHS = (
    Photograph("chelsea.png", "a cat's face", "Chelsea the cat, by Stefan van der Walt, CC0"),
    Photograph("coffee.png", "a cup of coffee on a table", "Coffee, by Rachel Michetti, CC0"),
    Photograph(
        "flower.jpg",
        "a dahlia before dark leaves",
        f"A dahlia, by [vultilion](https://www.flickr.com/photos/vultilion/6056698931/), {CC_BY}",
        "scikit-learn",
    ),
    Photograph(
        "china.jpg",
        "a tower above trees and a lake",
        f"A tower in China, by [danielbuechele](https://www.flickr.com/photos/danielbuechele/6061409035/), {CC_BY}",
        "scikit-learn",
    ),
    Photograph("astronaut.png", "a portrait of an astronaut", "Eileen Collins, by NASA, public domain"),
    Photograph(
        "grace_hopper.jpg",
        "a portrait of an officer before a flag",
        "Grace Hopper, by James S. Davis, U.S. Navy, public domain",
        "matplotlib",
    ),
    Photograph("camera.png", "a man behind a camera on a lawn", "Cameraman, by Lav Varshney, CC0"),
    Photograph("rocket.jpg", "a rocket at night on its pad", "A rocket on its pad, by SpaceX, public domain"),
    Photograph("retina.jpg", "the back of an eye", "A retina, by Mikael Häggström, CC0"),
    Photograph("hubble_deep_field.jpg", "many galaxies", "Hubble eXtreme Deep Field, by NASA, public domain"),
)


def gallery_command(photo: Photograph) -> str:
    return f"""naf-hub compare {photo.file} -o {photo.picture} --upsampler bilinear --upsampler joint_bilateral \\
    --upsampler joint_bilateral_upsampling --upsampler guided_filter --upsampler fast_guided_filter \\
    --upsampler anyup=anyup_multi_backbone.safetensors --upsampler naf --columns 3 --panel 240"""


def gallery(note: str) -> str:
    """The page of the gallery."""
    shown = "\n\n".join(
        f"[![{photo.sees}: photo, features, seven upsamplers](assets/{photo.picture}){{ loading=lazy }}]"
        f"(assets/{photo.picture}){{ .zoom }}\n\n*{photo.credit}. Comes with {photo.source}.*"
        for photo in PHOTOGRAPHS
    )
    return f"""---
hide: [toc]
---
{note}
# Gallery

Ten photos, the features of `pico` as they are, and the same features by seven upsamplers: three principal components as
red, green and blue, one basis for all panels of a picture. Click a picture to zoom. AnyUp has its authors' weights; the
photos were made smaller.

{shown}

Each picture was made by such a command:

```sh
{gallery_command(PHOTOGRAPHS[0])}
```

More upsamplers on one photo are on [Upsamplers](upsamplers.md); [See what an upsampler does](views.md) says how to read
the colours and how to show a part of a photo.
"""


def named_command(page: str, picture: str) -> str:
    """The command of a page that writes a picture."""
    blocks = re.split(r"```(?:sh)?\n", (DOCS / page).read_text("utf-8"))
    return next(block for block in blocks if block.startswith("naf-hub ") and f"-o {picture} " in block)


def run(command: str, written: str, instead: Path) -> None:
    """Run a command of these pages, with another place for what it writes."""
    words = shlex.split(command.replace("\\\n", " "))[1:]
    words[words.index(written)] = str(instead)
    cli.main([*words, "--force"] if words[0] == "compare" else words, standalone_mode=False)


def make(names: list[str]) -> None:
    def wanted(name: str) -> bool:
        return not names or name in names

    for photo in PHOTOGRAPHS:
        if wanted(photo.picture):
            run(gallery_command(photo), photo.picture, ASSETS / photo.picture)
    if wanted("compare.jpg"):
        run(named_command("views.md", "compare.jpg"), "compare.jpg", ASSETS / "compare.jpg")
    if wanted("demo.jpg"):
        run("naf-hub demo -o out", "out", Path("out"))
        Image.open("out/chelsea_naf_pico.png").convert("RGB").save(ASSETS / "demo.jpg", quality=88)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    make(sys.argv[2:])
