"""NAF: neighborhood attention filtering (Chambon et al., arXiv 2511.18452)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Normalize, Promises, Upsampler
from naf_hub.checks import check_features, check_image, check_output_size, warn_caller
from naf_hub.flops import Flops
from naf_hub.parts.budget import parse_bytes, working_memory
from naf_hub.parts.onnx_tracing import is_for_onnx
from naf_hub.parts.precision import autocast_off, has_fast_half, map_dtype, working_dtype
from naf_hub.parts.sizes import are_equal, are_known, average_pool

from .any_size import attend_at_any_size
from .attention import CrossScaleAttention
from .encoder import GuidanceEncoder, needs_gradient
from .graph_operators import attention_in_graph, guidance_in_graph
from .guide import guide_size, shrink
from .map_memory import attention_memory, branch_bytes, guidance_bytes, maps_memory, rows_memory
from .onnx_graph import filter_maps
from .point_attention import attend_at
from .rope import RoPE
from .rows import assemble_guidance, fill_rows, stream_rows
from .spatial import DistanceWeight
from .strips import CACHE_STRIP, scratch_maps, stream_guidance
from .windows import AxisTiles

POOLINGS = ("average", "max", "bilinear", "average_conv")
PRECISIONS = ("fp32", "bf16")
SPATIAL = ("rope", "none", "gaussian", "manhattan")


class NAF(Upsampler):
    """Upsample features of any backbone by attention whose weights come from the image alone.

    The image is encoded to guidance features; each output pixel's query attends to keys pooled from the
    queries over a ``kernel_size`` x ``kernel_size`` window of feature cells, and the values are the
    features themselves, so every output is a convex combination of features, separately in each head's
    contiguous group of channels. Defaults are the released configuration (662,528 parameters), and
    ``load_state_dict`` takes a released state dict as it is.

    Beyond what the published operator accepts: windows are clipped to grids smaller than the kernel;
    channels that heads do not divide are split as ``torch.tensor_split`` does; where the output is
    smaller than the features on an axis, the features are first averaged to the output size on that axis
    (``adaptive_avg_pool2d``); an image side of one pixel is padded by replication.

    Args:
        dim: guidance channels C; a multiple of 16, of ``num_heads`` and (for RoPE) of ``4 * rope_heads``.
        num_blocks: blocks per branch of the encoder.
        num_heads: attention heads.
        rope_heads: heads of the rotary encoding.
        kernel_size: cells per side of the window, odd.
        rope_base: ratio of the slowest to the fastest rotary period.
        rope_rescale: range of the random coordinate factor in training (see :class:`RoPE`).
        residual: residual blocks (paper, table 6).
        pooling: queries to keys: ``"average"``, ``"max"``, ``"bilinear"``, or ``"average_conv"`` with a
            pointwise convolution behind (paper, table 7).
        spatial: ``"rope"``, ``"none"``, or scores weighted by distance: ``"gaussian"``, ``"manhattan"``
            (paper, table 7).
        locality: standard deviation, in feature cells, of a Gaussian of the distance between pixel and cell, whose
            logarithm is added to the scores; ``None``: the window alone bounds the distance, as published.
        encoder: ``"dual"``, or ``"pixel"`` for pointwise convolutions only (paper, table 6).
        memory: what inference may take beside inputs and output, in bytes or as text such as ``"512MiB"``, as far as
            keys, features and a few rows fit. Guidance that does not fit is made by rows, at three to four times the
            encoder's arithmetic. By default 6 GiB of guidance maps are held on CPUs, 16 GiB elsewhere, and the
            attention takes 64 MiB, 2 GiB elsewhere. Results do not depend on it beyond rounding.
        precision: ``"bf16"`` computes the encoder's convolutions in bfloat16, its statistics and the attention in
            float32, as autocast does; on processors without instructions for it, all in float32.
        guidance_scale: compute guidance from the image averaged to at most so many times the output's size;
            ``None``: at the image's size, which the published code shrinks to four times the output's.
        normalize: apply ImageNet's mean and standard deviation to the image, in [0, 1], inside; ``False`` for
            callers who have done so, as the authors' own module expects.

    Raises:
        ValueError: options that do not fit together.
    """

    def __init__(
        self,
        dim: int = 256,
        num_blocks: int = 2,
        num_heads: int = 4,
        rope_heads: int = 4,
        kernel_size: int = 9,
        rope_base: float = 100.0,
        rope_rescale: float = 2.0,
        residual: bool = False,
        pooling: str = "average",
        spatial: str = "rope",
        encoder: str = "dual",
        memory: int | str | None = None,
        normalize: bool = True,
        guidance_scale: int | None = None,
        precision: str = "fp32",
        locality: float | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads must divide dim, got dim={dim}, num_heads={num_heads}")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; got {pooling!r}")
        if spatial not in SPATIAL:
            raise ValueError(f"spatial must be one of {', '.join(SPATIAL)}; got {spatial!r}")
        if guidance_scale is not None and (not isinstance(guidance_scale, int) or guidance_scale < 1):
            raise ValueError(
                f"guidance_scale must be a whole number from 1 on or None, got {guidance_scale!r}"
            )
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
        if locality is not None and not locality > 0:
            raise ValueError(f"locality must be a positive number of cells or None, got {locality!r}")
        self.dim = dim
        self.locality = locality
        self.guidance_scale, self.precision = guidance_scale, precision
        self.num_heads = num_heads
        self.promises = Promises(linear_groups=num_heads, range=True, open_sizes=True)
        self.kernel_size = kernel_size
        self.pooling = pooling
        self.memory = None if memory is None else parse_bytes(memory)
        self.normalize = Normalize() if normalize else nn.Identity()
        self.takes_any_range = not normalize
        rope = RoPE(dim, rope_heads, rope_base, rope_rescale) if spatial == "rope" else None
        self.image_encoder = GuidanceEncoder(dim, num_blocks, encoder, residual, rope)
        if pooling == "average_conv":
            self.key_encoder = nn.Conv2d(dim, dim, 1)
        weighted = spatial in ("gaussian", "manhattan")
        self.distance = DistanceWeight(spatial, sigma=kernel_size / 4) if weighted else None

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return self.filter(self.normalize(image), features, output_size)

    def upsample_rows(
        self, image: Tensor, features: Tensor, output_size: tuple[int, int], rows: tuple[int, int]
    ) -> Iterator[Tensor]:
        guide = self._guide(image, output_size)
        if not self._may_go_by_rows(guide):
            return super().upsample_rows(image, features, output_size, rows)
        cells, memory = self._cells(features, output_size), rows_memory(self.memory, image.device.type)
        return stream_rows(self, guide, cells, output_size, rows, memory, self.normalize)

    def upsample_into(
        self, image: Tensor, features: Tensor, output_size: tuple[int, int], output: Tensor
    ) -> None:
        self.filter(self.normalize(image), features, output_size, output)

    def upsample_points(
        self, image: Tensor, features: Tensor, output_size: tuple[int, int], points: Tensor
    ) -> Tensor:
        normalized = self.normalize(image)
        if self._goes_by_rows(self._guide(normalized, output_size), features, output_size):
            return super().upsample_points(image, features, output_size, points)
        queries, keys, values = self.operands(normalized, features, output_size)
        with autocast_off(image.device):
            return attend_at(
                points,
                queries,
                keys,
                values,
                heads=self.num_heads,
                kernel_size=self.kernel_size,
                memory=attention_memory(self.memory, image.device.type),
                weight=self.distance,
                locality=self.locality,
            )

    def filter(
        self,
        image: Tensor,
        features: Tensor,
        output_size: tuple[int, int],
        output: Tensor | None = None,
    ) -> Tensor:
        """:meth:`forward` for an image that is already ImageNet-normalised.

        Args:
            image: (B, 3, H_img, W_img), ImageNet-normalised.
            features: (B, D, h, w).
            output_size: (H, W).
            output: a buffer (B, D, H, W) to write to.

        Returns:
            (B, D, H, W), channels last in memory; or the buffer.
        """
        into = None if output is None else output.permute(0, 2, 3, 1)
        guide = self._guide(image, output_size)
        if is_for_onnx() and self._is_exact(guide):
            return filter_maps(self, guide, self._cells(features, output_size), output_size)
        if self._goes_by_rows(guide, features, output_size):
            memory = rows_memory(self.memory, image.device.type)
            if into is None:
                into = features.new_empty(len(image), *output_size, features.shape[1])
            fill_rows(self, guide, self._cells(features, output_size), output_size, into, memory)
            return into.permute(0, 3, 1, 2)
        queries, keys, values = self.operands(image, features, output_size)
        kept = torch.is_grad_enabled() and features.requires_grad
        with autocast_off(image.device):
            if self._has_operators(guide) and self.distance is None and not kept:
                memory = attention_memory(self.memory, queries.device.type)
                result = attention_in_graph(
                    queries, keys, values, self.num_heads, self.kernel_size, memory, self.locality
                )
                result = result if into is None else into.copy_(result)
            elif not are_known(*queries.shape[1:3], *keys.shape[1:3]):
                result = attend_at_any_size(
                    queries, keys, values, self.num_heads, self.kernel_size, self.distance, self.locality
                )
                result = result if into is None else into.copy_(result)
            else:
                result = self.attention(queries, keys, values).output(into)
        return result.permute(0, 3, 1, 2)

    def filter_with_logits(
        self, image: Tensor, features: Tensor, output_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """:meth:`filter`, and the attention logits of :meth:`attention_logits`."""
        queries, keys, values = self.operands(image, features, output_size)
        with autocast_off(image.device):
            output, logits = self.attention(queries, keys, values).output_and_logits()
        return output.permute(0, 3, 1, 2), logits

    def attention_logits(
        self,
        image: Tensor,
        features: Tensor | tuple[int, int],
        output_size: int | tuple[int, int] | None = None,
    ) -> Tensor:
        """Scaled scores before the softmax, as the published model returns them.

        Args:
            image: (B, 3, H_img, W_img), RGB in [0, 1].
            features: (B, D, h, w), or just (h, w): logits do not depend on the features.
            output_size: an int (square) or (H, W); default the image's size.

        Returns:
            (B, heads, H, W, k_y * k_x). Slot (i, j) of pixel (y, x) is the cell that
            :func:`naf_hub_naf.windows.window_slots` gives for row y, slot i and column x, slot j; near
            borders the middle slot is not the pixel's own cell.
        """
        check_image(image)
        if isinstance(features, Tensor):
            check_features(features, image)
        else:
            h, w = features
            features = image.new_zeros(len(image), self.num_heads, h, w)
        size = check_output_size(output_size, image)
        return self.filter_with_logits(self.normalize(image), features, size)[1]

    def guidance(self, image: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Guidance features (B, C, H, W) of an ImageNet-normalised image, before any position encoding.

        An image with a side of more than four times the output's is first shrunk (bilinear, not
        antialiased) to at most four times the *smaller* output side, as the published code does.
        """
        image = self._guide(image, output_size)
        encoder, device = self.image_encoder, image.device.type
        if self._has_operators(image):
            return guidance_in_graph(encoder, image, output_size)
        if not self._may_stream(image):
            half = self.precision == "bf16" and self._map_dtype(image) == torch.bfloat16
            with torch.autocast(device, torch.bfloat16) if half else nullcontext():
                return encoder(image, output_size)
        exact = self._is_exact(image)
        image = image.to(self._map_dtype(image))
        room = maps_memory(self.memory, device) - guidance_bytes(encoder, image, output_size)
        if exact and scratch_maps(encoder) * branch_bytes(encoder, image) > room:
            return assemble_guidance(encoder, image, output_size, max(1, room))
        strip = working_memory(self.memory, device) // (8 * image.element_size())
        strip = min(strip, CACHE_STRIP) if device == "cpu" else strip
        # In float32 or better even of maps in half precision: that is what queries are, and no copy is needed.
        return stream_guidance(encoder, image, output_size, strip, working_dtype(image.dtype))

    def _guide(self, image: Tensor, output_size: tuple[int, int]) -> Tensor:
        """The image as the encoder takes it: shrunk as :meth:`guidance` says, in its dtype."""
        return shrink(image, output_size, self.guidance_scale).to(
            self.image_encoder.encoder.stem.weight.dtype
        )

    def _goes_by_rows(self, guide: Tensor, features: Tensor, output_size: tuple[int, int]) -> bool:
        """Whether the guidance is never to be whole, for it would not fit."""
        if not self._may_go_by_rows(guide) or (torch.is_grad_enabled() and features.requires_grad):
            return False
        room = maps_memory(self.memory, guide.device.type)
        return guidance_bytes(self.image_encoder, guide, output_size) > room

    def _may_go_by_rows(self, guide: Tensor) -> bool:
        """Whether rows alone are what they are in the whole: keys are averages, and no scale of places is drawn."""
        averages = self.pooling in ("average", "average_conv")
        exact = self._may_stream(guide) and self._is_exact(guide)
        return averages and not self.training and exact

    def _may_stream(self, image: Tensor) -> bool:
        """Whether the encoder may work in strips: where nothing is kept for a backward pass."""
        return not (torch.compiler.is_compiling() or needs_gradient(self.image_encoder, image))

    def _has_operators(self, image: Tensor) -> bool:
        """Whether a graph has operators of ours: one that torch.compile makes for inference, and is not exported."""
        # Traced by PyTorch 2.8 every graph is one to export, and goes without.
        traced = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
        inference = image.device.type == "cpu" and not needs_gradient(self.image_encoder, image)
        return traced and inference and self._is_exact(image)

    def _is_exact(self, image: Tensor) -> bool:
        """Whether maps are in the precision of the weights, float32 or float64."""
        exact = image.dtype in (torch.float32, torch.float64)
        return exact and self._map_dtype(image) == image.dtype

    def _map_dtype(self, image: Tensor) -> torch.dtype:
        """The dtype of the encoder's maps."""
        if self.precision == "fp32":
            return map_dtype(image)
        if has_fast_half(torch.bfloat16, image.device):
            return torch.bfloat16
        warn_caller("this processor has no instructions for bfloat16: precision='bf16' computes in float32")
        return torch.promote_types(image.dtype, torch.float32)

    def operands(
        self, image: Tensor, features: Tensor, output_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the attention works on, all channels last and, but for the values, at least float32.

        Returns:
            queries (B, H, W, C), keys (B, h', w', C) and values (B, h', w', D); h' = min(h, H) and
            w' = min(w, W).
        """
        features = self._cells(features, output_size)
        maps = self.guidance(image, output_size).permute(0, 2, 3, 1)
        with autocast_off(image.device):
            rope = self.image_encoder.rope
            if rope is not None:
                queries = rope(maps, overwrite=not (maps.requires_grad or torch.compiler.is_compiling()))
            else:
                queries = maps.to(torch.promote_types(maps.dtype, torch.float32))
            keys = self.pool(queries.permute(0, 3, 1, 2), (features.shape[-2], features.shape[-1]))
        return queries, keys.permute(0, 2, 3, 1), features.permute(0, 2, 3, 1)

    @staticmethod
    def _cells(features: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Features averaged to the output's size on an axis where that is smaller."""
        h, w = features.shape[-2:]
        if are_known(h, w, *output_size):
            h, w = min(h, output_size[0]), min(w, output_size[1])
        else:  # both sizes of the features at once would make every later size a formula
            torch._check(h <= output_size[0])
            torch._check(w <= output_size[1])
        return features if are_equal((h, w), features.shape[-2:]) else average_pool(features, (h, w))

    def pool(self, queries: Tensor, grid: tuple[int, int]) -> Tensor:
        """Keys (B, C, h, w) of queries (B, C, H, W)."""
        if self.pooling == "max":
            return F.adaptive_max_pool2d(queries, grid)
        if self.pooling == "bilinear":
            return F.interpolate(queries, grid, mode="bilinear")
        return self.project_keys(average_pool(queries, grid))

    def project_keys(self, keys: Tensor) -> Tensor:
        """Keys (B, C, h, w) behind the pointwise convolution, where ``pooling`` has one."""
        if self.pooling == "average_conv":
            weight, bias = self.key_encoder.weight, self.key_encoder.bias
            assert bias is not None
            keys = F.conv2d(keys, weight.to(keys.dtype), bias.to(keys.dtype))
        return keys

    def attention(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        plans: tuple[AxisTiles, AxisTiles] | None = None,
        memory: int | None = None,
    ) -> CrossScaleAttention:
        """The attention of what :meth:`operands` gives, or with ``plans`` of some rows of it, in ``memory``."""
        return CrossScaleAttention(
            queries,
            keys,
            values,
            heads=self.num_heads,
            kernel_size=self.kernel_size,
            memory=memory or attention_memory(self.memory, queries.device.type),
            weight=self.distance,
            locality=self.locality,
            plans=plans,
        )

    def bench_floor(
        self, image: Tensor, features: Tensor, output_size: tuple[int, int]
    ) -> tuple[str, Callable[[], Any]]:
        """The bare convolutions of the blocks at the image's size, channels last, and nothing between them."""
        blocks = [block for branch in self.image_encoder.branches for block in branch.blocks]
        maps = torch.rand(len(image), self.image_encoder.width, *image.shape[-2:], device=image.device)
        maps = maps.to(self.image_encoder.encoder.stem.weight.dtype)
        maps = maps.contiguous(memory_format=torch.channels_last)

        def run() -> None:
            with torch.no_grad():
                for conv in (conv for block in blocks for conv in (block.conv1, block.conv2)):
                    F.conv2d(maps, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)

        return "bare convolutions", run

    def flops(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Flops:
        """Convolutions of the encoder for each pixel of the guidance; for each output pixel a product with K x K keys
        (dim) and one with as many values (channels)."""
        height, width = guide_size((image.shape[-2], image.shape[-1]), output_size, self.guidance_scale)
        convolutions = [m for m in self.image_encoder.modules() if isinstance(m, nn.Conv2d)]
        products = sum(m.weight.numel() + (0 if m.bias is None else len(m.bias)) for m in convolutions)
        paper = 2 * len(image) * height * width * products
        window = self.kernel_size**2 * (self.dim + features.shape[1])
        return Flops(paper, paper + 2 * len(image) * output_size[0] * output_size[1] * window)
