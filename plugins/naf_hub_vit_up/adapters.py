"""Low-rank adapters of a vision transformer, and the transformer with them (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from naf_hub import Backbone, MapError
from naf_hub.parts.precision import without_autocast, working_dtype

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


class LowRank(nn.Module):
    """What is added to a weight (out, *inputs): ``scale B A``; nothing at first."""

    def __init__(self, shape: tuple[int, ...], rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.lora_A = nn.Parameter(torch.randn(rank, *shape[1:]) / rank)
        self.lora_B = nn.Parameter(torch.zeros(shape[0], rank, *(1 for _ in shape[2:])))

    def forward(self, weight: Tensor) -> Tensor:
        """``weight`` with it, in its dtype."""
        return _added(weight, self.lora_A, self.lora_B, self.scale)


class Adapters(nn.Module):
    """Those of a patch embedding, and of the four projections of each block's attention.

    Args:
        dim: channels.
        depth: blocks.
        patch: side of a patch in pixels.
        rank: of what is added.
        alpha: it is scaled by ``alpha / rank``.
    """

    def __init__(self, dim: int, depth: int, patch: int, rank: int, alpha: float) -> None:
        super().__init__()
        scale = alpha / rank
        self.patch_embeddings = LowRank((dim, 3, patch, patch), rank, scale)
        self.layer = nn.ModuleList(
            nn.ModuleDict({name: LowRank((dim, dim), rank, scale) for name in PROJECTIONS})
            for _ in range(depth)
        )

    def adapt(self, backbone: nn.Module) -> Any:
        """The same backbone with its adapters merged; everything else is shared with the one given, which stays as
        it is.

        Raises:
            MapError: it is no vision transformer of these sizes with timm's names.
        """
        self._check(backbone)
        tensors = [*backbone.parameters(), *backbone.buffers()]
        twin: Any = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})
        _replace(twin.model.patch_embed.proj, self.patch_embeddings(twin.model.patch_embed.proj.weight))
        for block, layer in zip(twin.model.blocks, self.layer, strict=True):
            assert isinstance(layer, nn.ModuleDict)
            attention = block.attn
            _replace(attention.proj, layer["o_proj"](attention.proj.weight))
            if attention.qkv is None:
                for name in PROJECTIONS[:3]:
                    projection = getattr(attention, name)
                    _replace(projection, layer[name](projection.weight))
                continue
            thirds = zip(PROJECTIONS, attention.qkv.weight.chunk(3), strict=False)
            _replace(attention.qkv, torch.cat([layer[name](third) for name, third in thirds]))
        return twin

    def _check(self, backbone: nn.Module) -> None:
        network: Any = getattr(backbone, "model", None)
        try:
            found = (len(network.blocks), tuple(network.patch_embed.proj.weight.shape))
            fits = all(block.attn.proj.weight.shape for block in network.blocks)
        except AttributeError:
            found, fits = (), False
        wanted = (
            len(self.layer),
            (self.patch_embeddings.lora_B.shape[0], *self.patch_embeddings.lora_A.shape[1:]),
        )
        if not (isinstance(backbone, Backbone) and fits and found == wanted):
            depth, (dim, _, side, _) = wanted
            raise MapError(
                f"vit_up changes weights inside its backbone, a vision transformer of timm's with {depth} blocks of "
                f"{dim} channels and patches of {side} pixels; {type(backbone).__name__} is none"
            )


@without_autocast
def _added(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    dtype = working_dtype(weight.dtype)
    low = b.flatten(1).to(dtype) @ a.flatten(1).to(dtype)
    return (weight.to(dtype) + scale * low.view(weight.shape)).to(weight.dtype)


def _replace(module: Any, weight: Tensor) -> None:
    """Give a module of the twin's a weight that gradients go through."""
    del module.weight
    module.weight = weight
