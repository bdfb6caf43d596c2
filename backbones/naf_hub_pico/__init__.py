"""Pico, naf-hub's own small backbone, with its weights."""

from __future__ import annotations

from naf_hub import BackboneRecord, Weights, hookimpl


@hookimpl
def register_backbones(register):
    register(
        BackboneRecord(
            name="pico",
            summary="Small convolutional backbone of our own, distilled from a ViT-S/14; ships with naf-hub.",
            target="naf_hub_pico.network:Pico",
            weights={
                "default": Weights(
                    "package://naf_hub_pico/weights/default",
                    size=2_487_320,
                    sha256="d480760e1a3804a4b60f669037083896c9b61866caa6794b6a3b93c36a4e58ef",
                    license="Apache-2.0",
                    summary="distilled on 1,267 images; see the card beside them",
                )
            },
            parameters=1_231_600,
            embed_dim=256,
            patch_size=16,
            native_size=224,
            network="stages",
        )
    )
