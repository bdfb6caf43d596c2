"""Interpolation, bilateral and guided filters as upsamplers: the classical rivals of learned ones."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, hookimpl

KEYS = "https://doi.org/10.1109/TASSP.1981.1163711"
DUCHON = "https://doi.org/10.1175/1520-0450(1979)018<1016:LFIOAT>2.0.CO;2"
TOMASI = "https://doi.org/10.1109/ICCV.1998.710815"
PETSCHNIGG = "https://doi.org/10.1145/1015706.1015777"
KOPF = "https://doi.org/10.1145/1276377.1276497"
HE = "https://doi.org/10.1109/TPAMI.2012.213"
HE_FAST = "https://arxiv.org/abs/1505.00996"
FEATUP = "https://arxiv.org/abs/2403.10516"

INTERPOLATION = "naf_hub_filters.interpolation:Interpolation"

RECORDS = (
    UpsamplerRecord(
        name="nearest",
        summary="Nearest cell (PyTorch nearest-exact); ignores the image.",
        target=INTERPOLATION,
        options={"mode": "nearest-exact"},
        learned=False,
    ),
    UpsamplerRecord(
        name="bilinear",
        summary="Bilinear interpolation, half-pixel centres; ignores the image.",
        target=INTERPOLATION,
        options={"mode": "bilinear"},
        learned=False,
    ),
    UpsamplerRecord(
        name="bicubic",
        summary="Cubic convolution (a = -0.75 as in PyTorch); ignores the image.",
        target=INTERPOLATION,
        options={"mode": "bicubic"},
        paper=KEYS,
        learned=False,
    ),
    UpsamplerRecord(
        name="lanczos",
        summary="Windowed sinc with three lobes, widened when shrinking; ignores the image.",
        target=INTERPOLATION,
        options={"mode": "lanczos"},
        paper=DUCHON,
        learned=False,
    ),
    UpsamplerRecord(
        name="blur",
        summary="A control: bilinear, each cell mixed with the mean of 9x9 around it; ignores the image.",
        target="naf_hub_filters.blur:Blur",
        learned=False,
    ),
    UpsamplerRecord(
        name="bilateral",
        summary="Bilinear interpolation, then a bilateral filter of the features; ignores the image.",
        target="naf_hub_filters.bilateral:Bilateral",
        paper=TOMASI,
        learned=False,
    ),
    UpsamplerRecord(
        name="joint_bilateral",
        summary="JBF of the NAF paper's tables: joint bilateral filter at four times the feature grid.",
        target="naf_hub_filters.joint_bilateral:JointBilateral",
        paper=PETSCHNIGG,
        learned=False,
    ),
    UpsamplerRecord(
        name="joint_bilateral_upsampling",
        summary="Joint bilateral upsampling of Kopf et al. 2007: weights over low-resolution cells.",
        target="naf_hub_filters.joint_bilateral_upsampling:JointBilateralUpsampling",
        paper=KOPF,
        learned=False,
    ),
    UpsamplerRecord(
        name="jbu",
        summary="JBU of the NAF paper's tables: FeatUp's learned range kernel, once, at output resolution.",
        target="naf_hub_filters.jbu:JBU",
        parameters=34_305,
        paper=FEATUP,
        trainable=True,
    ),
    UpsamplerRecord(
        name="guided_filter",
        summary="Guided filter with coefficients on the feature grid, applied to the image at output size.",
        target="naf_hub_filters.guided:GuidedFilter",
        paper=HE,
        learned=False,
    ),
    UpsamplerRecord(
        name="fast_guided_filter",
        summary="Bilinear interpolation, then the fast guided filter at output size.",
        target="naf_hub_filters.guided:FastGuidedFilter",
        paper=HE_FAST,
        learned=False,
    ),
)


@hookimpl
def register_upsamplers(register):
    for record in RECORDS:
        register(record)
