"""The task: follow objects, given in the first frame, through videos, by the likeness of upsampled features."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from naf_hub import Backbone, Task
from naf_hub.contenders import Contender, load_contenders, name_model, parse_backbone
from naf_hub.controls import add_controls
from naf_hub.reports import Metric, Report, Row, amount, describe_environment
from naf_hub.result_folder import claim_folder
from naf_hub.terminal import progress_bar

from .davis import Video, find_videos
from .kept_masks import are_kept_masks
from .mask_scores import VideoScores, dataset_figures
from .mask_strips import check_place, draw_strips, shown_frames
from .video_protocol import VideoProtocol
from .video_run import VideoRun

METRICS = (
    Metric("jf_mean", "%", True, 1, "J&F"),
    Metric("j_mean", "%", True, 1, "J"),
    Metric("f_mean", "%", True, 1, "F"),
    Metric("j_recall", "%", True, 1, "J recall"),
    Metric("f_recall", "%", True, 1, "F recall"),
    Metric("j_decay", "%", False, 1, "J decay"),
    Metric("f_decay", "%", False, 1, "F decay"),
    Metric("script_jf_mean", "%", True, 1, "J&F (NAF's script)"),
)
TRUTH = "true masks"


class VideoSegmentation(Task):
    """Label propagation on DAVIS 2017 (Pont-Tuset et al.; protocol of DINO and LiFT; NAF paper, appendix B.2).

    The masks of the first frame are carried to each next one, as weighted means over the cells with the most similar
    features nearby in the first and the last few frames. Nothing is trained. J and F are those of the official
    evaluation; ``script_jf_mean`` is J&F with the boundaries of NAF's script, which gives higher figures.
    """

    name = "video_segmentation"
    version = 1
    goes_on = True
    metrics = METRICS

    @torch.no_grad()
    def evaluate(
        self,
        contenders: Any,
        data: str | os.PathLike[str],
        protocol: Mapping[str, Any] | None = None,
        *,
        backbone: str | Contender | Backbone | None = None,
        device: Any = "cpu",
        controls: Sequence[str] = (),
        out: str | os.PathLike[str] | None = None,
        picture: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Report:
        """J and F of each upsampler's masks, everything else being equal.

        Args:
            contenders: see :func:`naf_hub.contenders.load_contenders`.
            data: folder in the layout of :data:`naf_hub_video.davis.LAYOUT`.
            protocol: settings of :class:`VideoProtocol`; ``preset`` names those to start from.
            backbone: gives the features; needed.
            device: where to compute.
            controls: see :func:`naf_hub.controls.add_controls`; ``other`` guides by a frame of the next video.
            out: write masks and figures of each video here; an interrupted evaluation goes on from them.
            picture: write a strip of frames with their masks here, one PNG a video.
            progress: show a progress bar on stderr.

        Returns:
            A report; figures are percent, means over objects. Those of each video are among the extras of a row.

        Raises:
            DatasetError: the folder is not as expected, or files do not fit each other.
            ImageError: a picture cannot be read. No video is left out of the means for that.
            FileExistsError: ``out`` holds files that are not ours or results of other settings, or ``picture`` a file
                that is not ours.
            ValueError: no backbone, or a setting that makes no sense.
            UnknownNameError, WeightsError: see :func:`naf_hub.load`.
        """
        chosen = VideoProtocol.read(protocol or {})
        if backbone is None:
            raise ValueError("video segmentation needs a backbone; give backbone=")
        videos = find_videos(Path(data), chosen.videos, chosen.length)
        pictures = {} if picture is None else {v.name: Path(picture) / f"{v.name}.png" for v in videos}
        for path in pictures.values():
            check_place(path)
        if out is not None:
            claim_folder(Path(out), self.name, are_kept_masks)
        behind = parse_backbone(backbone)
        name = behind.label if isinstance(behind, Contender) else name_model(behind)
        made_for = behind.name if isinstance(behind, Contender) else behind
        models = add_controls(load_contenders(contenders, made_for=made_for, device=device), controls)
        if isinstance(behind, Contender):
            behind = behind.load(device=device)
        longest = max(len(video.frames) for video in videos)
        run = VideoRun(models, behind, chosen, longest, device, out, self.version)
        scores: dict[str, list[VideoScores]] = {label: [] for label in models}
        lost: dict[str, list[int]] = {}
        steps = sum(len(video.frames) - 1 for video in videos) * len(models)
        with progress_bar(total=steps, unit="frame", desc="video", wanted=progress) as bar:
            for position, video in enumerate(videos):
                truth = video.read_masks()
                lost[video.name] = run.lost(truth)
                strips = {f"{TRUTH}, frame {video.frames[0].stem}": truth[shown_frames(len(truth))]}
                stranger = videos[(position + 1) % len(videos)] if len(videos) > 1 else None
                for label in models:
                    bar.set_postfix_str(f"{video.name}, {label}")
                    masks, found = run.one(label, video, truth, stranger, bar.update)
                    scores[label].append(found)
                    jf = dataset_figures([found])["jf_mean"]
                    strips[f"{label}: J&F {jf:.1f} %, mask given"] = masks[shown_frames(len(truth))]
                if video.name in pictures:
                    draw_strips(video, strips, pictures[video.name])
                run.forget()
        objects = sum(found.starting for found in next(iter(scores.values())))
        frames = sum(len(video.frames) for video in videos)
        return Report(
            self.name,
            self.version,
            dataclasses.asdict(chosen),
            self.metrics,
            tuple(
                Row.of(label, models[label], dataset_figures(found), backbone=name, extras=_each(videos, found))
                for label, found in scores.items()
            ),
            data={"path": os.fspath(data), "videos": [v.name for v in videos], "frames": frames, "objects": objects,
                  "lost": lost},
            environment=describe_environment(device),
            heading=f"{name}: {amount(len(videos), 'video')}, {amount(objects, 'object')}, "
            f"{amount(frames, 'frame')}",
        )  # fmt: skip


def _each(videos: Sequence[Video], found: Sequence[VideoScores]) -> dict[str, Any]:
    """J, F and both, percent, of each video."""
    keys = ("jf_mean", "j_mean", "f_mean")
    figures = [dataset_figures([scores]) for scores in found]
    return {"videos": {v.name: {key: f[key] for key in keys} for v, f in zip(videos, figures, strict=True)}}
