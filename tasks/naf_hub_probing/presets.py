"""Settings of segmentation by name, those that the NAF paper states by data set (sections 4.1, B.2) among them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FOLDER = "folder"
"""naf-hub's own layout."""
LAYOUT_NAMES = ("coco", "voc", "ade20k", "cityscapes", "kitti360")
"""Published ones; see :data:`naf_hub_probing.layouts.LAYOUTS`."""
MODES = ("upsample", "filter")
_SIZES = {"size": 448, "label_size": 448}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "naf-coco": {"layout": "coco", "epochs": 5, "lr": 5e-4, **_SIZES},
        "naf-voc": {"layout": "voc", "epochs": 20, "lr": 5e-4, **_SIZES},
        "naf-ade20k": {"layout": "ade20k", "epochs": 20, "lr": 5e-4, **_SIZES},
        "naf-cityscapes": {"layout": "cityscapes", "epochs": 20, "lr": 1e-4, **_SIZES},
        # In the authors' code and in no table of the paper, which states neither epochs nor learning rate.
        "naf-kitti360": {"layout": "kitti360", "epochs": 20, "lr": 5e-4, **_SIZES},
    }
)


def with_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, over those of the preset that they name.

    Raises:
        ValueError: no such preset.
    """
    name = settings.get("preset")
    if name is None:
        return dict(settings)
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are: {', '.join(PRESETS)}")
    return {**PRESETS[name], **settings}
