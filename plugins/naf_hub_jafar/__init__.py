"""AnyUp and JAFAR as a naf-hub plugin; the models themselves are in :mod:`.anyup` and :mod:`.jafar`."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, Weights, hookimpl

from .released_jafar import WEIGHTS as JAFAR_WEIGHTS

RELEASES = "https://github.com/wimmerth/anyup/releases/download"
WEIGHTS = {
    "default": Weights(
        source=f"{RELEASES}/checkpoint/anyup_paper.pth",
        size=3540612,
        sha256="9d035c0f27114a6f32bdd3d8ed93b6cd39dad4b8f8bf94e69fddbfbf022901b2",
        license="CC-BY-4.0",
        summary="The authors' release of the paper, trained on features of DINOv2 ViT-S/14.",
    ),
    "multi_backbone": Weights(
        source=f"{RELEASES}/checkpoint_v2/anyup_multi_backbone.pth",
        size=3541624,
        sha256="b6cc407da8986c7e5c9098e61f7531767a9aca8fff20a1bc6c99d488e61aac59",
        license="CC-BY-4.0",
        summary="The authors' second release, trained on DINOv2, DINOv2 with registers, CLIP, SigLIP 2 and a ViT-B.",
    ),
}


@hookimpl
def register_upsamplers(register):
    register(
        UpsamplerRecord(
            name="anyup",
            summary="Windowed attention whose keys are read from features of any backbone (AnyUp).",
            target="naf_hub_jafar.anyup:AnyUp",
            parameters=878_080,
            paper="https://arxiv.org/abs/2510.12764",
            weights=WEIGHTS,
            trainable=True,
            state_dict_keys=("anyup",),
        )
    )
    register(
        UpsamplerRecord(
            name="jafar",
            summary="Attention of every pixel to all cells, made per backbone (JAFAR).",
            target="naf_hub_jafar.jafar:JAFAR",
            paper="https://arxiv.org/abs/2506.11136",
            weights=JAFAR_WEIGHTS,
            backbone_agnostic=False,
            trainable=True,
            state_dict_keys=("jafar",),
        )
    )
