"""One upsampler, following the objects of videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from naf_hub import Backbone, Upsampler
from naf_hub.controls import OtherGuidance
from naf_hub.images import read_image
from naf_hub.store import FeatureStore

from .davis import Video
from .propagation import Propagation
from .soft_masks import first_labels, mask_of
from .video_protocol import VideoProtocol

Size = tuple[int, int]


class Follower:
    """Masks of videos by the features that an upsampler makes of a backbone's.

    Args:
        model: the upsampler.
        backbone: frozen; the store's features are its own.
        store: keeps features of frames for all that gather the same.
        protocol: the settings.
    """

    def __init__(
        self, model: Upsampler, backbone: Backbone, store: FeatureStore, protocol: VideoProtocol
    ) -> None:
        self.model = model
        self.backbone = backbone
        self.store = store
        self.protocol = protocol

    def follow(
        self,
        video: Video,
        truth: np.ndarray,
        stranger: Path | None = None,
        on_frame: Callable[[], object] = lambda: None,
    ) -> np.ndarray:
        """Masks (T, H, W) of a video of which the first is given.

        Args:
            video: its frames.
            truth: masks (T, H, W), of which only the first is looked at.
            stranger: a frame of another video, for the control that is guided by one.
            on_frame: called after each frame.

        Raises:
            ImageError, DatasetError: a frame cannot be read or does not fit the masks.
        """
        patch, factor = self.backbone.patch_size, self.protocol.factor
        size = (truth.shape[1], truth.shape[2])
        working = self.protocol.working_size(size, patch)
        grid = (working[0] // patch * factor, working[1] // patch * factor)
        other = None
        if isinstance(self.model, OtherGuidance) and stranger is not None:
            other = self.resized(read_image(stranger), working)

        def features(number: int) -> Tensor:
            frame = self.resized(video.read_frame(number, size), working)
            return self.upsampled(frame, (video.name, number), grid, other)

        first = features(0)
        propagation = Propagation(first, first_labels(truth[0], grid).to(first), self.protocol)
        masks = [truth[0]]
        for number in range(1, len(video.frames)):
            masks.append(mask_of(propagation.step(features(number)), patch, factor, size))
            on_frame()
        return np.stack(masks)

    def resized(self, frame: Tensor, size: Size) -> Tensor:
        """A frame (3, H, W) as the backbone sees it, on its device: squashed bicubically to a square, as LiFT does, or
        bilinearly to whole patches."""
        frame = frame.to(self.store.device)
        if frame.shape[1:] == size:
            return frame
        mode = "bilinear" if self.protocol.size is None else "bicubic"
        return F.interpolate(frame[None], size, mode=mode, antialias=True)[0].clamp(0, 1)

    def upsampled(self, frame: Tensor, view: tuple[str, int], grid: Size, other: Tensor | None) -> Tensor:
        """Features (C, h, w) on ``grid`` of a frame (3, H, W); those at low resolution are kept as ``view``."""
        low = self.store.gather(self.model, self.backbone, [frame], [view])
        h, w = self.model.reference(low).shape[-2:]
        size = (h * self.protocol.factor, w * self.protocol.factor)
        if isinstance(self.model, OtherGuidance):
            # The frame before is nearly this one; only a picture of another video is a strange one.
            self.model.seen = None if other is None else self.guide(other, size)
        found = self.model(self.guide(frame, size), low, size)
        if size != grid:
            found = F.interpolate(found, grid, mode="bilinear")
        return found[0].float()

    def guide(self, frame: Tensor, size: Size) -> Tensor:
        """The picture (1, 3, h, w) that guides to ``size``."""
        if self.protocol.guidance == "frame":
            return frame[None]
        return F.interpolate(frame[None], size, mode="bicubic").clamp(0, 1)
