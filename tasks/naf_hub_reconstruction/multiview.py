"""Learning from views of a picture: the upsampled map, moved, zoomed and mirrored like the picture and taken down to
cells by a network that learns too, must be the features of the view (FeatUp, arXiv 2403.10516, section 3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from naf_hub.interfaces import Normalize, Upsampler
from naf_hub.parts.jittered_views import Jitter, apply_jitter, draw_jitters
from naf_hub.parts.learned_downsampling import (
    AttentionDownsampler,
    KernelDownsampler,
    Spread,
    error_by_spread,
)
from naf_hub.training.settings import ConfigError

from .config import TrainConfig
from .features import Teacher, resize
from .loss_terms import DISTILLED, FIELD, VARIATION, VIEWS, Loss, total_variation
from .sampled_field import sampled_field
from .self_distillation import SelfDistillation


class MultiView(nn.Module):
    """An upsampler with what is learned beside it and not shipped, and their common loss.

    One result serves all views of a step, so that they share its dropout, which the authors draw anew for each.

    Args:
        settings: of the run.
        upsampler: what is shipped.
        channels: of its result.
        patch: pixels per cell of the backbone.

    Raises:
        ConfigError: ``kernel`` is smaller than a cell.
    """

    def __init__(self, settings: TrainConfig, upsampler: Upsampler, channels: int, patch: int) -> None:
        super().__init__()
        self.settings, self.objective, self.patch = settings, Loss(settings.loss), patch
        self.cell = settings.cell_pixels or patch
        self.kernel = settings.kernel or self.cell
        if self.kernel < self.cell:
            raise ConfigError(
                f"kernel = {self.kernel}: smaller than a cell, {self.cell} pixels of the result (cell_pixels)"
            )
        patches = (self.kernel, self.kernel)
        self.upsampler = upsampler
        self.downsampler = (
            AttentionDownsampler(channels, patches)
            if settings.downsampler == "attention"
            else KernelDownsampler(patches)
        )
        self.spread = Spread(channels)
        self.normalize = Normalize()
        self.itself = SelfDistillation(upsampler) if self.objective.weight(DISTILLED) else None

    def follow(self, step: int) -> None:
        """Take note of the weights after ``step`` steps, where the upsampler learns from itself."""
        if self.itself is not None:
            self.itself.follow(self.upsampler, step)

    def forward(self, teacher: Teacher, crops: Tensor, side: int) -> Tensor:
        """The loss of one batch.

        Args:
            teacher: gives features.
            crops: (B, 3, S, S) in [0, 1].
            side: of the pictures that are upsampled and that views are drawn of.
        """
        settings, weight = self.settings, self.objective.weight
        picture = resize(crops, side)
        small = teacher.inputs(picture)
        grid = self.upsampler.reference(small).shape[-1]
        size = (grid * self.cell, grid * self.cell)
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=teacher.autocast):
            maps = self.upsampler(picture, small, size)
        maps = maps.float()
        losses: list[Tensor] = []
        for jitter in self._draw_jitters():
            directions = self._draw_directions(maps)
            with torch.no_grad():
                view = resize(apply_jitter(picture, jitter).clamp(0, 1), grid * self.patch)
                target = teacher.target(view)
            # What the downsampler makes of a view is several maps; only one view's are held at a time.
            apart = checkpoint(self._compare, maps, target, jitter, side, directions, use_reentrant=False)
            losses.append(weight(VIEWS) * apart / settings.jitters)
            if self.itself is not None:
                distilled = self.itself(teacher, crops, side, maps)
                losses.append(weight(DISTILLED) * distilled / settings.jitters)
        if weight(FIELD):
            image = resize(self.normalize(picture), size[0])
            losses.append(weight(FIELD) * sampled_field(image, maps, self._draw_directions(maps)))
        if weight(VARIATION):
            losses.append(weight(VARIATION) * total_variation(maps))
        return torch.stack(losses).sum()

    def _draw_jitters(self) -> list[Jitter]:
        settings = self.settings
        seed = int(torch.randint(2**31, ()))
        return draw_jitters(settings.jitters, seed, settings.jitter_zoom, settings.jitter_border)

    def _draw_directions(self, maps: Tensor) -> Tensor | None:
        """Random unit vectors (C, D) in which features are compared."""
        if not self.settings.projections:
            return None
        return F.normalize(torch.randn(maps.shape[1], self.settings.projections, device=maps.device), dim=0)

    def _compare(
        self, maps: Tensor, target: Tensor, jitter: Jitter, side: int, directions: Tensor | None
    ) -> Tensor:
        view = apply_jitter(maps, jitter, (side, side))
        # With a border as far as patches reach beyond their cells, these stay in the middle of them.
        beyond = self.kernel - self.cell
        view = F.pad(view, (beyond // 2, beyond - beyond // 2) * 2, "replicate")
        found, spread = self.downsampler(view, target.shape[-2:]), self.spread(target)
        if directions is not None:
            found, target = (torch.einsum("bchw,cd->bdhw", cells, directions) for cells in (found, target))
        return error_by_spread(found, target, spread)
