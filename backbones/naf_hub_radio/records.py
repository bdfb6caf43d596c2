"""The released models: what each is, without importing torch or timm."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from naf_hub import BackboneRecord, Weights

PAPER = "https://arxiv.org/abs/2412.07679"
NON_COMMERCIAL = "NVIDIA Source Code License for RADIO (non-commercial)"
OPEN = "NVIDIA Open Model License"

# Per RGB channel, for images in [0, 1]. Every release stores these numbers; a model applies the stored ones.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
HUGE = {"embed_dim": 1280, "depth": 32, "num_heads": 16}
GIANT = {"embed_dim": 1536, "depth": 40, "num_heads": 24}
# RADIOv2.5-g alone is built like the giant DINOv2.
GIANT_DINOV2 = GIANT | {
    "patch_size": 14,
    "swiglu_width": 4096,
    "prefix_tokens": 5,
    "layer_scale": True,
    "final_norm": True,
    "patch_bias": True,
}


@dataclasses.dataclass(frozen=True)
class Release:
    """One model: registered name, title, Hub repository, architecture, parameters, and the side in pixels NVIDIA
    prefers."""

    name: str
    title: str
    repository: str
    architecture: Mapping[str, Any]
    parameters: int
    native_size: int = 768


RADIO = (
    Release("radio_v2_5_b", "RADIOv2.5 ViT-B/16", "nvidia/RADIO-B", BASE, 98_233_344),
    Release("radio_v2_5_l", "RADIOv2.5 ViT-L/16", "nvidia/RADIO-L", LARGE, 319_881_216),
    Release("radio_v2_5_h", "RADIOv2.5 ViT-H/16", "nvidia/RADIO-H", HUGE, 651_642_880),
    Release("radio_v2_5_g", "RADIOv2.5 ViT-g/14", "nvidia/RADIO-g", GIANT_DINOV2, 1_159_546_880, 896),
)
CRADIO = (
    Release("cradio_v2_b", "C-RADIOv2 ViT-B/16", "nvidia/C-RADIOv2-B", BASE, 98_233_344),
    Release("cradio_v2_l", "C-RADIOv2 ViT-L/16", "nvidia/C-RADIOv2-L", LARGE, 319_881_216),
    Release("cradio_v2_h", "C-RADIOv2 ViT-H/16", "nvidia/C-RADIOv2-H", HUGE, 651_642_880),
    Release("cradio_v2_g", "C-RADIOv2 ViT-g/16", "nvidia/C-RADIOv2-g", GIANT, 1_159_618_560),
    Release(
        "cradio_v2_vlm_h",
        "C-RADIOv2 ViT-H/16 for vision-language models",
        "nvidia/C-RADIOv2-VLM-H",
        HUGE,
        651_642_880,
    ),
)


def records() -> Iterator[BackboneRecord]:
    """A record for each model, with NVIDIA's weights on the Hub as ``"default"``."""
    for releases, license in ((RADIO, NON_COMMERCIAL), (CRADIO, OPEN)):
        for release in releases:
            source = f"hf://{release.repository}/model.safetensors"
            yield BackboneRecord(
                name=release.name,
                summary=f"{release.title}, distilled from several foundation models.",
                target="naf_hub_radio.backbone:Radio",
                options=release.architecture,
                paper=PAPER,
                weights={"default": Weights(source, license=license, summary="NVIDIA's, on the Hub")},
                parameters=release.parameters,
                embed_dim=release.architecture["embed_dim"],
                patch_size=release.architecture.get("patch_size", 16),
                native_size=release.native_size,
                network="transformer",
                mean=MEAN,
                std=STD,
                non_commercial=license == NON_COMMERCIAL,
            )
