"""FeatSharp as a naf-hub plugin; see :mod:`.featsharp`."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, hookimpl


@hookimpl
def register_upsamplers(register):
    register(
        UpsamplerRecord(
            name="featsharp",
            summary="FeatSharp: tiles of the enlarged image go through the backbone too (authors: non-commercial).",
            target="naf_hub_featsharp.featsharp:FeatSharp",
            paper="https://arxiv.org/abs/2502.16025",
            backbone_agnostic=False,
            ratios="a whole number of cells a cell, then bilinear",
            trainable=True,
            state_dict_keys=("model_state",),
        )
    )
