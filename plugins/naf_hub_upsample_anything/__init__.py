"""Upsample Anything: a kernel fitted to each image, as a naf-hub plugin; see :mod:`.upsample_anything`."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, hookimpl


@hookimpl
def register_upsamplers(register):
    register(
        UpsamplerRecord(
            name="upsample_anything",
            summary="Upsample Anything: Gaussians of place and colour fitted to each image; authors' code unlicensed.",
            target="naf_hub_upsample_anything.upsample_anything:UpsampleAnything",
            paper="https://arxiv.org/abs/2511.16301",
            learned=False,
            ratios="any that enlarges",
        )
    )
