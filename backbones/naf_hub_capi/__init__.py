"""CAPI (Meta): vision transformers trained by predicting cluster assignments of masked patches."""

from __future__ import annotations

from naf_hub import BackboneRecord, Weights, hookimpl

FILES = "https://dl.fbaipublicfiles.com/capi"

# By training data. No sizes or checksums are published. The ImageNet-22k file is indeed spelled i22k.
WEIGHTS = {
    name: Weights(
        f"{FILES}/capi_vitl14_{stem}.pth", license="Apache-2.0", summary=f"authors' {entry}: {data}"
    )
    for name, stem, entry, data in (
        ("default", "lvd", "capi_vitl14_lvd", "LVD-142M"),
        ("p205", "p205", "capi_vitl14_p205", "Places205"),
        ("in22k", "i22k", "capi_vitl14_in22k", "ImageNet-22k"),
        ("in1k", "in1k", "capi_vitl14_in1k", "ImageNet-1k"),
    )
}


@hookimpl
def register_backbones(register):
    register(
        BackboneRecord(
            name="capi_l14",
            summary="CAPI vision transformer, large, 300 M parameters, patch 14, rotary positions.",
            target="naf_hub_capi.backbone:Capi",
            options={"embed_dim": 1024, "depth": 24, "num_heads": 16},
            paper="https://arxiv.org/abs/2502.08769",
            weights=WEIGHTS,
            parameters=302_658_560,
            embed_dim=1024,
            patch_size=14,
            native_size=224,
            network="transformer",
        )
    )
