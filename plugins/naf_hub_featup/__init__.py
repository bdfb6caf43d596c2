"""FeatUp as a naf-hub plugin: its stack of joint bilateral upsamplers, and its network fitted to one image."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, Weights, hookimpl

PAPER = "https://arxiv.org/abs/2403.10516"
STORE = "https://marhamilresearch4.blob.core.windows.net/feature-upsampling-public/pretrained"


def released(entry: str, channels: int, features: str, norm: bool, **checks: int | str) -> Weights:
    """One checkpoint of the authors'; ``entry`` is what their torch.hub calls it."""
    folder = "" if norm else "/no_norm"
    space = "layer-normed" if norm else "raw"
    return Weights(
        source=f"{STORE}{folder}/{entry}_jbu_stack_cocostuff.ckpt",
        options={"channels": channels, "norm": norm},
        license="MIT",
        summary=f"The authors' release for {features}, {space}.",
        **checks,  # pyright: ignore[reportArgumentType]
    )


# Sets are named by the backbone where it is registered here, else as the authors name it.
WEIGHTS = {
    "dino_s16": released("dino16", 384, "DINO ViT-S/16", True),
    "dino_s16_no_norm": released("dino16", 384, "DINO ViT-S/16", False),
    "dinov2_s": released("dinov2", 384, "DINOv2 ViT-S/14", True),
    "dinov2_s_no_norm": released("dinov2", 384, "DINOv2 ViT-S/14", False),
    "clip": released("clip", 512, "projected patch tokens of CLIP ViT-B/16", True),
    "clip_no_norm": released("clip", 512, "projected patch tokens of CLIP ViT-B/16", False),
    "maskclip_no_norm": released(
        "maskclip",
        512,
        "MaskCLIP ViT-B/16",
        False,
        size=3513883,
        sha256="1412eba0a7d08ba0dbe140afdaf479ad819e00bacf5e229ea7446d948637d787",
    ),
    "vit": released("vit", 384, "timm's vit_small_patch16_224 behind ImageNet's mean and deviation", True),
    "vit_no_norm": released(
        "vit", 384, "timm's vit_small_patch16_224 behind ImageNet's mean and deviation", False
    ),
    "resnet50": released("resnet50", 2048, "the last map of ResNet-50", True),
    "resnet50_no_norm": released("resnet50", 2048, "the last map of ResNet-50", False),
}


@hookimpl
def register_upsamplers(register):
    register(
        UpsamplerRecord(
            name="featup_jbu",
            summary="FeatUp's four learned joint bilateral upsamplers in a row, made per backbone.",
            target="naf_hub_featup.jbu_stack:JBUStack",
            paper=PAPER,
            weights=WEIGHTS,
            backbone_agnostic=False,
            ratios="x16, then bilinear",
            trainable=True,
            state_dict_keys=("state_dict",),
        )
    )
    register(
        UpsamplerRecord(
            name="featup_implicit",
            summary="FeatUp's network of colours and positions, fitted to each image anew; about two hours on a CPU.",
            target="naf_hub_featup.implicit:Implicit",
            paper=PAPER,
            learned=False,
            ratios="the image's size, then bilinear",
        )
    )
