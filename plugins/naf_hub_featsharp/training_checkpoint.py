"""What FeatSharp's training saves, as plain weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

ORIGINAL = ".parametrizations.weight.original"
PARTS = ".parametrizations.weight.0."


# Parts of the training around the upsampler, which change what it sees.
AROUND = ("normalizer.", "bias_buffer.", "cond_bias_transform.")


def own_name(name: str) -> str:
    """A checkpoint's name without what it is wrapped in."""
    name = name.removeprefix("module.").removeprefix("upsampler.")
    return name.replace(".jafar.upsampler.", ".jafar.")


def collapsed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose weights are held by their spectral norm, with plain weights instead.

    A block of rows is ``W s / (u W v + 1e-6)``, with s a learned factor: ``softplus(s) + 0.05`` since version 2.
    """
    plain = {k: v for k, v in state.items() if ".parametrizations." not in k}
    for name, weight in state.items():
        if not name.endswith(ORIGINAL):
            continue
        layer = name.removesuffix(ORIGINAL)
        prefix = layer + PARTS
        held = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        count = len({k.split(".")[1] for k in held if k.startswith("parts.")})
        blocks = [
            _collapsed_block(block, {k.removeprefix(f"parts.{i}."): v for k, v in held.items()})
            for i, block in enumerate(weight.chunk(max(1, count)))
        ]
        plain[f"{layer}.weight"] = torch.cat(blocks)
    return plain


def _collapsed_block(weight: Tensor, held: Mapping[str, Tensor]) -> Tensor:
    scale = held["sn_scale"]
    if "_sn_version" in held and int(held["_sn_version"]) >= 2:
        scale = F.softplus(scale) + 0.05
    return weight * scale / (held["_u"].flatten() @ weight @ held["_v"].flatten() + 1e-6)
