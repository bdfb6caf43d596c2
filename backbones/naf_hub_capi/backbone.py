"""CAPI as a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from naf_hub import Backbone, ForeignWeights, Want
from naf_hub.interfaces import Shape, Step
from naf_hub.parts.transformer_maps import transformer_maps
from naf_hub.weights.fill import check_plan

from .encoder import PATCH, REGISTERS, Encoder

RELEASED = "backbone."  # published files hold training state beside it
OWN = "model."
# Parts of the published backbone that dense features do not need.
UNUSED = ("decoder.", "mask_token")


def sources(names: Iterable[str]) -> dict[str, str]:
    """Key of :class:`~naf_hub_capi.encoder.Encoder` -> which of ``names`` holds it."""
    found = {name: name for name in names}
    for prefix in (RELEASED, OWN):
        inner = {key.removeprefix(prefix): name for key, name in found.items() if key.startswith(prefix)}
        found = inner or found
    return {key: name for key, name in found.items() if not key.startswith(UNUSED)}


class Capi(Backbone, ForeignWeights):
    """Dense features of CAPI: (B, 3, H, W) in [0, 1] to (B, embed_dim, H/14, W/14).

    Sides that are no multiple of 14 are resized as :class:`naf_hub.Backbone` says. Features are the patch tokens
    after the final norm ("Cluster and Predict Latent Patches for Improved Masked Image Modeling",
    https://arxiv.org/abs/2502.08769). Positions are rotary and relative to the image's extent, so any size works.

    Args:
        embed_dim, depth, num_heads: channels C, blocks, attention heads; ``embed_dim / num_heads`` must be a
            multiple of 4.

    Raises:
        ValueError: it is not.
    """

    def __init__(self, embed_dim: int = 1024, depth: int = 24, num_heads: int = 16) -> None:
        if embed_dim % (4 * num_heads):
            raise ValueError(f"embed_dim {embed_dim} must be a multiple of 4 * num_heads = {4 * num_heads}")
        super().__init__(embed_dim=embed_dim, patch_size=PATCH)
        self.model = Encoder(embed_dim, depth, num_heads)

    def extract(self, image: Tensor) -> Tensor:
        """(B, embed_dim, H/14, W/14) of a normalised (B, 3, H, W) image, H and W multiples of 14."""
        tokens = self.model(image)[:, REGISTERS:]
        return tokens.transpose(1, 2).unflatten(2, (image.shape[-2] // PATCH, image.shape[-1] // PATCH))

    def extract_maps(self, image: Tensor, wants: Sequence[Want]) -> tuple[Tensor, ...]:
        """See :meth:`naf_hub.Backbone.extract_maps`: every block's tokens, queries, keys and values; no class token."""
        blocks: list[Any] = list(self.model.encoder.blocks)
        return transformer_maps(
            type(self).__name__,
            lambda: self.extract(image),
            wants,
            blocks=blocks,
            attentions=[block.residual1.fn for block in blocks],
            final_norm=self.model.final_norm,
            prefix=REGISTERS,
            class_token=False,
            grid=(image.shape[-2] // PATCH, image.shape[-1] // PATCH),
        )

    def plan_weights(self, shapes: Mapping[str, Shape]) -> dict[str, Step]:
        """For a file in the published key layout, or one of this class; see :class:`naf_hub.ForeignWeights`.

        Of a published file the keys under ``backbone.`` are taken, all else in it being training state; the decoder
        and the mask token are left out.

        Raises:
            WeightsError: names missing, unexpected and misshapen keys.
        """
        plan: dict[str, Step] = {key: (name, None) for key, name in sources(shapes).items()}
        check_plan(self.model, plan, shapes, "CAPI weights")
        return {OWN + key: step for key, step in plan.items()}
