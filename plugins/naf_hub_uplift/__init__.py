"""UPLiFT as a naf-hub plugin; the model itself is in :mod:`.uplift`."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, Weights, hookimpl

HUB = "hf://UPLiFT-upsampler"


def released(repository: str, features: str, patch_size: int) -> Weights:
    """One file of the authors', who state neither its size nor its checksum nor its licence."""
    return Weights(
        source=f"{HUB}/{repository}/{repository}.safetensors",
        options={"channels": 384, "patch_size": patch_size},
        license="none stated",
        summary=f"The authors' release for {features}; no licence of the weights is stated, that of their code is MIT.",
    )


WEIGHTS = {
    "dinov2_s": released("uplift_dinov2-s14", "DINOv2 ViT-S/14", 14),
    "dinov3_splus": released("uplift_dinov3-splus16", "DINOv3 ViT-S+/16", 16),
}


@hookimpl
def register_upsamplers(register):
    register(
        UpsamplerRecord(
            name="uplift",
            summary="UPLiFT: x2 steps, each pixel a mean of 17 cells near it; made per backbone.",
            target="naf_hub_uplift.uplift:UPLiFT",
            paper="https://arxiv.org/abs/2601.17950",
            weights=WEIGHTS,
            backbone_agnostic=False,
            ratios="any: x2 steps, then bilinear",
            trainable=True,
        )
    )
