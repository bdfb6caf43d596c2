"""The named backbones that timm provides: what each is, without importing timm."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from naf_hub import BackboneRecord, Weights
from naf_hub.records import IMAGENET_MEAN, IMAGENET_STD

Triple = tuple[float, float, float]

# Mean and standard deviation per RGB channel, for images in [0, 1].
IMAGENET: tuple[Triple, Triple] = (IMAGENET_MEAN, IMAGENET_STD)
HALF: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP: tuple[Triple, Triple] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SATELLITE: tuple[Triple, Triple] = ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))


@dataclasses.dataclass(frozen=True)
class Family:
    """Models of one publication.

    Attributes:
        title: start of the summary.
        paper: its address.
        normalization: mean and standard deviation.
        license: of the weights; SPDX identifier or name.
        models: (name, timm name, patch size, channels, native size in pixels, parameters, blocks where ``network`` is
            ``"timm"``).
        options: further constructor options.
        repositories: Hub repository by timm name, where it is not ``timm/<timm name>``.
        network: see :class:`naf_hub.BackboneRecord`.
    """

    title: str
    paper: str
    normalization: tuple[Triple, Triple]
    license: str
    models: tuple[tuple[str, str, int, int, int, int, int], ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    repositories: Mapping[str, str] = dataclasses.field(default_factory=dict)
    network: str = "timm"


# No repository below asks to accept terms first. Those of DINOv3 are timm's copies, published under the
# DINOv3 licence without gating; Meta's own repositories are gated.
FAMILIES = (
    Family(
        "DINO vision transformer",
        "https://arxiv.org/abs/2104.14294",
        IMAGENET,
        "Apache-2.0",
        (
            ("dino_s16", "vit_small_patch16_224.dino", 16, 384, 224, 21_665_664, 12),
            ("dino_s8", "vit_small_patch8_224.dino", 8, 384, 224, 21_670_272, 12),
            ("dino_b16", "vit_base_patch16_224.dino", 16, 768, 224, 85_798_656, 12),
            ("dino_b8", "vit_base_patch8_224.dino", 8, 768, 224, 85_807_872, 12),
        ),
    ),
    Family(
        "DINOv2 vision transformer",
        "https://arxiv.org/abs/2304.07193",
        IMAGENET,
        "Apache-2.0",
        (
            ("dinov2_s", "vit_small_patch14_dinov2.lvd142m", 14, 384, 518, 22_056_192, 12),
            ("dinov2_b", "vit_base_patch14_dinov2.lvd142m", 14, 768, 518, 86_579_712, 12),
            ("dinov2_l", "vit_large_patch14_dinov2.lvd142m", 14, 1024, 518, 304_367_616, 24),
            ("dinov2_g", "vit_giant_patch14_dinov2.lvd142m", 14, 1536, 518, 1_136_479_232, 40),
        ),
    ),
    Family(
        "DINOv2 vision transformer with registers",
        "https://arxiv.org/abs/2309.16588",
        IMAGENET,
        "Apache-2.0",
        (
            ("dinov2_reg_s", "vit_small_patch14_reg4_dinov2.lvd142m", 14, 384, 518, 22_057_344, 12),
            ("dinov2_reg_b", "vit_base_patch14_reg4_dinov2.lvd142m", 14, 768, 518, 86_582_016, 12),
            ("dinov2_reg_l", "vit_large_patch14_reg4_dinov2.lvd142m", 14, 1024, 518, 304_370_688, 24),
            ("dinov2_reg_g", "vit_giant_patch14_reg4_dinov2.lvd142m", 14, 1536, 518, 1_136_483_840, 40),
        ),
    ),
    Family(
        "DINOv3 vision transformer",
        "https://arxiv.org/abs/2508.10104",
        IMAGENET,
        "DINOv3 License",
        (
            ("dinov3_s", "vit_small_patch16_dinov3.lvd1689m", 16, 384, 256, 21_586_944, 12),
            ("dinov3_splus", "vit_small_plus_patch16_dinov3.lvd1689m", 16, 384, 256, 28_683_264, 12),
            ("dinov3_b", "vit_base_patch16_dinov3.lvd1689m", 16, 768, 256, 85_641_216, 12),
            ("dinov3_l", "vit_large_patch16_dinov3.lvd1689m", 16, 1024, 256, 303_079_424, 24),
            ("dinov3_hplus", "vit_huge_plus_patch16_dinov3.lvd1689m", 16, 1280, 256, 840_509_440, 32),
            ("dinov3_7b", "vit_7b_patch16_dinov3.lvd1689m", 16, 4096, 256, 6_716_030_976, 40),
        ),
    ),
    Family(
        "DINOv3 vision transformer, satellite images",
        "https://arxiv.org/abs/2508.10104",
        SATELLITE,
        "DINOv3 License",
        (
            ("dinov3_l_sat", "vit_large_patch16_dinov3.sat493m", 16, 1024, 256, 303_079_424, 24),
            ("dinov3_7b_sat", "vit_7b_patch16_dinov3.sat493m", 16, 4096, 256, 6_716_030_976, 40),
        ),
    ),
    Family(
        "DINOv3 ConvNeXt",
        "https://arxiv.org/abs/2508.10104",
        IMAGENET,
        "DINOv3 License",
        (
            ("dinov3_cnx_t", "convnext_tiny.dinov3_lvd1689m", 32, 768, 224, 27_820_128, 0),
            ("dinov3_cnx_s", "convnext_small.dinov3_lvd1689m", 32, 768, 224, 49_454_688, 0),
            ("dinov3_cnx_b", "convnext_base.dinov3_lvd1689m", 32, 1024, 224, 87_566_464, 0),
            ("dinov3_cnx_l", "convnext_large.dinov3_lvd1689m", 32, 1536, 224, 196_230_336, 0),
        ),
        options={"head_norm": True},
        network="stages",
    ),
    Family(
        "SigLIP 2 vision transformer",
        "https://arxiv.org/abs/2502.14786",
        HALF,
        "Apache-2.0",
        (
            ("siglip2_b16_224", "vit_base_patch16_siglip_224.v2_webli", 16, 768, 224, 85_797_120, 12),
            ("siglip2_b16_256", "vit_base_patch16_siglip_256.v2_webli", 16, 768, 256, 85_843_200, 12),
            ("siglip2_b16_384", "vit_base_patch16_siglip_384.v2_webli", 16, 768, 384, 86_088_960, 12),
            ("siglip2_b16_512", "vit_base_patch16_siglip_512.v2_webli", 16, 768, 512, 86_433_024, 12),
            ("siglip2_b32_256", "vit_base_patch32_siglip_256.v2_webli", 32, 768, 256, 87_465_216, 12),
            ("siglip2_l16_256", "vit_large_patch16_siglip_256.v2_webli", 16, 1024, 256, 303_361_024, 24),
            ("siglip2_l16_384", "vit_large_patch16_siglip_384.v2_webli", 16, 1024, 384, 303_688_704, 24),
            ("siglip2_l16_512", "vit_large_patch16_siglip_512.v2_webli", 16, 1024, 512, 304_147_456, 24),
            (
                "siglip2_so400m14_224",
                "vit_so400m_patch14_siglip_224.v2_webli",
                14,
                1152,
                224,
                412_442_352,
                27,
            ),
            (
                "siglip2_so400m14_378",
                "vit_so400m_patch14_siglip_378.v2_webli",
                14,
                1152,
                378,
                412_987_248,
                27,
            ),
            (
                "siglip2_so400m16_256",
                "vit_so400m_patch16_siglip_256.v2_webli",
                16,
                1152,
                256,
                412_649_712,
                27,
            ),
            (
                "siglip2_so400m16_384",
                "vit_so400m_patch16_siglip_384.v2_webli",
                16,
                1152,
                384,
                413_018_352,
                27,
            ),
            (
                "siglip2_so400m16_512",
                "vit_so400m_patch16_siglip_512.v2_webli",
                16,
                1152,
                512,
                413_534_448,
                27,
            ),
            (
                "siglip2_gopt16_256",
                "vit_giantopt_patch16_siglip_256.v2_webli",
                16,
                1536,
                256,
                1_134_838_272,
                40,
            ),
            (
                "siglip2_gopt16_384",
                "vit_giantopt_patch16_siglip_384.v2_webli",
                16,
                1536,
                384,
                1_135_329_792,
                40,
            ),
        ),
    ),
    Family(
        "Perception Encoder, core",
        "https://arxiv.org/abs/2504.13181",
        HALF,
        "Apache-2.0",
        (
            ("pe_core_t", "vit_pe_core_tiny_patch16_384.fb", 16, 192, 384, 5_597_568, 12),
            ("pe_core_s", "vit_pe_core_small_patch16_384.fb", 16, 384, 384, 21_811_968, 12),
            ("pe_core_b", "vit_pe_core_base_patch16_224.fb", 16, 768, 224, 85_799_424, 12),
            ("pe_core_l", "vit_pe_core_large_patch14_336.fb", 14, 1024, 336, 303_507_456, 24),
            ("pe_core_g", "vit_pe_core_gigantic_patch14_448.fb", 14, 1536, 448, 1_851_736_576, 50),
        ),
    ),
    Family(
        "Perception Encoder, spatial",
        "https://arxiv.org/abs/2504.13181",
        HALF,
        "Apache-2.0",
        (
            ("pe_spatial_t", "vit_pe_spatial_tiny_patch16_512.fb", 16, 192, 512, 5_683_200, 12),
            ("pe_spatial_s", "vit_pe_spatial_small_patch16_512.fb", 16, 384, 512, 21_983_232, 12),
            ("pe_spatial_b", "vit_pe_spatial_base_patch16_512.fb", 16, 768, 512, 86_433_792, 12),
            ("pe_spatial_l", "vit_pe_spatial_large_patch14_448.fb", 14, 1024, 448, 303_964_160, 24),
            ("pe_spatial_g", "vit_pe_spatial_gigantic_patch14_448.fb", 14, 1536, 448, 1_851_887_104, 50),
        ),
    ),
    Family(
        "Masked autoencoder",
        "https://arxiv.org/abs/2111.06377",
        IMAGENET,
        "CC-BY-NC-4.0",
        (
            ("mae_b", "vit_base_patch16_224.mae", 16, 768, 224, 85_798_656, 12),
            ("mae_l", "vit_large_patch16_224.mae", 16, 1024, 224, 303_301_632, 24),
            ("mae_h", "vit_huge_patch14_224.mae", 14, 1280, 224, 630_764_800, 32),
        ),
    ),
    Family(
        "OpenAI CLIP image encoder",
        "https://arxiv.org/abs/2103.00020",
        CLIP,
        "MIT",
        (
            ("clip_b32", "vit_base_patch32_clip_quickgelu_224.openai", 32, 768, 224, 87_456_000, 12),
            ("clip_b16", "vit_base_patch16_clip_quickgelu_224.openai", 16, 768, 224, 85_799_424, 12),
            ("clip_l14", "vit_large_patch14_clip_quickgelu_224.openai", 14, 1024, 224, 303_179_776, 24),
            ("clip_l14_336", "vit_large_patch14_clip_quickgelu_336.openai", 14, 1024, 336, 303_507_456, 24),
        ),
        # One file serves the GELU and the QuickGELU model; OpenAI trained the latter.
        repositories={
            "vit_base_patch32_clip_quickgelu_224.openai": "timm/vit_base_patch32_clip_224.openai",
            "vit_base_patch16_clip_quickgelu_224.openai": "timm/vit_base_patch16_clip_224.openai",
            "vit_large_patch14_clip_quickgelu_224.openai": "timm/vit_large_patch14_clip_224.openai",
            "vit_large_patch14_clip_quickgelu_336.openai": "timm/vit_large_patch14_clip_336.openai",
        },
    ),
    Family(
        "Segment Anything image encoder with its neck",
        "https://arxiv.org/abs/2304.02643",
        IMAGENET,
        "Apache-2.0",
        (
            ("sam_b", "samvit_base_patch16.sa1b", 16, 256, 1024, 89_670_912, 0),
            ("sam_l", "samvit_large_patch16.sa1b", 16, 256, 1024, 308_278_272, 0),
            ("sam_h", "samvit_huge_patch16.sa1b", 16, 256, 1024, 637_026_048, 0),
        ),
        network="stages",
    ),
    Family(
        "C-RADIO vision transformer",
        "https://arxiv.org/abs/2412.07679",
        CLIP,
        "NVIDIA Open Model License",
        (
            ("cradio_v3_b", "naflexvit_base_patch16_radio_v3.c_radio", 16, 768, 512, 98_252_544, 0),
            ("cradio_v3_l", "naflexvit_large_patch16_radio_v3.c_radio", 16, 1024, 512, 319_931_392, 0),
            ("cradio_v3_h", "naflexvit_huge_patch16_radio_v3.c_radio", 16, 1280, 512, 651_644_160, 0),
            ("cradio_v3_g", "naflexvit_giant_patch16_radio_v3.c_radio", 16, 1536, 512, 1_159_620_096, 0),
            ("cradio_v4_so400m", "naflexvit_so400m_patch16_radio_v4.c_radio", 16, 1152, 512, 431_238_384, 0),
            ("cradio_v4_h", "naflexvit_huge_patch16_radio_v4.c_radio", 16, 1280, 512, 651_646_720, 0),
        ),
        # timm's configs of v3 B and H resample positions with aligned corners; NVIDIA's own code never does.
        options={"pos_embed_align_corners": False},
        network="transformer",
    ),
)


def alias_records() -> Iterator[BackboneRecord]:
    """A record for each named model, with its Hub weights as ``"default"``."""
    for family in FAMILIES:
        mean, std = family.normalization
        for name, model, patch_size, embed_dim, native_size, parameters, depth in family.models:
            repository = family.repositories.get(model, f"timm/{model}")
            weights = Weights(f"hf://{repository}/model.safetensors", license=family.license)
            yield BackboneRecord(
                name=name,
                summary=f"{family.title}: timm {model}.",
                target="naf_hub_timm.backbone:TimmBackbone",
                options={"model": model, **family.options},
                paper=family.paper,
                weights={"default": weights},
                embed_dim=embed_dim,
                patch_size=patch_size,
                native_size=native_size,
                network=family.network,
                depth=depth,
                mean=mean,
                std=std,
                parameters=parameters,
                family=family.title,
                dtype="bfloat16" if name.startswith("dinov3_7b") else None,
                non_commercial="-NC-" in family.license,
            )
