"""RASA: removing the directions of feature space that encode position (Franca, section 3.4)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class RasaHead(nn.Module):
    """Projects ``layers + 1`` planes out of the channels, one after the other.

    Each plane was found by training a linear map to predict a patch's position from its feature; what lies in
    that plane is removed before the next is sought. Parameters are named as in the released files.

    Args:
        embed_dim: channels C.
        layers: planes besides the last one, ``pos_pred``: 8 or 9 in the released files.
    """

    def __init__(self, embed_dim: int, layers: int = 8) -> None:
        super().__init__()
        self.pre_pos_layers = nn.ModuleList(nn.Linear(embed_dim, 2, bias=False) for _ in range(layers))
        self.pos_pred = nn.Linear(embed_dim, 2, bias=False)

    def planes(self) -> Tensor:
        """(layers + 1, 2, C): an orthonormal basis of each plane, in at least single precision."""
        layers = [cast("nn.Linear", layer) for layer in (*self.pre_pos_layers, self.pos_pred)]
        weight = torch.stack([layer.weight for layer in layers])
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        u, v = (weight / weight.norm(dim=-1, keepdim=True)).unbind(1)
        v = v - (v * u).sum(-1, keepdim=True) * u
        return torch.stack([u, v / v.norm(dim=-1, keepdim=True)], dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) patch features after the final norm, to the same shape."""
        for plane in self.planes().to(features.dtype).unbind():
            inside = torch.einsum("pc,bchw->bphw", plane, features)
            features = features - torch.einsum("pc,bphw->bchw", plane, inside)
        return features
