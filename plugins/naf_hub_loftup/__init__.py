"""LoftUp as a naf-hub plugin; the model itself is in :mod:`.loftup`."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, Weights, hookimpl


def released(entry: str, channels: int, features: str) -> Weights:
    """One of the authors' repositories; ``entry`` is its name behind ``loftup-``."""
    return Weights(
        source=f"hf://haiwen/loftup-{entry}/pytorch_model.bin",
        options={"channels": channels},
        license="MIT",
        summary=f"The authors' release for {features}, layer-normed.",
    )


# Sets are named by the backbone where its features can be had here, else as the authors name it.
WEIGHTS = {
    "dinov2_s": released("dinov2s", 384, "DINOv2 ViT-S/14"),
    "dinov2_reg_s": released("dinov2s_reg", 384, "DINOv2 ViT-S/14 with registers"),
    "dinov2_b": released("dinov2b", 768, "DINOv2 ViT-B/14"),
    "dinov2_reg_b": released("dinov2b_reg", 768, "DINOv2 ViT-B/14 with registers"),
    "siglip2_b16_224": released("siglip2", 768, "SigLIP 2 ViT-B/16 behind ImageNet's mean and deviation"),
    "timm:vit_base_patch16_siglip_224.webli": released(
        "siglip", 768, "SigLIP ViT-B/16 behind ImageNet's mean and deviation"
    ),
    "clip": released(
        "clip",
        512,
        "projected values of the last block of CLIP ViT-B/16 behind ImageNet's mean and deviation",
    ),
}


@hookimpl
def register_upsamplers(register):
    register(
        UpsamplerRecord(
            name="loftup",
            summary="Two blocks of attention from pixels, known by colour and place, to cells (LoftUp).",
            target="naf_hub_loftup.loftup:LoftUp",
            paper="https://arxiv.org/abs/2504.14032",
            weights=WEIGHTS,
            backbone_agnostic=False,
            trainable=True,
            state_dict_keys=("state_dict",),
        )
    )
