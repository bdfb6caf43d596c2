"""JAFAR's released weights by the backbone they were trained on."""

from __future__ import annotations

from naf_hub import Weights

RELEASE = "https://github.com/PaulCouairon/JAFAR/releases/download/Weights"
# What the image is normalised by, which is what the backbone's own data are; default ImageNet's.
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

# By the name of the backbone here: the file, its feature channels, and the image's normalisation.
FILES = {
    "dinov2_s": ("vit_small_patch14_dinov2.lvd142m", 384, {}),
    "dinov2_reg_s": ("vit_small_patch14_reg4_dinov2", 384, {}),
    "dinov2_b": ("vit_base_patch14_dinov2.lvd142m", 768, {}),
    "dinov3_s": ("vit_small_patch16_dinov3.lvd1689m", 384, {}),
    "dinov3_splus": ("vit_small_plus_patch16_dinov3.lvd1689m", 384, {}),
    "dinov3_b": ("vit_base_patch16_dinov3.lvd1689m", 768, {}),
    "dinov3_l": ("vit_large_patch16_dinov3.lvd1689m", 1024, {}),
    "dino_b16": ("vit_base_patch16_224.dino", 768, {}),
    "siglip2_b16_512": ("vit_base_patch16_siglip_512.v2_webli", 768, HALVES),
    "timm:vit_base_patch16_224": ("vit_base_patch16_224", 768, HALVES),
    "timm:vit_base_patch16_clip_384": ("vit_base_patch16_clip_384", 768, CLIP),
    "radio_v2_5_b": ("radio_v2.5-b", 768, UNIT),
    "radio_v2_5_l": ("radio_v2.5-l", 1024, UNIT),
    "radio_v2_5_h": ("radio_v2.5-h", 1280, UNIT),
}

WEIGHTS = {
    backbone: Weights(
        source=f"{RELEASE}/{file}.pth",
        options={"channels": channels, **normalization},
        license="Apache-2.0",
        summary=f"The authors' release for {file}; its size and checksum are not stated.",
    )
    for backbone, (file, channels, normalization) in FILES.items()
}
