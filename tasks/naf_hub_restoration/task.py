"""The task object behind ``naf_hub.load_task("denoising")``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from naf_hub.contenders import load_contenders
from naf_hub.image_files import find_images
from naf_hub.interfaces import Task
from naf_hub.records import RestorerRecord
from naf_hub.reports import Metric, Report, Row, amount, describe_environment

if TYPE_CHECKING:
    from .course import DenoisingCourse

METRICS = (
    Metric("psnr", "dB", True, 2, "PSNR scikit-image"),
    Metric("ssim", "", True, 4, "SSIM scikit-image"),
    Metric("paper_psnr", "dB", True, 2, "PSNR paper"),
    Metric("paper_ssim", "", True, 4, "SSIM paper"),
)


class Denoising(Task):
    """Denoising: clean images, noise added to them, and how near a restorer comes to the clean ones again."""

    name: ClassVar[str] = "denoising"
    contends = RestorerRecord
    version: ClassVar[int] = 1
    goes_on: ClassVar[bool] = True
    metrics: ClassVar[tuple[Metric, ...]] = METRICS

    def course(self, settings: Mapping[str, Any]) -> DenoisingCourse:
        """The course of these keys of :class:`~naf_hub_restoration.denoising_config.TrainConfig`."""
        from naf_hub.training.settings import build

        from .course import DenoisingCourse
        from .denoising_config import TrainConfig

        return DenoisingCourse(build(TrainConfig, settings))

    def train(self, *, out: str | os.PathLike[str], resume: bool = False, device: Any = None,
              tensorboard: bool = False, progress: bool = True, **settings: Any) -> dict[str, Any]:  # fmt: skip
        """Train a restorer.

        Args:
            out: folder of the run.
            resume, device, tensorboard, progress: see :class:`~naf_hub.training.run.Run`.
            settings: keys of :class:`~naf_hub_restoration.denoising_config.TrainConfig`.

        Returns:
            The summary of :meth:`naf_hub.training.run.Run.run`.
        """
        from naf_hub.training.run import Run

        course = self.course(settings)
        return Run(
            course, out, resume=resume, device=device, tensorboard=tensorboard, progress=progress
        ).run()

    def evaluate(
        self,
        contenders: Any,
        data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        protocol: Mapping[str, Any] | None = None,
        *,
        backbone: Any = None,
        device: Any = "cpu",
        progress: bool = True,
        out: str | os.PathLike[str] | None = None,
    ) -> Report:
        """PSNR and SSIM of restorers on the same noisy images, and of the noisy images themselves.

        Args:
            contenders: see :func:`naf_hub.contenders.load_contenders`; with ``classical`` there may be none.
            data: clean images: files, folders or patterns, none of them trained on.
            protocol: settings of :class:`~naf_hub_restoration.noisy_comparison.Protocol`.
            backbone: must be ``None``; restorers stand alone.
            device: where to compute.
            progress: show a progress bar on stderr.
            out: keep the figures of each batch in this folder; an interrupted evaluation goes on from them, see
                :class:`naf_hub.kept_results.KeptResults`.

        Returns:
            A report; see :func:`~naf_hub_restoration.noisy_comparison.compare` for the figures. ``data`` holds the
            number of ``images`` and those ``skipped``: file to reason.

        Raises:
            ImageError: no usable image.
            FileExistsError: ``out`` holds other files or other results.
            ValueError: a backbone, or a setting that does not exist or makes no sense.
            MissingExtraError: ``classical`` without the extra ``eval``.
            UnknownNameError, WeightsError: see :func:`naf_hub.load_restorer`.
        """
        from .noisy_comparison import NOISY, Protocol, compare

        if backbone is not None:
            raise ValueError("denoising takes no backbone")
        chosen = Protocol.read(protocol or {})
        files = find_images([data] if isinstance(data, (str, os.PathLike)) else data)
        if chosen.limit and chosen.limit < len(files):
            files = [files[i * len(files) // chosen.limit] for i in range(chosen.limit)]
        alone = chosen.classical and isinstance(contenders, Sequence) and not contenders
        models = {} if alone else load_contenders(contenders, kind=RestorerRecord, device=device)
        skipped: dict[str, str] = {}
        figures, count = compare(models, files, chosen, device, skipped, progress, out)
        rows = [Row(NOISY, figures[NOISY], note="what the restorers are given")]
        methods = [label for label in figures if label != NOISY and label not in models]
        rows += [Row(label, figures[label], note="told the level of the noise") for label in methods]
        rows += [Row.of(label, model, figures[label]) for label, model in models.items()]
        return Report(
            self.name,
            self.version,
            chosen.to_dict(),
            self.metrics,
            tuple(rows),
            data={"images": count, "skipped": skipped},
            seeds=(chosen.seed,),
            environment=describe_environment(device),
            heading=f"{amount(count, 'image')}, {chosen.added_noise.words}, {len(skipped)} skipped",
            kind=self.contends.kind,
        )
