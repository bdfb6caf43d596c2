"""FeatUp's stack of joint bilateral upsamplers (Fu et al., ICLR 2024, arXiv 2403.10516)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import ForeignWeights, Normalize, Promises, Upsampler
from naf_hub.interfaces import Features, Shape, Step
from naf_hub.parts.precision import without_autocast, working_dtype
from naf_hub.parts.sizes import are_equal, average_pool

from .jbu_stage import JBUStage, Projection

RATIOS = (2, 4, 8, 16)
DROPOUT = 0.2
# Parts of a training checkpoint that are no part of the upsampler.
BESIDE = ("scale_net.", "downsampler.", "model.")
# The names of the norm in the authors' checkpoints, and in the stack as the NAF repository has it.
NORMS = ("model.1.norm.", "norm.norm.")


class JBUStack(ForeignWeights, Upsampler):
    """Double the features four times, each time by a filter that the image decides; then mix channels a little.

    The stack multiplies the grid by ``ratio``; where that is not the output's size, its result is resized
    (bilinear), as the authors do. The guidance of each step is the image, normalised by ImageNet's mean and deviation
    and average-pooled to the step's size. Works in float32 at least.

    Weights are made per backbone: the last step mixes ``channels`` channels, and most were trained on layer-normed
    features, in whose space the result then lies (``reference``). The steps themselves know the image alone:
    ``projection=False`` runs them on features of any backbone.

    Args:
        channels: of the features; filled in where a backbone is named. Weights bring their own.
        norm: layer-norm the features first. Weights that hold a norm bring it; the published ones were trained with
            one that scales and shifts nothing.
        projection: mix channels at the end.
        ratio: 2, 4, 8 or 16: how many of the four steps are taken.

    Raises:
        ValueError: another ratio, or ``channels`` below 1.
    """

    def __init__(
        self, channels: int = 384, norm: bool = False, projection: bool = True, ratio: int = 16
    ) -> None:
        super().__init__()
        if ratio not in RATIOS:
            raise ValueError(f"ratio must be one of {', '.join(map(str, RATIOS))}; got {ratio!r}")
        if channels < 1:
            raise ValueError(f"channels must be positive, got {channels}")
        self.ratio = ratio
        self.promises = Promises(
            linear_groups=None if norm or projection else 1, constant=False, open_sizes=True
        )
        self.normalize = Normalize()
        self.norm = nn.LayerNorm(channels) if norm else None
        self.up1, self.up2, self.up3, self.up4 = (JBUStage() for _ in range(4))
        self.fixup_proj = None
        if projection:
            self.fixup_proj = nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(channels, channels, 1))

    @property
    def stages(self) -> list[JBUStage]:
        """The steps that are taken."""
        return [self.up1, self.up2, self.up3, self.up4][: RATIOS.index(self.ratio) + 1]

    def extra_repr(self) -> str:
        return f"ratio={self.ratio}"

    def reference(self, features: Features) -> Tensor:
        given = super().reference(features)
        if self.norm is None:
            return given
        weight, bias = (None if p is None else p.to(given.dtype) for p in (self.norm.weight, self.norm.bias))
        self._check_channels(given)
        rows = F.layer_norm(given.movedim(1, -1), self.norm.normalized_shape, weight, bias, self.norm.eps)
        return rows.movedim(-1, 1)

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return self.filter(self.normalize(image.to(working_dtype(features.dtype))), features, output_size)

    def filter(self, image: Tensor, features: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        """As :meth:`forward`, for an image that is already normalised; by default what the stack makes, not resized."""
        self._check_channels(features)
        return _run(image, features, self, output_size)

    def projection(self, features: Tensor) -> Projection | None:
        """The last step for a batch of features, with its dropout drawn in training."""
        if self.fixup_proj is None:
            return None
        layer, keep = self.fixup_proj[1], None
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        if self.training:
            keep = F.dropout2d(features.new_ones(*features.shape[:2], 1, 1), DROPOUT)
        return Projection(layer.weight, layer.bias, keep)

    def _check_channels(self, features: Tensor) -> None:
        width = self._width
        if width is not None and features.shape[1] != width:
            raise ValueError(
                f"these weights are for features of {width} channels, got {features.shape[1]}; take those of the "
                "backbone, or projection=False without norm for any features"
            )

    @property
    def _width(self) -> int | None:
        """The only number of channels that the model takes, or ``None`` for any."""
        if self.norm is not None:
            return self.norm.normalized_shape[0]
        if self.fixup_proj is None:
            return None
        layer = self.fixup_proj[1]
        assert isinstance(layer, nn.Conv2d)
        return layer.out_channels

    def plan_weights(self, shapes: Mapping[str, Shape]) -> Mapping[str, Step] | None:
        """The authors' names, those of the NAF repository, and this model's own; channels are those of the file."""
        plan: dict[str, Step] = {}
        for name in shapes:
            own = name.removeprefix("upsampler.")
            for prefix in NORMS:
                if name.startswith(prefix):
                    own = f"norm.{name.removeprefix(prefix)}"
            if not own.startswith(BESIDE) and not (self.fixup_proj is None and own.startswith("fixup_proj.")):
                plan[own] = (name, None)
        device = self.up1.range_temp.device
        if self.fixup_proj is not None and "fixup_proj.1.weight" in plan:
            width = shapes[plan["fixup_proj.1.weight"][0]][0]
            self.fixup_proj = nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(width, width, 1, device=device))
            if self.norm is not None:
                self.norm = nn.LayerNorm(width, device=device)
        if "norm.weight" in plan:
            self.norm = nn.LayerNorm(shapes[plan["norm.weight"][0]][0], device=device)
            self.promises = Promises(constant=False, open_sizes=True)
        elif self.norm is not None:
            # Published checkpoints hold none of it: it was frozen as it started.
            self.norm = nn.LayerNorm(list(self.norm.normalized_shape), elementwise_affine=False)
        return plan


@without_autocast
def _run(image: Tensor, features: Tensor, model: JBUStack, size: tuple[int, int] | None) -> Tensor:
    maps = model.reference(features.to(working_dtype(features.dtype)))
    stages = model.stages
    for number, stage in enumerate(stages, start=1):
        doubled = (2 * maps.shape[-2], 2 * maps.shape[-1])
        guidance = average_pool(image.to(maps.dtype), doubled)
        maps = stage(maps, guidance, model.projection(maps) if number == len(stages) else None)
    if size is not None and not are_equal(maps.shape[-2:], size):
        maps = F.interpolate(maps, size, mode="bilinear")
    return maps.to(features.dtype)
