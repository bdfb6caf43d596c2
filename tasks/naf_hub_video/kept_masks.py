"""Masks of a run on disk, a folder a video, so that an interrupted run goes on."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from naf_hub.atomic import atomic_folder
from naf_hub.escapes import plain_name
from naf_hub.images import stored_values

from .davis import Video
from .mask_scores import VideoScores

SCORES = "scores.json"


@functools.cache
def palette() -> tuple[int, ...]:
    """RGB of 256 numbers in turn, the colours of DAVIS and PASCAL VOC: black, dark red, dark green ..."""
    return tuple(
        sum((number >> (3 * k + channel) & 1) << (7 - k) for k in range(8))
        for number in range(256)
        for channel in range(3)
    )


def are_kept_masks(folder: Path) -> bool:
    """Whether a folder holds masks of videos, see :class:`KeptMasks`."""
    return next(folder.glob(f"*/*/{SCORES}"), None) is not None


class KeptMasks:
    """Masks and figures of one upsampler, under ``FOLDER/UPSAMPLER/VIDEO``: the palette PNGs that the official
    evaluation reads, and ``scores.json``.

    Args:
        folder: where all upsamplers' lie.
        label: of this one.
        facts: plain data on what decides them.
    """

    def __init__(self, folder: str | os.PathLike[str], label: str, facts: Mapping[str, Any]) -> None:
        self.folder = Path(folder) / plain_name(label)
        self.facts = json.loads(json.dumps(facts))

    def read(self, video: Video, facts: Mapping[str, Any]) -> tuple[np.ndarray, VideoScores] | None:
        """Masks (T, H, W) and figures, if they were written before.

        Args:
            video: which one.
            facts: plain data on this video alone.

        Raises:
            FileExistsError: what lies there was made otherwise, or is not ours.
        """
        place = self.folder / video.name
        if not place.exists():
            return None
        try:
            found = json.loads((place / SCORES).read_text(encoding="utf-8"))
            old, scores = found["facts"], VideoScores.from_dict(found["scores"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileExistsError(
                f"{place} exists and holds no masks of a video: give --out another folder"
            ) from error
        new = self.facts | json.loads(json.dumps(facts))
        differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if differing:
            raise FileExistsError(
                f"{place} was made with {_others(differing)}: give --out another folder, or remove it"
            )
        masks = np.stack([stored_values(place / f"{frame.stem}.png")[1] for frame in video.frames])
        return masks, scores

    def write(self, video: Video, facts: Mapping[str, Any], masks: np.ndarray, scores: VideoScores) -> None:
        """Write them, all or nothing."""
        record = {"facts": {**self.facts, **facts}, "scores": dataclasses.asdict(scores)}
        with atomic_folder(self.folder / video.name) as temporary:
            for frame, mask in zip(video.frames, masks, strict=True):
                picture = Image.fromarray(mask)
                picture.putpalette(palette())
                picture.save(temporary / f"{frame.stem}.png")
            (temporary / SCORES).write_text(json.dumps(record) + "\n", encoding="utf-8")


def _others(facts: Sequence[str]) -> str:
    """``another backbone``, ``other files and another protocol``."""
    named = [f"other {fact}" if fact == "files" else f"another {fact}" for fact in facts]
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
