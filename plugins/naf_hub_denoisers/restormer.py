"""Restormer (Zamir et al., arXiv 2111.09881)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from naf_hub import Restorer
from naf_hub.parts.budget import parse_bytes

from .noise_predictor import MEMORY, pad_to_multiple
from .restormer_blocks import Block

MULTIPLE = 8  # three levels, each half as large as the one before


class _Down(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(dim, dim // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class _Up(nn.Module):
    """Twice the size, half the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(dim, dim * 2, 3, padding=1, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class _PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Restormer(Restorer):
    """A U-net of transformer blocks whose attention runs between channels; the result is added to the image.

    Defaults are the configuration of the NAF paper (26,126,644 parameters). State dicts have the published keys.
    Images whose sides are no multiples of 8 are padded by repeating their border, and since the attention looks at all
    pixels, that changes the result slightly everywhere.

    Args:
        dim: channels at full resolution, a multiple of 2 and of each level's heads.
        num_blocks: blocks of the four levels.
        num_refinement_blocks: blocks behind the decoder.
        heads: attention heads of the four levels.
        expansion: channels within feed-forward layers, over those outside.
        bias: of the convolutions within blocks, of the pointwise ones between levels and of the last.
        norm_bias: whether norms subtract the mean and add a bias.
        memory: what the insides of one block may take in inference, in bytes or as text such as ``"512MiB"``. The maps
            between blocks come on top: about twelve of ``dim`` channels at the image's size.
    """

    def __init__(
        self,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        expansion: float = 2.66,
        bias: bool = False,
        norm_bias: bool = True,
        memory: int | str = MEMORY,
    ) -> None:
        super().__init__()
        if len(num_blocks) != 4 or len(heads) != 4:
            raise ValueError(f"num_blocks and heads need four numbers each, got {num_blocks} and {heads}")
        widths = [dim, 2 * dim, 4 * dim, 8 * dim]
        if dim % 2 or any(width % count for width, count in zip(widths, heads, strict=True)):
            raise ValueError(
                f"dim must be even, and heads divide dim, 2 dim, 4 dim, 8 dim; got {dim} and {heads}"
            )
        budget = parse_bytes(memory)

        def level(count: int, width: int, head_count: int) -> nn.Sequential:
            return nn.Sequential(
                *(Block(width, head_count, expansion, bias, norm_bias, budget) for _ in range(count))
            )

        self.patch_embed = _PatchEmbed(dim)
        self.encoder_level1 = level(num_blocks[0], dim, heads[0])
        self.down1_2 = _Down(dim)
        self.encoder_level2 = level(num_blocks[1], 2 * dim, heads[1])
        self.down2_3 = _Down(2 * dim)
        self.encoder_level3 = level(num_blocks[2], 4 * dim, heads[2])
        self.down3_4 = _Down(4 * dim)
        self.latent = level(num_blocks[3], 8 * dim, heads[3])
        self.up4_3 = _Up(8 * dim)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = level(num_blocks[2], 4 * dim, heads[2])
        self.up3_2 = _Up(4 * dim)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = level(num_blocks[1], 2 * dim, heads[1])
        self.up2_1 = _Up(2 * dim)
        self.decoder_level1 = level(num_blocks[0], 2 * dim, heads[0])
        self.refinement = level(num_refinement_blocks, 2 * dim, heads[0])
        self.output = nn.Conv2d(2 * dim, 3, 3, padding=1, bias=bias)

    def restore(self, image: Tensor) -> Tensor:
        change = self._change(pad_to_multiple(image.to(self.output.weight.dtype), MULTIPLE))
        return image + change[..., : image.shape[-2], : image.shape[-1]].to(image.dtype)

    def _change(self, image: Tensor) -> Tensor:
        """What is to be added to an image whose sides are multiples of 8."""
        level1 = self.encoder_level1(self.patch_embed(image))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        x = self.up4_3(self.latent(self.down3_4(level3)))
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([x, level3], 1)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(x), level2], 1)))
        x = self.decoder_level1(torch.cat([self.up2_1(x), level1], 1))
        return self.output(self.refinement(x))
