"""The folders that the pages name, with a few tiny pictures in each, and the plugins that they write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from docs_blocks import ROOT, blocks
from PIL import Image

from naf_hub import load_restorer, registry
from naf_hub.weights.files import save_weights

SIZE = (64, 96)


def pixels(seed: int) -> np.ndarray:
    """(H, W, 3): noise on a dark and a bright part."""
    noise = np.random.default_rng(seed).integers(0, 128, (*SIZE, 3), dtype=np.uint8)
    return noise + 127 * parts(seed)[..., None]


def parts(seed: int) -> np.ndarray:
    """(H, W): 0 on the one part, 1 on the other."""
    values = np.zeros(SIZE, dtype=np.uint8)
    values[:, seed % 8 * 4 + 16 :] = 1
    return values


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def make_photos() -> None:
    """What the pages call photos of yours."""
    paths = [
        "photo.jpg",
        "other.jpg",
        "photos/a.jpg",
        "photos/sub/a.jpg",
        "photos/train/b.jpg",
        "photos/val/c.jpg",
    ]
    for seed, path in enumerate([*paths, "kodak/d.png", "others/e.png"]):
        save(Path(path), pixels(seed))
    first = Image.open("photo.jpg")
    first.resize((451, 300)).save("chelsea.png")
    first.save("clip.gif", save_all=True, append_images=[first.rotate(180)])
    Path("train.txt").write_text("photos/train/b.jpg\nphotos/a.jpg\n")


def make_boundaries() -> None:
    for seed in range(2):
        save(Path(f"bsds500/images/{seed}.jpg"), pixels(seed))
        save(
            Path(f"bsds500/boundaries/{seed}.png"),
            255 * np.diff(parts(seed), axis=1, prepend=parts(seed)[:, :1]),
        )


def make_segmentation() -> None:
    for split in ("train", "val"):
        for seed in range(2):
            save(Path(f"camvid/{split}/images/{seed}.jpg"), pixels(seed))
            save(Path(f"camvid/{split}/labels/{seed}.png"), parts(seed))
    names = [{"id": 0, "name": "near"}, {"id": 1, "name": "far"}]
    Path("camvid/classes.json").write_text(json.dumps({"classes": names}))


def make_depth() -> None:
    for split in ("train", "test"):
        for seed in range(2):
            save(Path(f"nyuv2/{split}/rgb/{seed}.jpg"), pixels(seed))
            save(Path(f"nyuv2/{split}/depth/{seed}.png"), 1000 + 2000 * parts(seed).astype(np.uint16))


def make_denoise() -> None:
    for run, name in (("my_run", "naf_denoiser"), ("my_other_run", "ircnn")):
        model = load_restorer(name, weights=None)
        save_weights(Path(run, "best"), model, name=name)


def make_world(page: Path) -> None:
    """In the current folder, what the blocks of that page read."""
    make_photos()
    if make := globals().get(f"make_{page.stem}"):
        make()


def files_of(page: str, package: str) -> dict[str, str]:
    """The blocks of a page that begin with ``# PACKAGE/...``, by that name."""
    named = {
        b.code.splitlines()[0].removeprefix("# "): b.code for b in blocks(ROOT / "docs" / page, "python")
    }
    return {name: code for name, code in named.items() if name.startswith(f"{package}/")}


def install_from_docs(
    install_plugin, tmp_path: Path, package: str, entry: str, page: str = "write-a-plugin.md"
) -> None:
    """The plugin that a page writes, installed by the fixture ``install_plugin``."""
    own = files_of(page, package)
    assert own
    distribution = package.replace("_", "-")
    install_plugin(distribution, "", entry=entry, module=package)
    root = tmp_path / distribution
    (root / f"{package}.py").unlink()
    for name, code in own.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(code)
    registry.reload()
