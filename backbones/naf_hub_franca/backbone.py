"""Franca as a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from naf_hub import Backbone, ForeignWeights, Want, WeightsError
from naf_hub.interfaces import Shape, Step
from naf_hub.parts.transformer_maps import transformer_maps
from naf_hub.weights.fill import check_plan

from .keys import rasa_layers, split
from .rasa import RasaHead
from .transformer import PATCH, FrancaTransformer, table_side


class Franca(Backbone, ForeignWeights):
    """Dense features of Franca: (B, 3, H, W) in [0, 1] to (B, embed_dim, H/14, W/14).

    Sides that are no multiple of 14 are resized as :class:`naf_hub.Backbone` says. Features are the patch
    tokens after the final norm (Franca, https://arxiv.org/abs/2507.14137); with ``rasa``, the RASA head then removes
    what they say about position. That is the default, as it is what the authors recommend and what NAF's
    experiments use; weights published without a head (the 224-pixel ones) are loaded with ``rasa=False``.

    Args:
        embed_dim, depth, num_heads: channels C, blocks, attention heads.
        img_size: pixels of the square image the position table belongs to, a multiple of 14. Other images get
            resampled positions; loading weights adopts the size of their table.
        rasa: whether to apply the RASA head.
        rasa_layers: planes it removes besides its last; loading weights adopts their number.

    Raises:
        ValueError: ``img_size`` is no positive multiple of 14, or ``embed_dim`` none of ``num_heads``.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        *,
        img_size: int = 518,
        rasa: bool = True,
        rasa_layers: int = 8,
    ) -> None:
        if img_size < PATCH or img_size % PATCH:
            raise ValueError(f"img_size must be a positive multiple of {PATCH} pixels, got {img_size}")
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}")
        super().__init__(embed_dim=embed_dim, patch_size=PATCH)
        self.model = FrancaTransformer(embed_dim, depth, num_heads, img_size)
        self.rasa_head = RasaHead(embed_dim, rasa_layers) if rasa else None

    def extract(self, image: Tensor) -> Tensor:
        """(B, embed_dim, H/14, W/14) of a normalised (B, 3, H, W) image, H and W multiples of 14."""
        maps = self.model.forward_intermediates(
            image, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        features = cast("list[Tensor]", maps)[0]
        return features if self.rasa_head is None else self.rasa_head(features)

    def extract_maps(self, image: Tensor, wants: Sequence[Want]) -> tuple[Tensor, ...]:
        """See :meth:`naf_hub.Backbone.extract_maps`: every kind of map of every block.

        The RASA head, where there is one, follows the last block's normed tokens only.
        """
        blocks: list[Any] = list(cast("Any", self.model.blocks))
        return transformer_maps(
            type(self).__name__,
            lambda: self.extract(image),
            wants,
            blocks=blocks,
            attentions=[block.attn for block in blocks],
            final_norm=cast("Any", self.model.norm),
            prefix=self.model.num_prefix_tokens,
            class_token=True,
            grid=(image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size),
        )

    def plan_weights(self, shapes: Mapping[str, Shape]) -> dict[str, Step]:
        """For a file in the released key layout, or one of this class; see :class:`naf_hub.ForeignWeights`.

        The keys of the RASA file go beside those of the backbone, with or without a ``rasa_head.`` prefix. The size
        of the position table and the number of RASA layers follow the weights; training heads are left out, and
        so is a RASA head this model was made without.

        Raises:
            WeightsError: names missing, unexpected and misshapen keys; or the weights have no RASA head.
        """
        transformer, rasa, self.rasa_head, self.model.pos_embed = self._suited(shapes)
        plan: dict[str, Step] = {}
        if self.rasa_head is not None:
            steps: dict[str, Step] = {key: (name, None) for key, name in rasa.items()}
            check_plan(self.rasa_head, steps, shapes, "Franca RASA head weights")
            plan |= {f"rasa_head.{key}": step for key, step in steps.items()}
        steps = {key: (name, None) for key, name in transformer.items()}
        check_plan(self.model, steps, shapes, "Franca weights")
        return plan | {f"model.{key}": step for key, step in steps.items()}

    def _suited(
        self, shapes: Mapping[str, Shape]
    ) -> tuple[dict[str, str], dict[str, str], RasaHead | None, nn.Parameter]:
        """What to read for transformer and RASA head, and a head and a table of positions of fitting size."""
        transformer, rasa = split(shapes)
        head = self.rasa_head
        if head is not None:
            if not rasa:
                raise WeightsError(
                    "Franca weights have no RASA head (missing rasa_head.pos_pred.weight): load them with rasa=False, "
                    "or put the keys of the published RASA file beside them"
                )
            like = head.pos_pred.weight
            with torch.device(like.device):
                head = RasaHead(self.embed_dim, rasa_layers(rasa)).to(like.dtype).train(self.training)
        table = self.model.pos_embed
        assert table is not None
        if "pos_embed" in transformer:
            shape = shapes[transformer["pos_embed"]]
            if len(shape) != 3 or not table_side(shape[1]):
                wanted = f"(1, 1 + M * M, {self.embed_dim})"
                raise WeightsError(f"Franca weights: pos_embed has shape {shape}, expected {wanted}")
            if shape[1] != table.shape[1]:
                empty = table.new_empty(1, shape[1], self.embed_dim)
                table = nn.Parameter(empty, requires_grad=table.requires_grad)
        return transformer, rasa, head, table
