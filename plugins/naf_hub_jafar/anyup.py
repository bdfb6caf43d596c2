"""AnyUp: universal feature upsampling (Wimmer et al., ICLR 2026, arXiv 2510.12764)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub import ForeignWeights, Normalize, Promises, Upsampler, WeightsError
from naf_hub.interfaces import Shape, Step
from naf_hub.parts.budget import parse_bytes, working_memory

from .averaged_attention import CrossDecoder
from .residual_encoder import GROUPS, LearnedRotation, ReflectedConv, pooled, residual_encoder
from .unification import FeatureUnification
from .visible_cells import WINDOWS

# Where the state dict of the published variant for NATTEN keeps what it has under another name.
NATTEN_NORMS = {
    f"cross_decode.norm_{part}.weight": f"cross_decode.cross_attn.norm_{part}.weight" for part in "qk"
}
NATTEN = "cross_decode.cross_attn.q_proj.weight"


class AnyUp(ForeignWeights, Upsampler):
    """Upsample features of any backbone by attention with queries of the image and keys of image and features.

    Each output pixel attends to the feature cells within ``window_ratio`` of the map around it; the heads' weights
    are averaged, and the values are the features themselves, so every output is a convex combination of them.
    Defaults are the released configuration (878,080 parameters, of which the published state dict has 33,024 that
    nothing uses), and ``load_state_dict`` takes a released state dict as it is.

    The image is normalised by ImageNet's mean and standard deviation, whatever the backbone. Beyond what the published
    code accepts: grids and image sides of one cell (borders there are replicated).

    Args:
        qk_dim: channels of queries and keys; a multiple of 8 and of ``num_heads``.
        kernel_size: of the image encoder's first convolution, odd.
        kernel_size_lfu: of the filters that unify features, odd.
        window_ratio: how far a pixel sees to either side, as a share of the map; 0 means everywhere.
        num_heads: attention heads.
        lfu_dim: number of those filters, a multiple of 8; default ``qk_dim``.
        init_gaussian_derivatives: start those filters from derivatives of Gaussians.
        window: ``"cropped"`` at the borders, as the published default; or ``"shifted"`` inwards and counted in whole
            cells, as the published code computes where it is asked for NATTEN: other results of the same weights.
        resize_image: resize the image (bilinear) to the output before it is encoded, as NAF's authors ran AnyUp;
            by default it is encoded in its own size and the queries are pooled to the output.
        memory: working memory to keep to in attention and unification, in bytes or as text such as
            ``"512MiB"``; by default 64 MiB on CPUs and 2 GiB elsewhere. Inputs, output and four maps of
            ``qk_dim`` channels in the image's size come on top. Results do not depend on it beyond rounding.

    Raises:
        ValueError: options that do not fit together.
    """

    promises = Promises(range=True, open_sizes=True)

    def __init__(
        self,
        qk_dim: int = 128,
        kernel_size: int = 1,
        kernel_size_lfu: int = 5,
        window_ratio: float = 0.1,
        num_heads: int = 4,
        lfu_dim: int | None = None,
        init_gaussian_derivatives: bool = False,
        window: str = "cropped",
        resize_image: bool = False,
        memory: int | str | None = None,
    ) -> None:
        super().__init__()
        lfu_dim = qk_dim if lfu_dim is None else lfu_dim
        for name, width in (("qk_dim", qk_dim), ("lfu_dim", lfu_dim)):
            if width < 1 or width % GROUPS:
                raise ValueError(f"{name} must be a positive multiple of {GROUPS}, got {width}")
        if num_heads < 1 or qk_dim % num_heads:
            raise ValueError(f"num_heads must divide qk_dim, got qk_dim={qk_dim}, num_heads={num_heads}")
        if window not in WINDOWS:
            raise ValueError(f"window must be one of {', '.join(WINDOWS)}; got {window!r}")
        self.window_ratio = window_ratio
        self.window = window
        self.resize_image = resize_image
        self.memory = None if memory is None else parse_bytes(memory)
        self.normalize = Normalize()
        unification = FeatureUnification(lfu_dim, kernel_size_lfu, init_gaussian_derivatives)
        self.image_encoder = residual_encoder(ReflectedConv(3, qk_dim, kernel_size), qk_dim, qk_dim)
        self.key_encoder = residual_encoder(ReflectedConv(qk_dim, qk_dim, 1), qk_dim, qk_dim)
        self.query_encoder = residual_encoder(ReflectedConv(qk_dim, qk_dim, 1), qk_dim, qk_dim)
        self.key_features_encoder = residual_encoder(unification, lfu_dim, qk_dim)
        self.aggregation = residual_encoder(ReflectedConv(2 * qk_dim, qk_dim, 3), qk_dim, qk_dim)
        self.cross_decode = CrossDecoder(qk_dim, num_heads)
        self.rope = LearnedRotation(qk_dim)

    def extra_repr(self) -> str:
        return f"window_ratio={self.window_ratio}, window={self.window!r}, resize_image={self.resize_image}"

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return self.filter(self.normalize(image), features, output_size)

    def filter(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        """As :meth:`forward`, for an image that is already normalised by ImageNet's mean and standard deviation."""
        if self.resize_image:
            image = F.interpolate(image, output_size, mode="bilinear")
        queries, image_keys = self.guidance(image, output_size, (features.shape[-2], features.shape[-1]))
        return self.cross_decode(
            queries,
            self.keys(image_keys, features),
            features,
            ratio=self.window_ratio,
            window=self.window,
            memory=working_memory(self.memory, image.device.type),
        )

    def guidance(
        self, image: Tensor, output_size: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """What is read from a normalised image: queries (B, D, H, W), and the image's part of the keys (B, D, h, w)."""
        maps = self.rope(self.image_encoder(image.to(self.rope.freqs.dtype)))
        keys = pooled(self.key_encoder(maps), grid)
        return pooled(self.query_encoder(maps), output_size), keys

    def keys(self, image_keys: Tensor, features: Tensor) -> Tensor:
        """Keys (B, D, h, w) of both."""
        unify, *blocks = self.key_features_encoder
        unit = F.normalize(features.to(self.rope.freqs.dtype), dim=1)
        found = unify(unit, working_memory(self.memory, features.device.type))
        for block in blocks:
            found = block(found)
        return self.aggregation(torch.cat((image_keys, found), dim=1))

    def plan_weights(self, shapes: Mapping[str, Shape]) -> Mapping[str, Step] | None:
        """Published names are this model's own; of the variant for NATTEN see :meth:`convert_weights`."""
        return None if NATTEN in shapes else {name: (name, None) for name in shapes}

    def convert_weights(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The state dict of the published variant for NATTEN, which has the projections of queries and keys apart."""
        own = {NATTEN_NORMS.get(name, name): tensor for name, tensor in state.items()}
        place = "cross_decode.cross_attn."
        unused = self.cross_decode.cross_attn.attention.out_proj
        for kind in ("weight", "bias"):
            names = [f"{place}{part}_proj.{kind}" for part in "qk"]
            if missing := [name for name in names if name not in own]:
                raise WeightsError(f"missing {', '.join(missing)}")
            parts = [own.pop(name) for name in names]
            own[f"{place}attention.in_proj_{kind}"] = torch.cat((*parts, torch.zeros_like(parts[0])))
            own[f"{place}attention.out_proj.{kind}"] = torch.zeros_like(getattr(unused, kind))
        return own
