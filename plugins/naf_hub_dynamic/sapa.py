"""SAPA: similarity-aware point affiliation (Lu et al., NeurIPS 2022, arXiv 2209.12866)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Normalize, Promises
from naf_hub.parts.cell_windows import (
    BORDERS,
    clip,
    join_cells,
    products,
    split_cells,
    surround,
    weighted_sums,
)
from naf_hub.parts.pieces import Range
from naf_hub.parts.precision import working_dtype
from naf_hub.parts.sizes import average_pool
from naf_hub.parts.strip_layer import COUNTED, StripLayer

from .doubling import Doubling

QUERIES = ("encoder_only", "gate", "cat")
NORMS = ("layer", "group", "none")
GROUPS = 32


class SAPALayer(StripLayer):
    """SAPA as a layer: ``forward(guidance, features)``, guidance first.

    Each output pixel compares itself, as the guidance shows it, with the ``up_kernel_size`` x ``up_kernel_size`` cells
    around its own; the softmax of the products, which nothing scales, weights the features of those cells. At the
    start the products are nearly 0, which is a box blur of nearest upsampling. Arguments and state dict are those of
    the authors' ``SAPA`` and ``SAPAExp``; RGB guidance for C = 384 has 25,670 parameters.

    Args:
        dim_y: channels of the guidance, (B, dim_y, s H, s W).
        dim_x: channels of the features, (B, dim_x, H, W); default ``dim_y``.
        up_factor: s.
        up_kernel_size: cells per side of the window, odd.
        embedding_dim: channels that are compared.
        qkv_bias: whether the projections have biases.
        q_mode: what a pixel compares itself by: ``"encoder_only"``, the guidance (the paper's SAPA-B); ``"gate"``, a
            learned mixture of guidance and its cell's features (SAPA-G); ``"cat"``, a projection of both.
        out_dim: channels of the output; default ``dim_x``.
        v_embed: average projected features, as is done in any case where ``out_dim`` is not ``dim_x``.
        norm: before the projections of guidance and features: ``"layer"`` over the channels of each pixel; ``"group"``,
            GroupNorm over the whole map, whose 32 groups must divide both; or ``"none"``. The last two are those of the
            extension (arXiv 2307.08198).
        border: beyond the map lie ``"zeros"``, as published: products there are 0 and take their share of the weights,
            so that maps fade at their edges, the more the more often the layer is applied; or ``"replicate"``: the
            nearest cell, no fading.

    Raises:
        ValueError: options that do not fit together; or, when called, maps that do not.
    """

    def __init__(
        self,
        dim_y: int,
        dim_x: int | None = None,
        up_factor: int = 2,
        up_kernel_size: int = 5,
        embedding_dim: int = 64,
        qkv_bias: bool = True,
        q_mode: str = "encoder_only",
        out_dim: int | None = None,
        v_embed: bool = False,
        norm: str = "layer",
        border: str = "zeros",
    ) -> None:
        super().__init__()
        dim_x = dim_y if dim_x is None else dim_x
        out_dim = dim_x if out_dim is None else out_dim
        for name, count in (
            ("dim_y", dim_y), ("dim_x", dim_x), ("out_dim", out_dim),
            ("up_factor", up_factor), ("embedding_dim", embedding_dim),
        ):  # fmt: skip
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if up_kernel_size < 1 or up_kernel_size % 2 == 0:
            raise ValueError(f"up_kernel_size must be odd and positive, got {up_kernel_size}")
        if q_mode not in QUERIES:
            raise ValueError(f"q_mode must be one of {', '.join(QUERIES)}; got {q_mode!r}")
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}")
        if norm == "group" and (dim_y % GROUPS or dim_x % GROUPS):
            raise ValueError(f"norm='group' needs multiples of {GROUPS}, got dim_y={dim_y}, dim_x={dim_x}")
        if border not in BORDERS:
            raise ValueError(f"border must be one of {', '.join(BORDERS)}; got {border!r}")
        self.channels = dim_x
        self.guidance_channels = dim_y
        self.out_dim = out_dim
        self.scale = up_factor
        self.up_kernel_size = up_kernel_size
        self.q_mode = q_mode
        self.border = border
        self.norm = norm
        self.norm_y, self.norm_x = (_make_norm(norm, channels) for channels in (dim_y, dim_x))
        if q_mode == "gate":
            self.qy = nn.Linear(dim_y, embedding_dim, qkv_bias)
            self.qx = nn.Linear(dim_x, embedding_dim, qkv_bias)
            self.gate = nn.Linear(dim_x, 1, qkv_bias)
        else:
            self.q = nn.Linear(dim_y + (dim_x if q_mode == "cat" else 0), embedding_dim, qkv_bias)
        self.k = nn.Linear(dim_x, embedding_dim, qkv_bias)
        self.v = nn.Linear(dim_x, out_dim, qkv_bias) if v_embed or out_dim != dim_x else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def outputs(self) -> int:
        return self.out_dim

    def extra_repr(self) -> str:
        return f"scale={self.scale}, up_kernel_size={self.up_kernel_size}, q_mode={self.q_mode!r}, norm={self.norm!r}"

    def forward(self, guidance: Tensor, features: Tensor) -> Tensor:
        wanted = (self.guidance_channels, *(side * self.scale for side in features.shape[-2:]))
        if tuple(guidance.shape[1:]) != wanted:
            raise ValueError(
                f"guidance must be {wanted} for features {tuple(features.shape[1:])}, got {tuple(guidance.shape[1:])}"
            )
        return self.make(features, guidance)

    def prepared(self, *maps: Tensor) -> tuple[Tensor, ...]:
        if self.norm != "group":
            return maps
        dtype = self.k.weight.dtype
        return *maps, *(
            norm(found.to(dtype)) for norm, found in zip((self.norm_x, self.norm_y), maps, strict=True)
        )

    def strip(self, rows: Range, *maps: Tensor) -> Tensor:
        features, guidance, *whole = maps
        height, reach, dtype = features.shape[2], self.up_kernel_size // 2, working_dtype(features.dtype)
        near, pixels = clip(rows, reach, height), (rows[0] * self.scale, rows[1] * self.scale)
        raw = self._rows(features, near)
        normed, seen = (
            (self._rows(whole[0], near), self._rows(whole[1], pixels))
            if whole
            else (self.norm_x(raw), self.norm_y(self._rows(guidance, pixels)))
        )
        values = raw if self.v is None else self.v(normed)
        keys, values = (
            surround(found.to(dtype), rows, reach, height, self.border) for found in (self.k(normed), values)
        )
        own = slice(rows[0] - near[0], rows[1] - near[0])
        queries = self.queries(seen, raw[:, own], normed[:, own]).to(dtype)
        logits = products(keys, queries, self.up_kernel_size)
        weights = logits.flatten(-2).softmax(-1).unflatten(-1, (self.up_kernel_size,) * 2)
        return join_cells(weighted_sums(values, weights[:, :, :, None]), self.scale)

    def _rows(self, maps: Tensor, rows: Range) -> Tensor:
        """Some rows of a map, channels last, in the dtype of the weights."""
        return maps[:, :, slice(*rows)].permute(0, 2, 3, 1).to(self.k.weight.dtype)

    def queries(self, guidance: Tensor, raw: Tensor, normed: Tensor) -> Tensor:
        """What pixels compare themselves by: (B, P, W, s * s, D).

        Args:
            guidance: (B, s P, s W, dim_y), behind its norm.
            raw: the features (B, P, W, dim_x), which ``gate`` and ``cat`` see as they are, as in the published code.
            normed: the same behind their norm.
        """
        pixels = split_cells(guidance, self.scale)
        if self.q_mode == "gate":
            share = self.gate(normed).sigmoid()[..., None, :]
            return share * self.qy(pixels) + (1 - share) * self.qx(raw)[..., None, :]
        if self.q_mode == "cat":
            of_pixel, of_cell = self.q.weight.split((self.guidance_channels, self.channels), dim=1)
            return F.linear(pixels, of_pixel, self.q.bias) + F.linear(raw, of_cell)[..., None, :]
        return self.q(pixels)

    def row_values(self, width: int) -> int:
        window, dim = self.up_kernel_size**2, self.k.out_features
        outputs = self.scale**2 * (3 * self.out_dim + 5 * window + 3 * dim + 2 * self.guidance_channels)
        return width * (outputs + 3 * self.channels + 2 * dim)


def _make_norm(kind: str, channels: int) -> nn.Module:
    """Of maps with the channels last, but for ``"group"``."""
    if kind == "layer":
        return nn.LayerNorm(channels)
    return nn.GroupNorm(GROUPS, channels) if kind == "group" else nn.Identity()


class SAPA(Doubling):
    """SAPA as an upsampler to any size, guided by the image. See :class:`Doubling` and :class:`SAPALayer`.

    Each step is guided by the image, normalised by its mean and standard deviation, averaged
    (``adaptive_avg_pool2d``) to twice the size of the map, as in FeatUp's baselines (arXiv 2403.10516); their own
    configuration is ``layers=4``.

    Args:
        channels: feature channels C that it is made for; filled in where a backbone is named.
        up_kernel_size, embedding_dim, qkv_bias, q_mode, v_embed, border: see :class:`SAPALayer`.
        layers, memory, steps: see :class:`Doubling`.

    Raises:
        ValueError: options that do not fit together.
    """

    def __init__(
        self,
        channels: int | None = None,
        up_kernel_size: int = 5,
        embedding_dim: int = 64,
        qkv_bias: bool = True,
        q_mode: str = "encoder_only",
        v_embed: bool = False,
        border: str = "zeros",
        layers: int = 1,
        memory: int | str | None = None,
        steps: int | None = None,
    ) -> None:
        def layer(channels: int) -> SAPALayer:
            return SAPALayer(
                3,
                channels,
                2,
                up_kernel_size,
                embedding_dim,
                qkv_bias,
                q_mode,
                v_embed=v_embed,
                border=border,
            )

        super().__init__(layer, channels, layers, memory, steps)
        self.normalize = Normalize()
        # Published borders take a share of the weights with them; projected features are no mean of features.
        convex = border != "zeros" and not v_embed
        self.promises = Promises(
            constant=convex, range=convex, open_sizes=steps is not None, closed_sizes=COUNTED
        )

    def maps(self, image: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        doubled = 2 * features.shape[-2], 2 * features.shape[-1]
        return features, average_pool(image, doubled)

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return self.filter(self.normalize(image), features, output_size)
