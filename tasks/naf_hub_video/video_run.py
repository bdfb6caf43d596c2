"""Upsamplers behind one backbone on many videos, and what is kept of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from naf_hub import Backbone, Upsampler
from naf_hub.controls import OtherGuidance
from naf_hub.store import FeatureStore
from naf_hub.training.facts import describe_files, fingerprint

from .davis import Video
from .following import Follower
from .kept_masks import KeptMasks
from .mask_scores import VideoScores
from .soft_masks import first_labels
from .video_protocol import VideoProtocol


class VideoRun:
    """Masks and figures of each upsampler on each video.

    Args:
        models: upsamplers by label.
        backbone: frozen.
        protocol: the settings.
        longest: frames of the longest video; features at low resolution are kept for one video where they fit.
        device: where to compute.
        out: folder to keep masks and figures in, if any.
        version: of the protocol.
    """

    def __init__(
        self,
        models: Mapping[str, Upsampler],
        backbone: Backbone,
        protocol: VideoProtocol,
        longest: int,
        device: Any,
        out: str | os.PathLike[str] | None,
        version: int,
    ) -> None:
        self.protocol = protocol
        self.patch = backbone.patch_size
        self.store = FeatureStore("auto", longest, device)
        self.followers = {
            label: Follower(model, backbone, self.store, protocol) for label, model in models.items()
        }
        self.kept: dict[str, KeptMasks] = {}
        if out is not None:
            settings = {k: v for k, v in dataclasses.asdict(protocol).items() if k != "videos"}
            shared = {"version": version, "protocol": settings, "backbone": fingerprint(backbone)}
            self.kept = {
                label: KeptMasks(out, label, {**shared, "upsampler": f"{label} {fingerprint(model)}"})
                for label, model in models.items()
            }

    def one(
        self,
        label: str,
        video: Video,
        truth: np.ndarray,
        stranger: Video | None,
        advance: Callable[[int], object],
    ) -> tuple[np.ndarray, VideoScores]:
        """Masks (T, H, W) and figures of an upsampler on a video; what was kept is not computed again.

        Args:
            label: of the upsampler.
            video: its frames.
            truth: its true masks (T, H, W).
            stranger: another video, whose first frame guides the control that wants one.
            advance: called with the number of frames that were done.

        Raises:
            FileExistsError: see :meth:`KeptMasks.read`.
            ImageError, DatasetError: see :meth:`Follower.follow`.
        """
        follower, kept = self.followers[label], self.kept.get(label)
        facts: dict[str, Any] = {"files": describe_files((*video.frames, *video.masks))}
        other = None
        if isinstance(follower.model, OtherGuidance) and stranger is not None:
            other = stranger.frames[0]
            facts["guide"] = describe_files([other])
        before = None if kept is None else kept.read(video, facts)
        if before is not None:
            advance(len(truth) - 1)
            return before
        masks = follower.follow(video, truth, other, lambda: advance(1))
        scores = VideoScores.of(masks, truth)
        if kept is not None:
            kept.write(video, facts, masks, scores)
        return masks, scores

    def lost(self, truth: np.ndarray) -> list[int]:
        """Objects of the first mask that are too small for the grid of labels, so that nothing can follow them."""
        working = self.protocol.working_size((truth.shape[1], truth.shape[2]), self.patch)
        grid = (
            working[0] // self.patch * self.protocol.factor,
            working[1] // self.patch * self.protocol.factor,
        )
        left = {int(n) for n in first_labels(truth[0], grid).argmax(0).unique()}
        return sorted({int(n) for n in np.unique(truth[0])} - left)

    def forget(self) -> None:
        """Drop the features of a video."""
        self.store.clear()
