"""CARAFE, SAPA and DySample as a naf-hub plugin: small x2 layers that were designed for tasks, applied repeatedly."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, hookimpl

RECORDS = (
    UpsamplerRecord(
        name="carafe",
        summary="CARAFE: weights of 5x5 cells predicted from the features, a x2 layer; ignores the image.",
        target="naf_hub_dynamic.carafe:CARAFE",
        paper="https://arxiv.org/abs/1905.02188",
        backbone_agnostic=False,
        trainable=True,
    ),
    UpsamplerRecord(
        name="sapa",
        summary="SAPA: pixels averaging cells like them, a x2 layer (authors: MIT, yet 'academic purposes only').",
        target="naf_hub_dynamic.sapa:SAPA",
        paper="https://arxiv.org/abs/2209.12866",
        backbone_agnostic=False,
        trainable=True,
    ),
    UpsamplerRecord(
        name="dysample",
        summary="DySample: places to sample at predicted from the features, a x2 layer; ignores the image.",
        target="naf_hub_dynamic.dysample:DySample",
        paper="https://arxiv.org/abs/2308.15085",
        backbone_agnostic=False,
        trainable=True,
    ),
)


@hookimpl
def register_upsamplers(register):
    for record in RECORDS:
        register(record)
