"""The task object behind ``naf_hub.load_task("reconstruction")``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from naf_hub.contenders import Contender, load_contenders, name_model, parse_backbone
from naf_hub.controls import add_controls
from naf_hub.image_files import find_images
from naf_hub.interfaces import Backbone, Task
from naf_hub.reports import Metric, Report, Row, amount, describe_environment

if TYPE_CHECKING:
    from .course import ReconstructionCourse

METRICS = (
    Metric("mse", "", False, 5),
    Metric("ratio_to_bilinear", "", False, 4, "/bilinear"),
    Metric("guidance_gain", "%", True, 1, "guidance gain"),
    Metric("cosine", "", True, 4),
)


class Reconstruction(Task):
    """Feature reconstruction: upsample the features of a downscaled image to those of the image itself.

    Needs images only, no labels. Its error says how much of the detail a backbone would have given at a
    higher resolution the upsampler recovers.
    """

    name: ClassVar[str] = "reconstruction"
    version: ClassVar[int] = 1
    goes_on: ClassVar[bool] = True
    metrics: ClassVar[tuple[Metric, ...]] = METRICS

    def course(self, settings: Mapping[str, Any]) -> ReconstructionCourse:
        """The course of these keys of :class:`~naf_hub_reconstruction.config.TrainConfig`."""
        from naf_hub.training.settings import build

        from .config import TrainConfig
        from .course import ReconstructionCourse

        return ReconstructionCourse(build(TrainConfig, settings))

    def train(self, **options: Any) -> dict[str, Any]:
        """See :func:`train`."""
        return train(**options)

    def evaluate(
        self,
        contenders: Any,
        data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        protocol: Mapping[str, Any] | None = None,
        *,
        backbone: str | Contender | Backbone | None = None,
        device: Any = "cpu",
        progress: bool = True,
        controls: Sequence[str] = (),
        fit: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        out: str | os.PathLike[str] | None = None,
    ) -> Report:
        """Reconstruction error of upsamplers on the same images; bilinear interpolation is the yardstick.

        Args:
            contenders: see :func:`naf_hub.contenders.load_contenders`.
            data: images: files, folders or patterns, none of them trained on.
            protocol: settings of :class:`~naf_hub_reconstruction.comparison.Protocol`.
            backbone: gives the features; ``NAME[=WEIGHTS]``, a contender or a module; needed.
            device: where to compute.
            progress: show progress bars on stderr.
            controls: after each guided upsampler, rows of the same one guided by what must not help; see
                :func:`naf_hub.controls.add_controls`.
            fit: images to fit the image-free ceiling on; by default those of ``data``.
            out: keep the figures of each image in this folder; an interrupted evaluation goes on from them, see
                :class:`naf_hub.kept_results.KeptResults`. The ceilings are fitted and measured anew.

        Returns:
            A report with a row for the image-free ceiling at its end; see
            :func:`~naf_hub_reconstruction.comparison.compare` for the figures. ``data`` holds the number of
            ``images``, of those the ceiling was ``fitted_on``, and those ``skipped``: file to reason.

        Raises:
            FileExistsError: ``out`` holds other files.
            ImageError: no usable image.
            ValueError: no backbone, or a setting that does not exist.
            UnknownNameError, WeightsError: see :func:`naf_hub.load`.
        """
        from .comparison import CONVEX, FITTED, IMAGE_FREE, Protocol, compare

        if backbone is None:
            raise ValueError("reconstruction needs a backbone; give backbone=")
        chosen = Protocol.read(protocol or {})
        files = find_images([data] if isinstance(data, (str, os.PathLike)) else data)
        if chosen.limit and chosen.limit < len(files):
            files = [files[i * len(files) // chosen.limit] for i in range(chosen.limit)]
        behind = parse_backbone(backbone)
        name = behind.label if isinstance(behind, Contender) else name_model(behind)
        made_for = behind.name if isinstance(behind, Contender) else behind
        models = add_controls(load_contenders(contenders, made_for=made_for, device=device), controls)
        if isinstance(behind, Contender):
            behind = behind.load(device=device)
        skipped: dict[str, str] = {}
        fitted = find_images([fit] if isinstance(fit, (str, os.PathLike)) else fit) if fit else []
        figures, count = compare(models, behind, files, chosen, device, skipped, progress, fitted, out)
        rows = [
            Row.of(
                label,
                model,
                figures[label],
                backbone=name,
                extras={"bilinear_mse": figures[label]["bilinear_mse"]},
            )
            for label, model in models.items()
        ]
        rows += [Row(label, figures[label], label, backbone=name) for label in (IMAGE_FREE, CONVEX)]
        return Report(
            self.name,
            self.version,
            chosen.to_dict(),
            self.metrics,
            tuple(rows),
            data={"images": count, "skipped": skipped, "fitted_on": min(len(fitted) or count, FITTED)},
            seeds=(0,),
            environment=describe_environment(device),
            heading=f"{amount(count, 'image')}, {name}, {len(skipped)} skipped",
        )


def train(
    *,
    out: str | os.PathLike[str],
    recipe: str | Sequence[str] = (),
    resume: bool = False,
    extend: bool = False,
    allow_changed_images: bool = False,
    cache_features: str | os.PathLike[str] | None = None,
    device: Any = None,
    tensorboard: bool = False,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Train an upsampler.

    Args:
        out: folder of the run.
        recipe: a shipped recipe or a TOML file, or several, of which later ones win; settings go over them.
        cache_features: folder for features of the frozen backbones; needs ``views``.
        resume, extend, allow_changed_images, device, tensorboard, progress: see :class:`~naf_hub.training.run.Run`.
        settings: keys of :class:`~naf_hub_reconstruction.config.TrainConfig`.

    Returns:
        The summary of :meth:`naf_hub.training.run.Run.run`.
    """
    from naf_hub.training.run import Run
    from naf_hub.training.settings import build

    from .config import TrainConfig, read_recipe
    from .course import ReconstructionCourse

    named = [recipe] if isinstance(recipe, str) else recipe
    config = build(TrainConfig, *map(read_recipe, named), settings)
    course = ReconstructionCourse(config, cache_features, out)
    return Run(
        course,
        out,
        resume=resume,
        extend=extend,
        allow_changed_images=allow_changed_images,
        device=device,
        tensorboard=tensorboard,
        progress=progress,
    ).run()
