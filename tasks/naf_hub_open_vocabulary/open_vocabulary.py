"""The task: which of the classes that were named in words does each pixel show? Nothing is trained."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from naf_hub import Backbone, Task
from naf_hub.confusion import Confusion
from naf_hub.contenders import Contender, load_contenders, name_model, parse_backbone
from naf_hub.controls import add_controls
from naf_hub.errors import DatasetError
from naf_hub.kept_results import KeptResults
from naf_hub.labels import IGNORE
from naf_hub.reports import Metric, Report, Row, amount, describe_environment
from naf_hub.terminal import progress_bar

from .benchmark import Benchmark
from .clip import load_clip
from .segmenter import Segmenter
from .vocabulary_protocol import VocabularyProtocol
from .word_maps import WordMaps, is_here

METRICS = (
    Metric("miou", "%", True, 1, "mIoU"),
    Metric("pixel_accuracy", "%", True, 1, "pixel acc."),
    Metric("class_accuracy", "%", True, 1, "class acc."),
)
CLIP_ALONE = "clip"
"""Label of the row of CLIP without features of others."""


class OpenVocabulary(Task):
    """Segmentation by CLIP whose last block attends as upsampled features say (ProxyCLIP, Lan et al., ECCV 2024; NAF
    paper, sections 4.2 and B.2).

    Scores are counted over the whole set at the labels' resolution. All figures are percent, ``None`` for a class that
    occurs neither in the labels nor in the predictions.
    """

    name = "open_vocabulary"
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
        baseline: bool = False,
        controls: Sequence[str] = (),
        out: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Report:
        """Mean intersection over union with each upsampler, everything else being equal.

        Args:
            contenders: see :func:`naf_hub.contenders.load_contenders`.
            data: see :data:`naf_hub_open_vocabulary.benchmark.LAYOUT`.
            protocol: settings of :class:`VocabularyProtocol`.
            backbone: gives the features that are upsampled; needed.
            device: where models run.
            baseline: add the row ``clip``, CLIP's own last block without a backbone.
            controls: see :func:`naf_hub.controls.add_controls`.
            out: keep the counts of each picture in this folder; an interrupted evaluation goes on from them, see
                :class:`naf_hub.kept_results.KeptResults`.
            progress: show a progress bar on stderr.

        Raises:
            DatasetError: the data are not as expected.
            FileExistsError: ``out`` holds other files.
            ValueError: no backbone, or a setting that makes no sense.
            MissingExtraError: OpenCLIP is not installed.
            UnknownNameError, WeightsError: see :func:`naf_hub.load` and
                :func:`~naf_hub_open_vocabulary.clip.load_clip`.
        """
        chosen = VocabularyProtocol.read(protocol or {})
        if backbone is None:
            raise ValueError("open vocabulary needs a backbone; give backbone=")
        benchmark = Benchmark.open(Path(data), chosen.classes, chosen.limit)
        behind = parse_backbone(backbone)
        name = behind.label if isinstance(behind, Contender) else name_model(behind)
        clip = load_clip(chosen.clip, device)
        made_for = behind.name if isinstance(behind, Contender) else behind
        models = add_controls(load_contenders(contenders, made_for=made_for, device=device), controls)
        if isinstance(behind, Contender):
            behind = behind.load(device=device)
        segmenter = Segmenter(clip, behind, benchmark.vocabulary, chosen, device)
        competing = {**models, **({CLIP_ALONE: None} if baseline else {})}
        counted = {label: Confusion(len(benchmark.classes.names)) for label in competing}
        skipped: dict[str, str] = {}
        bar = progress_bar(benchmark.pairs, unit="image", desc=self.name, wanted=progress)
        facts = {
            "version": self.version,
            "protocol": {k: v for k, v in dataclasses.asdict(chosen).items() if k != "limit"},
            "words": [list(words) for words in benchmark.vocabulary.synonyms],
        }
        kept = KeptResults(out, self.name, facts, [behind, clip], competing)
        for files, image, target in benchmark.read(skipped, iter(bar)):
            view = None
            for label, model in competing.items():
                found = kept.recall(label, files)
                if found is None:
                    view = view or segmenter.look(image)
                    here = Confusion(len(benchmark.classes.names))
                    here.update(
                        segmenter.segment(view, model, (target.shape[0], target.shape[1])), target, IGNORE
                    )
                    found = here.sparse()
                    kept.keep(label, files, found)
                counted[label].add_sparse(found)
        seen = len(benchmark.pairs) - len(skipped)
        if not seen:
            raise DatasetError(f"no readable pair in {os.fspath(data)}: {next(iter(skipped.values()))}")
        rows = [
            self._row(label, competing[label], confusion, benchmark.classes.names, name)
            for label, confusion in counted.items()
        ]
        described = {
            "path": os.fspath(data),
            "images": seen,
            "skipped": skipped,
            "images_without_label": benchmark.unlabelled,
            "classes": list(benchmark.classes.names),
            "words": facts["words"],
            **clip.origin,
        }
        return Report(
            self.name,
            self.version,
            {**dataclasses.asdict(chosen), "threshold": segmenter.threshold, "scale": segmenter.scale},
            self.metrics,
            tuple(rows),
            data=described,
            environment=describe_environment(device),
            heading=f"{name}: {amount(seen, 'image')}, {len(skipped)} skipped",
        )

    def word_maps(self, clip: str | None = None, device: Any = "cpu") -> WordMaps | None:
        """What finds things in pictures that are named in words.

        Args:
            clip: see :func:`~naf_hub_open_vocabulary.clip.load_clip`; by default the protocol's, but only if nothing
                has to be fetched for it: else ``None`` is returned.
            device: where models run.

        Raises:
            MissingExtraError, WeightsError: the CLIP that is named cannot be had.
        """
        if clip is None:
            return WordMaps({}, device) if is_here(VocabularyProtocol.clip) else None
        found = WordMaps({"clip": clip}, device)
        found.clip  # noqa: B018  (loaded now, so that it is told at once if it cannot be)
        return found

    @staticmethod
    def _row(label: str, model: Any, confusion: Confusion, names: Sequence[str], backbone: str) -> Row:
        figures = {
            "miou": 100 * confusion.mean_iou(),
            "pixel_accuracy": 100 * confusion.accuracy(),
            "class_accuracy": 100 * float(confusion.recall().nanmean()),
        }
        extras = {"iou": confusion.iou_by_name(names)}
        if model is None:
            return Row(label, figures, label, extras=extras)
        return Row.of(label, model, figures, backbone=backbone, extras=extras)
