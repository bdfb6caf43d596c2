"""NAF (neighborhood attention filtering) as a naf-hub plugin; see :mod:`.model` and :mod:`.denoiser`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from naf_hub import RestorerRecord, UpsamplerRecord, Weights, hookimpl

if TYPE_CHECKING:
    import click

PAPER = "https://arxiv.org/abs/2511.18452"
WEIGHTS = {
    "default": Weights(
        source="package://naf_hub_naf/weights/default",
        size=2654000,
        sha256="45d92398636194e9834b47f671428c315142589effe06dda891a1e1e9e56dff1",
        license="Apache-2.0",
        summary="Trained by naf-hub on a CPU: teachers a ViT-S/14 and an EfficientNet-Lite0; see the card.",
    ),
    "official": Weights(
        source="https://github.com/valeoai/NAF/releases/download/model/naf_release.pth",
        size=2664431,
        sha256="c096c1ab2217a5c3ac136365f721685e2201379cb69d509cfb0261183847c98f",
        license="Apache-2.0",
        summary="The authors' release, trained on features of DINOv3 ViT-B/16. Below bilinear at finding points of "
        "SPair-71k (PCK@0.1 48.68 against 51.27).",
    ),
}
SMALL = Weights(
    source="package://naf_hub_naf/weights/small",
    size=673_448,
    sha256="ae7fb08bcf7b8bd8bd911decbfd088bb3136828aaac74b31ac6a613814529d74",
    license="Apache-2.0",
    summary="Trained by naf-hub on the teachers of naf's default weights; see the card.",
)
LOCAL = Weights(
    source="package://naf_hub_naf/weights/local",
    size=2654000,
    sha256="9487e176700e1591f5db9dce8a8b547a0dbf9e80512db645e4fdc807515e9166",
    license="Apache-2.0",
    summary="Trained by naf-hub on a CPU by a plainer recipe than naf's: one teacher, a ViT-S/14; see the card.",
)
GAUSSIAN = Weights(
    source="package://naf_hub_naf/weights/gaussian_0_0.5",
    size=2654192,
    sha256="cf5beb1736b41a2e7da36b9480cee06e212a302668f34db483a7e83b0e005155",
    license="Apache-2.0",
    summary="Trained by naf-hub on a CPU against Gaussian noise of sigma 0 to 0.5; see the card.",
)
SALT_AND_PEPPER = Weights(
    source="package://naf_hub_naf/weights/salt_and_pepper_0_0.5",
    size=2654192,
    sha256="4f85f216aa00e2dca1c99d04e66fde2a777b2437874fc1d67d045f95a85a6b08",
    license="Apache-2.0",
    summary="Trained by naf-hub on a CPU against salt and pepper of probability 0 to 0.5; see the card.",
)
# Named after noise and levels; "default" is what ``naf-hub denoise`` takes.
DENOISER_WEIGHTS = {
    "default": GAUSSIAN,
    "gaussian_0_0.5": GAUSSIAN,
    "salt_and_pepper_0_0.5": SALT_AND_PEPPER,
}


@hookimpl
def register_upsamplers(register):
    register(
        UpsamplerRecord(
            name="naf",
            summary="Neighborhood attention filtering: one small model for every backbone and ratio.",
            target="naf_hub_naf.model:NAF",
            parameters=662_528,
            paper=PAPER,
            weights=WEIGHTS,
            trainable=True,
        )
    )
    register(
        UpsamplerRecord(
            name="naf_small",
            summary="NAF with 128 guidance channels: a quarter of the parameters, less than half of the time.",
            target="naf_hub_naf.model:NAF",
            options={"dim": 128},
            parameters=167_424,
            paper=PAPER,
            weights={"default": SMALL},
            trainable=True,
        )
    )
    register(
        UpsamplerRecord(
            name="naf_local",
            summary="NAF and an addition of naf-hub's: attention fades with distance (a Gaussian of 1.5 cells).",
            target="naf_hub_naf.model:NAF",
            options={"locality": 1.5},
            parameters=662_528,
            paper=PAPER,
            weights={"default": LOCAL, "naf": WEIGHTS["default"], "official": WEIGHTS["official"]},
            trainable=True,
        )
    )
    register(
        UpsamplerRecord(
            name="naf_plus_plus",
            summary="NAF with 768 guidance channels and five blocks per branch (14.8 M parameters).",
            target="naf_hub_naf.model:NAF",
            options={"dim": 768, "num_blocks": 5},
            parameters=14_780_928,
            paper=PAPER,
            trainable=True,
        )
    )


@hookimpl
def register_restorers(register):
    register(
        RestorerRecord(
            name="naf_denoiser",
            summary="NAF at ratio 1: noisy pixels averaged over windows of 15 x 15, by weights from the image.",
            target="naf_hub_naf.denoiser:NAFDenoiser",
            parameters=662_528,
            paper=PAPER,
            weights=DENOISER_WEIGHTS,
            degradations="Gaussian and salt-and-pepper noise, by its training",
            trainable=True,
        )
    )


@hookimpl
def register_commands(cli: click.Group) -> None:
    from .attention_command import attention_command

    cli.add_command(attention_command)
