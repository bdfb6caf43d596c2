"""ViT-Up as a naf-hub plugin; the model itself is in :mod:`.vit_up`."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, Weights, hookimpl

STORE = "hf://Krispin/vit-up"


def released(file: str, backbone: str, **options: int) -> Weights:
    """One checkpoint of the authors', whose size and checksum they do not state."""
    return Weights(
        source=f"{STORE}/{file}.safetensors",
        options=options,
        license="none stated",
        summary=f"The authors' release for {backbone}, with its adapters. No licence is stated: all rights reserved.",
    )


@hookimpl
def register_upsamplers(register):
    register(
        UpsamplerRecord(
            name="vit_up",
            summary="A decoder, made per backbone, of hidden layers of that backbone with adapters (ViT-Up).",
            target="naf_hub_vit_up.vit_up:ViTUp",
            paper="https://arxiv.org/abs/2606.14024",
            weights={
                "dinov3_splus": released(
                    "vit_up_dinov3_splus", "DINOv3 ViT-S+/16", channels=384, num_heads=6
                ),
                "dinov3_b": released("vit_up_dinov3_base", "DINOv3 ViT-B/16", channels=768, num_heads=12),
            },
            backbone_agnostic=False,
            trainable=True,
        )
    )
