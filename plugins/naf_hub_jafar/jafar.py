"""JAFAR: features at any resolution by attention (Couairon, Chambon et al., NeurIPS 2025, arXiv 2506.11136)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import ForeignWeights, Normalize, Promises, Upsampler
from naf_hub.interfaces import Shape, Step
from naf_hub.parts.budget import parse_bytes, working_memory
from naf_hub.records import IMAGENET_MEAN, IMAGENET_STD

from .averaged_attention import CrossDecoder
from .residual_encoder import GROUPS, LearnedRotation, ReflectedConv, pooled, residual_encoder

# The parts of a residual block in published files, and here.
BLOCK = {"norm1": "block.0", "conv1": "block.2", "norm2": "block.3", "conv2": "block.5"}


class JAFAR(ForeignWeights, Upsampler):
    """Upsample the features of one backbone by attention with queries of the image and keys of image and features.

    Each output pixel attends to all feature cells; the heads' weights are averaged, and the values are the features
    themselves, so every output is a convex combination of them. Defaults are the released configuration, which has
    529,792 + 257 C parameters (628,480 for the paper's C = 384), 66,176 of them in parts of the published state that
    nothing uses for C = 384.

    Normalisations take statistics of the whole image, and the rotation knows where in it a pixel is: parts of an image
    by themselves give other results. Beyond what the published code accepts: a CPU, half precision, grids and image
    sides of one cell.

    Args:
        channels: feature channels C that it is made for; filled in where a backbone is named.
        qk_dim: channels D of queries and keys; a multiple of 8 and of ``num_heads``.
        kernel_size: of the image encoder's first convolution, odd.
        num_heads: attention heads.
        mean, std: of the image's normalisation. Weights were trained with those of their backbone; where a record
            names the weights it says so, else pass them.
        memory: working memory to keep to in attention, in bytes or as text such as ``"512MiB"``; by default 64 MiB on
            CPUs and 2 GiB elsewhere. Inputs, output, and four maps of ``qk_dim`` channels in the size of the image or
            two in that of the output, come on top. Results do not depend on it beyond rounding.

    Raises:
        ValueError: options that do not fit together; or, when called, features of another number of channels.
    """

    promises = Promises(range=True, open_sizes=True)

    def __init__(
        self,
        channels: int | None = None,
        qk_dim: int = 128,
        kernel_size: int = 1,
        num_heads: int = 4,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        memory: int | str | None = None,
    ) -> None:
        super().__init__()
        if channels is None:
            raise ValueError(
                "JAFAR is made for a number of feature channels: name a backbone, or pass channels="
            )
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if qk_dim < 1 or qk_dim % GROUPS:
            raise ValueError(f"qk_dim must be a positive multiple of {GROUPS}, got {qk_dim}")
        if num_heads < 1 or qk_dim % num_heads:
            raise ValueError(f"num_heads must divide qk_dim, got qk_dim={qk_dim}, num_heads={num_heads}")
        self.channels = channels
        self.memory = None if memory is None else parse_bytes(memory)
        self.normalize = Normalize(mean, std)
        self.image_encoder = residual_encoder(ReflectedConv(3, qk_dim, kernel_size), qk_dim, qk_dim)
        self.key_encoder = residual_encoder(ReflectedConv(qk_dim, qk_dim, 1), qk_dim, qk_dim)
        self.query_encoder = residual_encoder(ReflectedConv(qk_dim, qk_dim, 1), qk_dim, qk_dim)
        self.key_features_encoder = residual_encoder(ReflectedConv(channels, qk_dim, 1), qk_dim, qk_dim)
        self.sft_key = Modulation(qk_dim)
        self.cross_decode = CrossDecoder(qk_dim, num_heads, channels)
        self.rope = LearnedRotation(qk_dim)

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return self.filter(self.normalize(image), features, output_size)

    def filter(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        """As :meth:`forward`, for an image that is already normalised by its backbone's mean and deviation."""
        queries, image_keys = self.guidance(image, output_size, (features.shape[-2], features.shape[-1]))
        memory = working_memory(self.memory, image.device.type)
        return self.cross_decode(queries, self.keys(image_keys, features), features, memory=memory)

    def guidance(
        self, image: Tensor, output_size: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """What is read from a normalised image: queries (B, D, H, W), and the image's part of the keys (B, D, h, w)."""
        maps = self.rope(self.image_encoder(image.to(self.rope.freqs.dtype)))
        keys = pooled(self.key_encoder(maps), grid)
        return F.group_norm(pooled(self.query_encoder(maps), output_size), GROUPS), keys

    def keys(self, image_keys: Tensor, features: Tensor) -> Tensor:
        """Keys (B, D, h, w) of both."""
        unit = F.normalize(features.to(self.rope.freqs.dtype), dim=1)
        return self.sft_key(image_keys, self.key_features_encoder(unit))

    def plan_weights(self, shapes: Mapping[str, Shape]) -> Mapping[str, Step] | None:
        """The authors' names, also as NAF's authors have them, and this model's own."""
        return {_own_name(name): (name, None) for name in shapes}


class Modulation(nn.Module):
    """Scale and shift a map, normalised by GroupNorm, by two pointwise convolutions of another (section 3.1).

    Args:
        dim: channels of both.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Conv2d(dim, dim, 1, bias=False)
        self.beta = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, maps: Tensor, by: Tensor) -> Tensor:
        """Modulate (B, D, h, w) ``by`` (B, D, h, w)."""
        return self.gamma(by) * F.group_norm(maps, GROUPS) + self.beta(by)


def _own_name(name: str) -> str:
    """``key_encoder.1.norm1.weight`` is ``key_encoder.1.block.0.weight`` here."""
    encoder, *parts = name.split(".")
    if len(parts) == 3 and parts[1] in BLOCK:
        parts[1] = BLOCK[parts[1]]
    return ".".join((encoder, *parts))
