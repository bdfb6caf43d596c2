"""Pico, naf-hub's own small backbone, with its weights."""

from __future__ import annotations

from naf_hub import BackboneRecord, Weights, hookimpl


@hookimpl
def register_backbones(register):
    register(
        BackboneRecord(
            name="pico",
            summary="Small convolutional backbone of our own, distilled from MobileNetV1; ships with naf-hub.",
            target="naf_hub_pico.network:Pico",
            weights={
                "default": Weights(
                    "package://naf_hub_pico/weights/default",
                    size=2_487_344,
                    sha256="b0c8007847f2198af1827f423bb530eb53c25dd60f25b03da5f19a451d22c28d",
                    license="Apache-2.0",
                    summary="distilled on 1,267 images; see the card beside them",
                )
            },
            parameters=1_231_600,
            embed_dim=256,
            patch_size=16,
            native_size=224,
        )
    )
