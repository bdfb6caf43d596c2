"""RADIOv2.5 and C-RADIOv2 on timm's NaFlexVit (Heinrich et al. 2024, https://arxiv.org/abs/2412.07679)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from timm.layers import SwiGLUPacked
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from torch import Tensor, nn

from naf_hub import Backbone, ForeignWeights, Want
from naf_hub.interfaces import Shape, Step
from naf_hub.parts.transformer_maps import transformer_maps

from .records import MEAN, STD
from .released import is_released, prefix_and_scale, rearrange, sources


class InputConditioner(nn.Module):
    """``(image - norm_mean) / norm_std`` per RGB channel, for images in [0, 1]; the numbers belong to the weights."""

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("norm_mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("norm_std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.norm_mean.to(image.dtype)) / self.norm_std.to(image.dtype)


class Radio(Backbone, ForeignWeights):
    """Spatial features of a RADIO model: (B, 3, H, W) in [0, 1] to (B, embed_dim, H/patch_size, W/patch_size).

    A vision transformer with one class token per teacher, registers, and a large square table of positions, of
    which an image takes the top-left part after the table was resized to the image's longer side. Only tensors
    are read from NVIDIA's repositories; the code in them is never run.

    Args:
        embed_dim, depth, num_heads, patch_size: of the transformer.
        mlp_ratio: hidden channels of an MLP per channel.
        swiglu_width: hidden channels of gated MLPs (SwiGLU) instead of plain ones.
        prefix_tokens: class tokens and registers together.
        position_grid: side of the table of positions, in patches (maximum resolution over patch size).
        layer_scale: whether blocks scale their branches by learned factors.
        final_norm: whether a LayerNorm ends the model; it is applied.
        patch_bias: whether the patch embedding has a bias.
        align_corners: how the table is resized. NVIDIA's inference code did it with ``True`` until 28 June 2025
            and with ``False`` since (NVlabs/RADIO cb07f55), for the same weights; the copies of the code in their
            Hub repositories stayed as uploaded.
    """

    prefix_tokens: int
    layer_scale: bool

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        patch_size: int = 16,
        mlp_ratio: float = 4.0,
        swiglu_width: int | None = None,
        prefix_tokens: int = 8,
        position_grid: int = 128,
        layer_scale: bool = False,
        final_norm: bool = False,
        patch_bias: bool = False,
        align_corners: bool = False,
    ) -> None:
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}")
        if prefix_tokens < 1:
            raise ValueError(f"prefix_tokens must be at least 1 (the class token), got {prefix_tokens}")
        super().__init__(embed_dim, patch_size, MEAN, STD)
        self.normalize = InputConditioner()
        self.prefix_tokens = prefix_tokens
        self.layer_scale = layer_scale
        self.swiglu = swiglu_width is not None
        self.patch_bias = patch_bias
        gated: dict[str, Any] = {}
        if swiglu_width is not None:
            # timm's layer holds gate and value in one matrix, and its ratio counts both.
            mlp_ratio = 2 * swiglu_width / embed_dim
            gated = {"mlp_layer": cast("Any", SwiGLUPacked), "act_layer": "silu"}
        self.configuration: dict[str, Any] = {
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "patch_size": patch_size,
            "mlp_ratio": mlp_ratio,
            "final_norm": final_norm,
            "pos_embed_grid_size": (position_grid, position_grid),
            "pos_embed_align_corners": align_corners,
            **gated,
        }
        self.network = self._build(prefix_tokens, layer_scale)

    def _build(self, prefix_tokens: int, layer_scale: bool) -> NaFlexVit:
        network = NaFlexVit(
            NaFlexVitCfg(
                **self.configuration,
                class_token=True,
                reg_tokens=prefix_tokens - 1,
                init_values=1e-5 if layer_scale else None,
                global_pool="token",
                pos_embed_interp_mode="bilinear",
                pos_embed_ar_preserving=True,
                pos_embed_antialias=False,
            ),
            num_classes=0,
        )
        if not self.patch_bias:
            cast("nn.Linear", network.embeds.proj).register_parameter("bias", None)
        return network

    def extract(self, image: Tensor) -> Tensor:
        """(B, embed_dim, h, w) of a normalised image whose sides are multiples of ``patch_size``."""
        features = self.network.forward_intermediates(
            image, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return cast("list[Tensor]", features)[0]

    def extract_maps(self, image: Tensor, wants: Sequence[Want]) -> tuple[Tensor, ...]:
        """See :meth:`naf_hub.Backbone.extract_maps`: every kind of map of every block."""
        blocks: list[Any] = list(cast("Any", self.network.blocks))
        return transformer_maps(
            type(self).__name__,
            lambda: self.extract(image),
            wants,
            blocks=blocks,
            attentions=[block.attn for block in blocks],
            final_norm=cast("Any", self.network.norm),
            prefix=self.network.num_prefix_tokens,
            class_token=True,
            grid=(image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size),
        )

    def plan_weights(self, shapes: Mapping[str, Shape]) -> dict[str, Step]:
        """For NVIDIA's ``model.safetensors`` (keys ``radio_model.*``) or a state dict of this class; see
        :class:`naf_hub.ForeignWeights`.

        How many class tokens and registers there are is taken from the weights, and so is LayerScale where the
        model was built without, because the releases differ in both without saying so. Teacher heads, leftover
        tokens and feature normalisers, which the spatial features do without, are left out. All else is strict.

        Raises:
            WeightsError: names missing, unexpected and misshapen keys.
        """
        network, steps = self._suited(shapes)
        self.network = network
        self.prefix_tokens = network.num_prefix_tokens
        self.layer_scale = any(".ls1." in key for key in network.state_dict())
        return steps

    def _suited(self, shapes: Mapping[str, Shape]) -> tuple[NaFlexVit, dict[str, Step]]:
        """A network with the tokens and the LayerScale of the weights, and how to fill ``self`` with it."""
        tokens, scale = prefix_and_scale(shapes)
        tokens, scale = tokens or self.prefix_tokens, scale or self.layer_scale
        network = self.network
        if (tokens, scale) != (self.prefix_tokens, self.layer_scale):
            like = next(network.parameters())
            with torch.device(like.device):
                network = self._build(tokens, scale).to(like.dtype)
            network.requires_grad_(like.requires_grad).train(self.training)
        parts = {"network": network, "normalize": self.normalize}
        own = {
            f"{n}.{key}": tuple(v.shape) for n, part in parts.items() for key, v in part.state_dict().items()
        }
        names = sources(shapes, own, prefix_tokens=tokens, swiglu=self.swiglu)
        released = is_released(shapes)
        return network, {
            key: (name, functools.partial(rearrange, key, own[key]) if released else None)
            for key, name in names.items()
        }
