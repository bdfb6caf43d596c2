"""LiFT as a naf-hub plugin; the model itself is in :mod:`.lift`."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, hookimpl


@hookimpl
def register_upsamplers(register):
    register(
        UpsamplerRecord(
            name="lift",
            summary="LiFT: a small x2 network of image and keys of the backbone; released weights load by path.",
            target="naf_hub_lift.lift:LiFT",
            paper="https://arxiv.org/abs/2403.14625",
            backbone_agnostic=False,
            ratios="any: x2 steps, then bilinear",
            trainable=True,
        )
    )
