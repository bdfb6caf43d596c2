"""LiFT as a naf-hub plugin; the model itself is in :mod:`.lift`."""

from __future__ import annotations

from naf_hub import UpsamplerRecord, hookimpl

FOLDER = "https://drive.google.com/drive/folders/12Q8n_vur3njOgAO1iu0P6tDIcszrnadd"
FILES = ("lift_dino_vits16.pth", "lift_dino_vits8.pth", "lift_dino_vitb16.pth", "lift_dino_vitb8.pth")


@hookimpl
def register_upsamplers(register):
    register(
        UpsamplerRecord(
            name="lift",
            summary="LiFT: a small x2 network of image and keys of the backbone; released weights load by path.",
            target="naf_hub_lift.lift:LiFT",
            paper="https://arxiv.org/abs/2403.14625",
            by_hand=(
                f"{FOLDER} has {', '.join(FILES)}, for dino_s16, dino_s8, dino_b16 and dino_b8; their licence is not "
                "stated. Fetch one and convert it, for dino_b16 and dino_b8 with channels=768: naf-hub convert "
                f"{FILES[0]} -o lift_s16 --name lift --option channels=384"
            ),
            backbone_agnostic=False,
            ratios="any: x2 steps, then bilinear",
            trainable=True,
        )
    )
