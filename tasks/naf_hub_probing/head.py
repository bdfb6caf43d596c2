"""The linear head, and its class scores at label resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Upsampler
from naf_hub.interfaces import Features
from naf_hub.parts.linear_groups import project_groups

HeadWeights = tuple[Tensor, Tensor]
"""Weight (K, C) and bias (K,) of a head, acting on raw features."""


class LinearHead(nn.Module):
    """A 1x1 convolution with bias, by PyTorch's default initialisation, the same for the same seed.

    Args:
        channels: C of the features.
        classes: K.
        seed: of the initialisation; the global random state is left alone.
        moments: per-channel mean and standard deviation (C,) of the training features: the head then
            learns on standardised features, and :meth:`folded` gives the head for raw ones.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, classes: int, *, seed: int = 0, moments: tuple[Tensor, Tensor] | None = None
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(channels, classes, 1)
        mean, std = moments if moments is not None else (torch.zeros(channels), torch.ones(channels))
        # A channel that is constant on the training set would be blown up by its rounding noise.
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", torch.where(std > 1e-6, std, 1.0).float())

    def folded(self) -> HeadWeights:
        """Weight (K, C) and bias (K,) for raw features, differentiable.

        With standardisation these are W / std and b - (W / std) mean: the same scores, and for upsamplers
        whose weights sum to one also those of standardising before upsampling.
        """
        weight = self.conv.weight[:, :, 0, 0] / self.std
        assert self.conv.bias is not None
        return weight, self.conv.bias - weight @ self.mean

    def forward(self, features: Tensor) -> Tensor:
        """Class scores (B, K, H, W) of features (B, C, H, W)."""
        weight, bias = self.folded()
        return F.conv2d(features, weight[:, :, None, None], bias)


def upsampled_scores(
    upsampler: Upsampler,
    image: Tensor,
    features: Features,
    size: tuple[int, int],
    heads: Sequence[HeadWeights],
) -> Iterator[Tensor]:
    """Class scores of each head on upsampled features: (B, K, H, W) with (H, W) = ``size``, in turn.

    Where the upsampler is linear in one map of features (it promises ``linear_groups``), the head and the
    upsampling commute: the low-resolution scores of each channel group are upsampled and summed, K channels a
    group in place of C. All heads share one call of the upsampler, whichever way takes fewer channels. The scores
    are differentiable in the heads.
    """
    groups = upsampler.promises.linear_groups
    rows = sum(len(weight) for weight, _ in heads)
    # Of several maps nothing says which one the head could be moved before.
    if groups is None or not isinstance(features, Tensor) or groups * rows >= features.shape[1]:
        with torch.no_grad():  # the heads do not reach back through the features
            upsampled = upsampler(image, features, size)
        for weight, bias in heads:
            yield F.conv2d(upsampled, weight[:, :, None, None], bias)
        return
    stacked = torch.cat([weight for weight, _ in heads])
    low = project_groups(features, stacked, groups)
    scores = upsampler(image, low, size).unflatten(1, (groups, rows)).sum(1)
    parts = scores.split([len(weight) for weight, _ in heads], dim=1)
    for part, (_, bias) in zip(parts, heads, strict=True):
        yield part + bias[:, None, None]
