"""NAF as a denoiser: the upsampler's network at ratio 1, the noisy pixels as values (arXiv 2511.18452, section 6)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from naf_hub import Normalize, Restorer
from naf_hub.parts.budget import parse_bytes
from naf_hub.parts.precision import autocast_off

from .attention import CrossScaleAttention
from .encoder import GuidanceEncoder, needs_gradient
from .guidance_rows import GuidanceRows
from .pixel_attention import attend, pixel_attention
from .rope import RoPE

MEMORY = 5 * 2**29  # bytes


class NAFDenoiser(Restorer):
    """Average the noisy pixels of a window around each pixel, with weights that come from the image.

    The noisy image is encoded to guidance features, which are both queries and keys of one attention head; the values
    are the noisy pixels. A restored pixel is a convex combination of noisy ones, so it stays in their range. Defaults
    are the paper's configuration (662,528 parameters); state dicts have the keys of the published model, whose
    ``image_encoder.rope.periods`` tells ``rope_heads``.

    Beyond what the published operator accepts: windows are clipped to images smaller than the kernel.

    Args:
        dim: guidance channels C; a multiple of 16 and of ``4 * rope_heads``.
        num_blocks: blocks per branch of the encoder.
        rope_heads: heads of the rotary encoding.
        kernel_size: pixels per side of the window, odd.
        rope_base: ratio of the slowest to the fastest rotary period.
        rope_rescale: range of the random coordinate factor in training (see :class:`~naf_hub_naf.rope.RoPE`).
        memory: what inference may take beside image and result, in bytes or as text such as ``"512MiB"``; by default
            2.5 GiB. Where the guidance of an image does not fit, the part that does not is computed again as
            often as it is needed: more than 2 megapixels take a fifth longer by default, more than 4 take two to
            three times as long. Results do not depend on it beyond rounding.

    Raises:
        ValueError: options that do not fit together.
    """

    def __init__(
        self,
        dim: int = 256,
        num_blocks: int = 2,
        rope_heads: int = 1,
        kernel_size: int = 15,
        rope_base: float = 100.0,
        rope_rescale: float = 2.0,
        memory: int | str = MEMORY,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        self.kernel_size = kernel_size
        self.memory = parse_bytes(memory)
        self.normalize = Normalize()
        self.image_encoder = GuidanceEncoder(
            dim, num_blocks, rope=RoPE(dim, rope_heads, rope_base, rope_rescale)
        )

    def restore(self, image: Tensor) -> Tensor:
        guide = self.normalize(image).to(self.image_encoder.encoder.stem.weight.dtype)
        if self._streams(guide):
            with torch.no_grad():
                return torch.stack([self._stream(g, v) for g, v in zip(guide.split(1), image, strict=True)])
        queries = self.queries(guide)
        with autocast_off(image.device):
            values = image.permute(0, 2, 3, 1).to(queries.dtype)
            if (
                torch.compiler.is_compiling()
            ):  # a graph of few products, where the loops of ours would be unrolled
                restored = CrossScaleAttention(
                    queries, queries, values, heads=1, kernel_size=self.kernel_size, memory=self.memory
                ).output()
            else:
                restored = pixel_attention(queries, values, self.kernel_size)
        return restored.permute(0, 3, 1, 2).to(image.dtype)

    def queries(self, guide: Tensor) -> Tensor:
        """Queries and keys (B, H, W, C), at least float32, of an ImageNet-normalised image (B, 3, H, W)."""
        maps = self.image_encoder(guide, (guide.shape[-2], guide.shape[-1])).permute(0, 2, 3, 1)
        with autocast_off(guide.device):
            return self.rope(maps, overwrite=not maps.requires_grad)

    @property
    def rope(self) -> RoPE:
        """What turns guidance into queries."""
        return cast("RoPE", self.image_encoder.rope)

    def _streams(self, guide: Tensor) -> bool:
        """Whether to work in rows; the random rotation of a model in training is drawn for a whole map."""
        if torch.compiler.is_compiling() or self.training or needs_gradient(self.image_encoder, guide):
            return False
        if torch.is_autocast_enabled(guide.device.type):
            return False
        return guide.dtype in (torch.float32, torch.float64)

    def _stream(self, guide: Tensor, image: Tensor) -> Tensor:
        """One image (3, H, W), a strip of rows at a time, from its normalised copy (1, 3, H, W)."""
        height = image.shape[1]
        window = min(self.kernel_size, height)
        guidance = GuidanceRows.within(self.image_encoder, guide, self.memory)
        values = image.permute(1, 2, 0).to(guide.dtype)
        restored = torch.empty_like(values)
        maps, top, made = values.new_empty(1, 0, values.shape[1], self.image_encoder.width * 2), 0, 0
        for start in range(0, height, guidance.step):
            stop = min(start + guidance.step, height)
            # What the windows of these rows cover; the strip before has made a part of it.
            first = max(0, min(start - window // 2, height - window))
            last = min(height, max(stop + window // 2, window))
            maps, top = maps[:, first - top :], first
            if last > made:
                added = self.rope(guidance.rows(made, last), overwrite=True, within=(made, height))
                maps, made = torch.cat([maps, added], dim=1), last
            wanted = range(start - first, stop - first)
            restored[start:stop] = attend(maps, values[None, first:last], self.kernel_size, wanted)[0]
        return restored.permute(2, 0, 1).to(image.dtype)
