"""What the authors published, as records: nothing here imports torch.

All weights are files of the GitHub releases of valeoai/Franca, under the "Franca Research-Only RAIL" licence
(non-commercial research). The release states neither sizes nor checksums that could be recorded here.
"""

from __future__ import annotations

from collections.abc import Iterator

from naf_hub import BackboneRecord, Weights

PAPER = "https://arxiv.org/abs/2507.14137"
RELEASES = "https://github.com/valeoai/Franca/releases/download"
LICENSE = "Franca Research-Only RAIL"
# Where the keys of a RASA file, published apart from its backbone, go in the joined state dict.
RASA_PREFIX = "rasa_head."


def published(
    release: str, stem: str, summary: str, *, rasa: bool = True, parts: tuple[str, ...] = ()
) -> Weights:
    """The backbone ``stem`` of a release, with the RASA head beside it where there is one."""
    address = f"{RELEASES}/{release}/{stem}"
    return Weights(
        source=f"{address}_chunked.tar.gz" if parts else f"{address}.pth",
        parts=parts,
        also={RASA_PREFIX: f"{address}_rasa.pth"} if rasa else {},
        options={} if rasa else {"rasa": False},
        license=LICENSE,
        summary=summary,
    )


BASE = {
    "default": published(
        "v1.0.0", "franca_vitb14_In21K", "ImageNet-21K, 518 px, with RASA head (authors' IN21K)"
    ),
    "in21k_224": published(
        "v1.1.0", "franca_vitb14_In21K_224", "ImageNet-21K, 224 px, no RASA head", rasa=False
    ),
    "dinov2_in21k": published(
        "v1.1.0",
        "franca_vitb14_Dinov2_In21K",
        "DINOv2 baseline, ImageNet-21K, 224 px, no RASA head",
        rasa=False,
    ),
    "dinov2_in21k_518": published(
        "v1.1.0", "franca_vitb14_Dinov2_In21K_518", "DINOv2 baseline, ImageNet-21K, 518 px, with RASA head"
    ),
}
LARGE = {
    "default": published(
        "v1.0.0", "franca_vitl14_Laion600M", "LAION-600M, 518 px, with RASA head (authors' LAION)"
    ),
    "laion_518": published(
        "v1.1.0", "franca_vitl14_Laion_518", "LAION-600M, 518 px, with RASA head, second training"
    ),
    "laion_224": published(
        "v1.1.0", "franca_vitl14_Laion600M_224", "LAION-600M, 224 px, no RASA head", rasa=False
    ),
    "dinov2_in21k": published(
        "v1.1.0",
        "franca_vitl14_Dinov2_In21K",
        "DINOv2 baseline, ImageNet-21K, 224 px, no RASA head",
        rasa=False,
    ),
    "dinov2_in21k_518": published(
        "v1.1.0", "franca_vitl14_Dinov2_In21K_518", "DINOv2 baseline, ImageNet-21K, 518 px, with RASA head"
    ),
}
GIANT = {
    "default": published(
        "v1.0.0",
        "franca_vitg14_Laion600M",
        "LAION-600M, 224 px, with RASA head (authors' LAION)",
        parts=(".part_aa", ".part_ab", ".part_ac"),
    ),
}

# (name, words, channels, depth, heads, native size in pixels, parameters, sets of weights)
SIZES = (
    ("franca_b", "base, 86 M parameters", 768, 12, 12, 518, 86_605_824, BASE),
    ("franca_l", "large, 300 M parameters", 1024, 24, 16, 518, 304_812_288, LARGE),
    ("franca_g", "giant, 1.1 G parameters", 1536, 40, 24, 224, 1_134_797_312, GIANT),
)


def records() -> Iterator[BackboneRecord]:
    """One record per size."""
    for name, words, embed_dim, depth, num_heads, native_size, parameters, weights in SIZES:
        yield BackboneRecord(
            name=name,
            summary=f"Franca vision transformer, {words}; RASA-debiased features, rasa=False for the plain ones.",
            target="naf_hub_franca.backbone:Franca",
            options={"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "img_size": native_size},
            paper=PAPER,
            weights=weights,
            state_dict_keys=("teacher",),  # the RASA files are flat
            parameters=parameters,
            embed_dim=embed_dim,
            patch_size=14,
            native_size=native_size,
            network="timm",
            depth=depth,
            non_commercial=True,
        )
