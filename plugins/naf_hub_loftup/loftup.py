"""LoftUp: a coordinate-based feature upsampler (Huang et al., ICCV 2025, arXiv 2504.14032)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import ForeignWeights, Normalize, Promises, Upsampler
from naf_hub.interfaces import Features, Shape, Step
from naf_hub.parts.budget import parse_bytes, working_memory
from naf_hub.parts.pieces import Range, assemble, split
from naf_hub.parts.precision import working_dtype
from naf_hub.parts.sizes import are_equal

from .cross_attention import CrossTransformer
from .fourier_features import FourierFeatures, stretch_colours

PLACES = ("sine", "learnable")
# Frequencies of the places of cells, and the channels that these add to the features.
CELL_FREQUENCIES, CELL_CHANNELS = 5, 20
# Parts of names in the authors' files, and here. The norm is a part of the backbone in training snapshots.
NAMES = (
    ("upsampler.", ""),
    ("model.1.norm.", "channelnorm."),
    ("channelnorm.norm.", "channelnorm."),
    ("fourier_feat.1.", "fourier_feat."),
    ("first_conv.0.norm.", "first_conv.0."),
)
BACKBONE = "model.0."


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class LoftUp(ForeignWeights, Upsampler):
    """Upsample the features of one backbone by a transformer: pixels, known by colour and place, ask the cells.

    Weights are made per backbone. All that are published were trained on layer-normed features, in whose space the
    result lies (``reference``). Defaults are the released configuration (4,303,894 parameters for 384 channels, 768 of
    them in the norm). The output has the image's size; where another is asked for, the image is resized first
    (bilinear), as the authors do.

    The colours are scaled to their range in the batch, so that images depend on those beside them, and parts of an
    image by themselves give other results than in it. The published example leaves BatchNorm in training mode, where
    it takes statistics of the images at hand; here, in eval mode, it takes those of the weights.

    Args:
        channels: feature channels C that it is made for; filled in where a backbone is named.
        n_freqs: frequencies of colours and places.
        num_heads: attention heads.
        num_layers: blocks of attention.
        color_feats: whether pixels know their colour.
        lr_pe_type: how cells know their place: ``"sine"``, by 20 channels more, or ``"learnable"``, by a table that is
            resized (bicubic) to other grids.
        lr_size: side of that table.
        norm: layer-norm the features first. Weights trained by the authors' later script have no norm.
        per_image: scale colours by each image's own range instead of that of the batch, which the released weights
            were not trained with.
        memory: working memory to keep to, in bytes or as text such as ``"512MiB"``; by default 64 MiB on CPUs and 2 GiB
            elsewhere; single rows are not cut. Inputs and output come on top; in training mode, with its BatchNorm over
            the whole map, a few maps of C + 20 channels, too. Results do not depend on it beyond rounding.

    Raises:
        ValueError: options that do not fit together; or, when called, features of another number of channels.
    """

    def __init__(
        self,
        channels: int | None = None,
        n_freqs: int = 20,
        num_heads: int = 4,
        num_layers: int = 2,
        color_feats: bool = True,
        lr_pe_type: str = "sine",
        lr_size: int = 16,
        norm: bool = True,
        per_image: bool = False,
        memory: int | str | None = None,
    ) -> None:
        super().__init__()
        if channels is None:
            raise ValueError(
                "LoftUp is made for a number of feature channels: name a backbone, or pass channels="
            )
        for name, count in (("channels", channels), ("num_layers", num_layers), ("lr_size", lr_size)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if n_freqs < 2:
            raise ValueError(f"n_freqs must be at least 2, got {n_freqs}")
        if lr_pe_type not in PLACES:
            raise ValueError(f"lr_pe_type must be one of {', '.join(PLACES)}; got {lr_pe_type!r}")
        sine = lr_pe_type == "sine"
        width = channels + CELL_CHANNELS if sine else channels
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"num_heads must divide the width, got num_heads={num_heads}, width={width}")
        self.promises = Promises(
            constant=False,
            batch_independent=per_image,
            open_sizes=sine,
            closed_sizes="its table of places is resized by the number of cells (lr_pe_type='sine' has none)",
        )
        self.channels = channels
        self.per_image = per_image
        self.memory = None if memory is None else parse_bytes(memory)
        self.normalize = Normalize()
        self.channelnorm = ChannelNorm(channels) if norm else None
        self.lr_pe = (
            FourierFeatures(CELL_FREQUENCIES, False)
            if sine
            else nn.Parameter(0.02 * torch.randn(1, lr_size**2, channels))
        )
        self.fourier_feat = FourierFeatures(n_freqs, color_feats)
        seen = self.fourier_feat.channels
        self.first_conv = nn.Sequential(
            ChannelNorm(seen),
            nn.Conv2d(seen, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.ca_transformer = CrossTransformer(width, channels, num_heads, num_layers)
        last = ChannelNorm(channels, eps=1e-6)
        self.final_conv = nn.Sequential(nn.Conv2d(width, channels, 1), last) if sine else last

    def extra_repr(self) -> str:
        return f"per_image={self.per_image}"

    def reference(self, features: Features) -> Tensor:
        given = super().reference(features)
        return given if self.channelnorm is None else self._normed(given).to(given.dtype)

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return self.filter(self.normalize(image.to(working_dtype(image.dtype))), features, output_size)

    def filter(self, image: Tensor, features: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        """As :meth:`forward`, for an image that is already normalised by ImageNet's mean and standard deviation."""
        if output_size is not None and not are_equal(image.shape[-2:], output_size):
            image = F.interpolate(image, output_size, mode="bilinear")
        colours = stretch_colours(image, self.per_image)
        tokens = self.tokens(features)
        cells = self.ca_transformer.cells(tokens)
        height, width = image.shape[-2:]
        # Statistics of BatchNorm are those of the whole map while it learns.
        whole = self.queries(colours, (0, height)) if self.training else None

        def piece(_: Range, rows: Range, __: Range) -> Tensor:
            asking = self.queries(colours, rows) if whole is None else whole[:, slice(*rows)]
            found = self.ca_transformer(asking.flatten(1, 2), cells)
            return self.final_conv(found.unflatten(1, asking.shape[1:3]).permute(0, 3, 1, 2))

        dim, heads = tokens.shape[-1], cells[0].keys.shape[1]
        numbers = 3 * self.fourier_feat.channels + 8 * dim + 2 * features.shape[1]
        if image.device.type != "cpu":  # there, attention never makes its matrix; elsewhere that depends
            numbers += 3 * heads * tokens.shape[1]
        row_bytes = numbers * image.shape[0] * width * colours.element_size()
        return assemble(
            piece,
            (features.shape[0], features.shape[1], height, width),
            features,
            (image, *self.parameters()),
            rows=split(height, working_memory(self.memory, image.device.type) // row_bytes),
        )

    def queries(self, colours: Tensor, rows: Range) -> Tensor:
        """Some rows (B, n, W, E) of what pixels ask by, of colours (B, 3, H, W) that are scaled to their range."""
        norm, *layers = self.first_conv
        height = colours.shape[-2]
        maps = self.fourier_feat(colours, (max(rows[0] - 2, 0), min(rows[1] + 2, height)))
        maps = norm(maps.permute(0, 3, 1, 2).to(norm.weight.dtype))
        for reach, (conv, batch_norm) in ((1, layers[:2]), (0, layers[3:5])):
            first, last = max(rows[0] - reach, 0), min(rows[1] + reach, height)
            beyond = (int(first == 0), int(last == height))
            if any(beyond):
                maps = F.pad(maps, (0, 0, *beyond))
            maps = F.relu(batch_norm(F.conv2d(maps, conv.weight, conv.bias, padding=(0, 1))))
        return maps.permute(0, 2, 3, 1)

    def tokens(self, features: Tensor) -> Tensor:
        """Cells (B, h w, E) of features (B, C, h, w): layer-normed, with their places."""
        maps = (
            features.to(self.fourier_feat.biases.dtype)
            if self.channelnorm is None
            else self._normed(features)
        )
        size = (maps.shape[-2], maps.shape[-1])
        if isinstance(self.lr_pe, FourierFeatures):
            places = self.lr_pe(maps[:1], (0, size[0])).to(maps.dtype).expand(maps.shape[0], -1, -1, -1)
            return torch.cat((maps.permute(0, 2, 3, 1), places), dim=-1).flatten(1, 2)
        table = self.lr_pe
        if table.shape[1] != size[0] * size[1]:
            side = round(table.shape[1] ** 0.5)
            table = table.mT.unflatten(-1, (side, side))
            table = F.interpolate(table, size, mode="bicubic").flatten(2).mT
        return maps.flatten(2).mT + table

    def _normed(self, features: Tensor) -> Tensor:
        assert self.channelnorm is not None
        return self.channelnorm(features.to(self.channelnorm.weight.dtype))

    def plan_weights(self, shapes: Mapping[str, Shape]) -> Mapping[str, Step] | None:
        """The authors' names, of released files and of training snapshots, and this model's own."""
        plan: dict[str, Step] = {}
        for name in shapes:
            own = name
            for theirs, ours in NAMES:
                if own.startswith(theirs):
                    own = ours + own.removeprefix(theirs)
            if not own.startswith(BACKBONE):
                plan[own] = (name, None)
        return plan
