"""The page for users of other upsamplers: every block of new code runs, on small models and without a download."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import naf_hub
from naf_hub_naf.torch_hub import PublishedNAF

ROOT = Path(__file__).parent.parent
SECTIONS = {
    section.partition("\n")[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in (ROOT / "docs" / "migrate.md").read_text(encoding="utf-8").split("\n## ")[1:]
}
COMING = {"JAFAR": "jafar", "UPLiFT": "uplift"}
SMALL: dict[str, dict[str, Any]] = {"anyup": {"qk_dim": 32}, "featup_jbu": {"ratio": 2}}
CHANNELS, SIDE = 384, 56  # a side that patches of 14 divide, channels as the backbones of the page have them
LOAD, HUB_LOAD = naf_hub.load, torch.hub.load


class Patches(naf_hub.Backbone):
    """Colours of patches, repeated: what has the shape of a backbone's features without its weights."""

    def extract(self, image: torch.Tensor) -> torch.Tensor:
        means = torch.nn.functional.avg_pool2d(image, self.patch_size)
        return means.repeat(1, self.embed_dim // 3, 1, 1)


def load(name: str, backbone: str | None = None, *, weights: str = "default", **options: Any):
    """``naf_hub.load`` with random weights of the shape that those it names have."""
    record = naf_hub.info(name)
    assert isinstance(record, naf_hub.UpsamplerRecord)
    if weights == "default" and not record.backbone_agnostic:
        assert backbone is not None
        weights = backbone
    options = {**record.weights[weights].options, **SMALL.get(name, {}), **options}
    if backbone is None:
        return LOAD(name, weights=None, **options)
    behind = naf_hub.info(backbone)
    assert isinstance(behind, naf_hub.BackboneRecord)
    assert behind.embed_dim
    return LOAD(name, Patches(behind.embed_dim, behind.patch_size), weights=None, **options)


def hub_load(repository: str, entry: str, **options: Any):
    assert repository.endswith("/naf-hub")
    return HUB_LOAD(str(ROOT), entry, source="local", **options)


@pytest.mark.parametrize("section", SECTIONS)
def test_new_code_runs(section, monkeypatch):
    name = COMING.get(section, "naf")
    if name not in naf_hub.list_upsamplers():
        pytest.skip(f"{name} is not registered yet")
    monkeypatch.setattr(naf_hub, "load", load)
    monkeypatch.setattr(torch.hub, "load", hub_load)
    rgb = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image = torch.from_numpy(rgb).movedim(-1, 0)[None] / 255
    scope: dict[str, Any] = {
        "naf_hub": naf_hub,
        "torch": torch,
        "photo": Image.fromarray(rgb),
        "image": image,
        "normalised": naf_hub.Normalize()(image),
        "comfy_image": image.movedim(1, -1),
        "lr_features": torch.randn(1, CHANNELS, 4, 4),
        "size": (SIDE, SIDE),
        "state_dict": PublishedNAF().state_dict(),
        "device": "cpu",
    }
    new = [block for block in SECTIONS[section] if block.startswith("# after")]
    assert new
    with torch.no_grad():
        for block in new:
            scope.pop("features", None)
            exec(block, scope)
            made = scope["features"] if "features" in scope else scope["joined"]
            assert made.shape[-2:] == (SIDE, SIDE)


@pytest.mark.parametrize("section", SECTIONS)
def test_each_section_sets_old_code_before_new(section):
    first, *others = SECTIONS[section]
    assert first.startswith("# before")
    assert all(block.startswith("# after") for block in others)
    ast.parse(first)
