"""Encoder and attention as operators of graphs that torch.compile makes for CPUs, where nothing is kept for backward.

Inside of an operator nothing is traced. Traced, convolutions are those of whole maps, while the strips of
:mod:`.strips` stay in cache and take half of the products; and attention at sizes that a graph leaves open has indices
for plans. With operators a compiled call is as fast as one that is not. Maps are whole, whatever ``memory=`` says of
guidance by rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import CrossScaleAttention
from .encoder import GuidanceEncoder
from .strips import stream_guidance


def guidance_in_graph(encoder: GuidanceEncoder, image: Tensor, output_size: tuple[int, int]) -> Tensor:
    """What :func:`naf_hub_naf.strips.stream_guidance` returns."""
    branches = encoder.branches
    return _guidance(
        image,
        *output_size,
        [weight for branch in branches for weight in branch.parameters()],
        "dual" if len(branches) == 2 else "pixel",
        len(branches[0].blocks),
        any(block.residual for block in branches[0].blocks),
    )


@torch.library.custom_op(
    "naf_hub_naf::guidance",
    mutates_args=(),
    schema="(Tensor image, SymInt height, SymInt width, Tensor[] weights, str kind, int blocks, bool residual)"
    " -> Tensor",
)
def _guidance(
    image: Tensor, height: int, width: int, weights: list[Tensor], kind: str, blocks: int, residual: bool
) -> Tensor:
    with torch.device("meta"):
        encoder = GuidanceEncoder(_channels(weights, kind), blocks, kind, residual)
    for name, weight in zip([name for name, _ in encoder.named_parameters()], weights, strict=True):
        owner, _, own = name.rpartition(".")
        setattr(encoder.get_submodule(owner), own, nn.Parameter(weight.detach(), requires_grad=False))
    return stream_guidance(encoder, image, (height, width))


@_guidance.register_fake
def _(image: Tensor, height: int, width: int, weights: list[Tensor], kind: str, *_: object) -> Tensor:
    channels = _channels(weights, kind)
    return image.new_empty(image.shape[0], height, width, channels).permute(0, 3, 1, 2)


def _channels(weights: list[Tensor], kind: str) -> int:
    """Of the guidance: as many as the stems of the branches make."""
    return weights[0].shape[0] * (2 if kind == "dual" else 1)


@torch.library.custom_op(
    "naf_hub_naf::attention",
    mutates_args=(),
    schema="(Tensor queries, Tensor keys, Tensor values, int heads, int kernel_size, int memory, float? locality)"
    " -> Tensor",
)
def attention_in_graph(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    heads: int,
    kernel_size: int,
    memory: int,
    locality: float | None,
) -> Tensor:
    """What :meth:`CrossScaleAttention.output <naf_hub_naf.attention.CrossScaleAttention.output>` returns."""
    attention = CrossScaleAttention(
        queries, keys, values, heads=heads, kernel_size=kernel_size, memory=memory, locality=locality
    )
    return attention.output().contiguous()


@attention_in_graph.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor, *_: object) -> Tensor:
    return values.new_empty(*queries.shape[:3], values.shape[-1])
