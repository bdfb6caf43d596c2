"""ViT-Up: faithful feature upsampling for vision transformers (Wandel et al., arXiv 2606.14024)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Backbone, BackboneRecord, ForeignWeights, Promises, Upsampler, Want
from naf_hub.checks import warn_caller
from naf_hub.interfaces import Features, Shape, Step
from naf_hub.parts.budget import parse_bytes, working_memory
from naf_hub.parts.pieces import Range, assemble, split
from naf_hub.parts.precision import working_dtype
from naf_hub.training.facts import fingerprint

from .adapters import Adapters
from .positions import OffsetWaves, in_cells, nearest_cells, pixel_centres, rotary_phases, sample
from .query_block import Layer, Places, QueryBlock

# Between hidden layers that are read, in blocks of the backbone.
STRIDE = 2
PATCHES = "patches"
# Channels of a head of the released models.
HEAD = 64
# Names of older files, of the published ones, and here.
RENAMED = (
    (r"^q_proj\.(\d+)\.", r"vit_up_blocks.\1.transition_mlp."),
    (r"^local_feature_decoder\.(\d+)\.", r"vit_up_blocks.\1.featx."),
    (r"^global_local_cross_attention\.(\d+)\.global_cross_attention\.", r"vit_up_blocks.\1.cross_attention."),
    (r"^global_local_cross_attention\.(\d+)\.", r"vit_up_blocks.\1."),
    (r"mlp\.mlp\.", "mlp."),
    (r"^decoder_mlp\.(\d+)\.mlp\.", r"decoder_mlp.\1."),
    (
        r"^backbone\.base_model\.model\.(?:embeddings\.)?(.+)\.lora_([AB])\.default\.weight$",
        r"adapters.\1.lora_\2",
    ),
    (r"^adapters\.layer\.(\d+)\.attention\.", r"adapters.layer.\1."),
)


class ViTUp(ForeignWeights, Upsampler):
    """Predict what a backbone's features would be at any point of the image.

    A query starts from the patch embedding of the image enlarged to 3584 pixels a side, and is refined by one block
    for each of the hidden layers 2, 4, ... of the backbone: by attention to all cells of the layer, and by the cell
    that it lies in.
    Results are free predictions in the space of the backbone's last map, no means of features.

    ``gather`` runs the backbone twice on the image: as it is, and with the adapters that are part of the weights, on
    the image squashed to a square. All that the method knows of the image is in what it gathers; the image of
    ``forward`` only gives the default size. Defaults are the release for DINOv3 ViT-S+/16 (24,273,792 parameters and
    608,256 of adapters).

    Args:
        channels: of the features.
        num_heads: of the attention; divides ``channels`` into heads of a multiple of 4 channels. By default as many as
            make heads of 64 channels, as in the release.
        depth: blocks of the backbone, an even number.
        patch: side of its patches in pixels.
        rank, alpha: of the adapters.
        hidden_size: side in pixels of the square that hidden layers are taken of; positions are counted in its
            cells, so that another one than trained with is an extrapolation.
        query_size: the same of the enlarged image that the patch embedding is taken of.
        memory: working memory to keep to for queries, in bytes or as text such as ``"512MiB"``; by default 64 MiB on
            CPUs and 2 GiB elsewhere. Hidden layers, keys and values, the enlarged image and its patches, and the
            output come on top. Results do not depend on it beyond rounding.

    Raises:
        ValueError: options that do not fit together.
    """

    promises = Promises(
        constant=False, closed_sizes="what it reads of the backbone has fixed sizes, whatever the image's"
    )
    guided = False
    learns_to_gather = True

    def __init__(
        self,
        channels: int = 384,
        num_heads: int | None = None,
        depth: int = 12,
        patch: int = 16,
        rank: int = 16,
        alpha: float = 32.0,
        hidden_size: int = 448,
        query_size: int = 3584,
        memory: int | str | None = None,
    ) -> None:
        super().__init__()
        if num_heads is None:
            num_heads = max(1, channels // HEAD)
        if num_heads < 1 or channels < 1 or channels % (4 * num_heads):
            raise ValueError(
                f"channels must be a multiple of four times num_heads, got channels={channels}, num_heads={num_heads}"
            )
        if depth < STRIDE or depth % STRIDE:
            raise ValueError(f"depth must be a positive multiple of {STRIDE}, got {depth}")
        if patch < 1 or rank < 1:
            raise ValueError(f"patch and rank must be at least 1, got patch={patch}, rank={rank}")
        for name, size in (("hidden_size", hidden_size), ("query_size", query_size)):
            if size < patch or size % patch:
                raise ValueError(f"{name} must be a positive multiple of patch={patch}, got {size}")
        self.channels = channels
        self.hidden_size, self.query_size = hidden_size, query_size
        self.head_dim = channels // num_heads
        self.memory = None if memory is None else parse_bytes(memory)
        self.layers = tuple(range(STRIDE, depth + 1, STRIDE))
        self.wants = (Want(), *(Want(layer - 1, norm=False) for layer in self.layers[:-1]))
        self.rel_pos_enc = OffsetWaves()
        self.vit_up_blocks = nn.ModuleList(QueryBlock(channels, num_heads) for _ in self.layers)
        # Of the query as it starts, then of each block's; all but the last served training.
        self.decoder_mlp = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels)) for _ in (0, *self.layers)
        )
        self.adapters = Adapters(channels, depth, patch, rank, alpha)

    def extra_repr(self) -> str:
        return f"layers={self.layers}, hidden_size={self.hidden_size}, query_size={self.query_size}"

    @classmethod
    def lacks(cls, backbone: BackboneRecord, options: Mapping[str, Any]) -> str:
        """Hidden layers of a vision transformer laid out as timm's, its blocks and channels, and patches of the size
        that it is made for."""
        if backbone.network and backbone.network != "timm":
            return "hidden layers of a vision transformer laid out as timm's"
        stated = inspect.signature(cls).parameters
        depth = options.get("depth", stated["depth"].default)
        if backbone.depth not in (0, depth):
            return f"depth of {depth} blocks"
        if backbone.embed_dim not in (0, options.get("channels", backbone.embed_dim)):
            return f"maps of {options['channels']} channels"
        if "patch" in options:  # whoever states it may give the backbone such patches, too
            return ""
        patch = stated["patch"].default
        return f"patches of {patch} pixels" if backbone.patch_size != patch else ""

    @property
    def gather_key(self) -> tuple[Any, ...]:
        """As for any upsampler, and the adapters, which change the backbone."""
        return (*super().gather_key, fingerprint(self.adapters))

    def gather(self, image: Tensor, backbone: nn.Module) -> dict[str, Tensor]:
        """Maps of the backbone as it is, and of the backbone with the adapters.

        Returns:
            ``token[-1]``: (B, C, h, w), the last map of the backbone as it is. ``hidden[2]``, ``hidden[4]``, ...:
            (B, C, n, n) of the adapted one, each behind the norm that follows it. ``patches``: (B, C, m, m), the
            adapted patch embedding of the enlarged image.

        Raises:
            MapError: the backbone is no vision transformer that the adapters fit.
        """
        twin = self.adapters.adapt(backbone)
        assert isinstance(backbone, Backbone)
        found = twin.maps(_squashed(image, self.hidden_size), *self.wants[1:], Want())
        norms = [twin.model.blocks[layer].norm1 for layer in self.layers[:-1]]
        hidden = [_normed(maps, norm) for maps, norm in zip(found[:-1], norms, strict=True)]
        return self._named(backbone(image), [*hidden, found[-1]], self._patches(image, twin))

    def gather_example(self, image: Tensor, backbone: Backbone) -> dict[str, Tensor]:
        """Maps in the shapes of :meth:`gather`, of a backbone without weights to adapt."""
        plain, *hidden = backbone.maps(image, *self.wants, Want(norm=False))
        finer = self.query_size // self.hidden_size
        return self._named(plain, hidden, F.interpolate(plain.cos(), scale_factor=finer, mode="bilinear"))

    def _named(self, plain: Tensor, hidden: Sequence[Tensor], patches: Tensor) -> dict[str, Tensor]:
        return {
            self.wants[0].name: plain,
            **dict(zip(self.hidden_names, hidden, strict=True)),
            PATCHES: patches,
        }

    @property
    def hidden_names(self) -> list[str]:
        """What :meth:`gather` calls the hidden layers."""
        return [f"hidden[{layer}]" for layer in self.layers]

    def _patches(self, image: Tensor, twin: Any) -> Tensor:
        # One after the other: an enlarged image takes 154 MB.
        embed = twin.model.patch_embed.proj
        parts = (_squashed(twin.normalize(one), self.query_size) for one in image.split(1))
        return torch.cat([embed(part.to(embed.weight.dtype)).to(image.dtype) for part in parts])

    def reference(self, features: Features) -> Tensor:
        """The last map of the backbone as it is."""
        return features[self.wants[0].name] if isinstance(features, Mapping) else features

    def upsample(self, image: Tensor, features: Any, output_size: tuple[int, int]) -> Tensor:
        height, width = output_size
        like = image.new_empty((), dtype=working_dtype(self.rel_pos_enc.freqs.dtype))
        points = pixel_centres(height, width, like).expand(len(image), -1, -1)
        return self._predicted(features, points, last=True).unflatten(2, output_size)

    def query(self, features: Mapping[str, Tensor], points: Tensor) -> tuple[Tensor, ...]:
        """What the backbone's features would be at some points; a few cost as little as they are.

        Args:
            features: what :meth:`gather` gives.
            points: (B, N, 2) as (x, y) in shares of the image: the centre of pixel i of n is at ``(i + 0.5) / n``.
                Of each image its own. Those outside [0, 1] are extrapolated, with a warning.

        Returns:
            For the query as it starts and after each block (B, N, C); the last is the result, the others
            served training.

        Raises:
            ValueError: other shapes.
        """
        if points.ndim != 3 or points.shape[-1] != 2:
            raise ValueError(f"points must have shape (B, N, 2), got {tuple(points.shape)}")
        if bool(((points < 0) | (points > 1)).any()):
            warn_caller("points outside [0, 1] are beyond the image: what is predicted there is extrapolated")
        found = self._predicted(features, points.to(working_dtype(points.dtype)), last=False)
        return tuple(part.mT for part in found.chunk(len(self.decoder_mlp), 1))

    def _predicted(self, features: Any, points: Tensor, last: bool) -> Tensor:
        """(B, C, N) at points (B, N, 2); where not the last alone is asked for, all results side by side."""
        plain, hidden, patches = self._checked(features)
        dtype = next(self.decoder_mlp.parameters()).dtype
        grid = (hidden[0].shape[-2], hidden[0].shape[-1])
        centres = in_cells(pixel_centres(*grid, points), grid)
        layers: list[Layer] = []
        for block, maps in zip(self.vit_up_blocks, hidden, strict=True):
            assert isinstance(block, QueryBlock)
            layers.append(block.read(maps.to(dtype).flatten(2).mT, centres))
        patches = patches.to(points.dtype)
        decoders = self.decoder_mlp[-1:] if last else self.decoder_mlp

        def piece(_: Range, rows: Range, __: Range) -> Tensor:
            states = self._refined(points[:, slice(*rows)], patches, grid, layers, dtype)
            decoded = [
                decode(state) for decode, state in zip(decoders, states[-len(decoders) :], strict=True)
            ]
            return torch.cat(decoded, -1).mT[..., None]

        # The widest activation twice, and states, queries and tokens.
        batch, channels = plain.shape[:2]
        numbers = batch * channels * (16 if last else 32)
        count = working_memory(self.memory, points.device.type) // (numbers * points.dtype.itemsize)
        shape = (batch, channels * len(decoders), points.shape[1], 1)
        inputs = (*features.values(), *self.parameters())
        return assemble(piece, shape, plain, inputs, rows=split(points.shape[1], max(1, count))).squeeze(-1)

    def _refined(
        self,
        points: Tensor,
        patches: Tensor,
        grid: tuple[int, int],
        layers: Sequence[Layer],
        dtype: torch.dtype,
    ) -> list[Tensor]:
        """The queries (B, N, C) as they start and after each block."""
        at = in_cells(points, grid)
        cell, offset = nearest_cells(points, grid)
        phases = rotary_phases(at[:, None], self.head_dim)
        places = Places(phases, cell, self.rel_pos_enc(offset))
        states = [sample(patches, points).to(dtype)]
        for block, layer in zip(self.vit_up_blocks, layers, strict=True):
            states.append(block(states[-1], places, layer))
        return states

    def _checked(self, features: Any) -> tuple[Tensor, list[Tensor], Tensor]:
        """The last map, hidden layers and patches."""
        names = [self.wants[0].name, *self.hidden_names, PATCHES]
        if not isinstance(features, Mapping) or any(name not in features for name in names):
            raise ValueError(
                "vit_up works on hidden layers of its adapted backbone, not on a plain map: take features from "
                "gather(image, backbone), or load it with backbone="
            )
        for name in names:
            if features[name].shape[1] != self.channels:
                raise ValueError(
                    f"vit_up is made for {self.channels} channels here, got {features[name].shape[1]} in {name}"
                )
        plain, *hidden, patches = (features[name] for name in names)
        return plain, hidden, patches

    def plan_weights(self, shapes: Mapping[str, Shape]) -> Mapping[str, Step]:
        """The published names, older ones of theirs, and this model's own."""
        return {_own_name(name): (name, None) for name in shapes}


def _own_name(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _squashed(image: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) at (side, side), bilinear without smoothing, whatever its shape was."""
    return image if image.shape[-2:] == (side, side) else F.interpolate(image, (side, side), mode="bilinear")


def _normed(maps: Tensor, norm: nn.Module) -> Tensor:
    """(B, C, h, w) behind a norm of channels, in the dtype of ``maps``."""
    dtype = next(norm.parameters()).dtype
    return norm(maps.movedim(1, -1).to(dtype)).movedim(-1, 1).to(maps.dtype)
