"""What is learned, as a :class:`~naf_hub.training.run.Run` sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

    from .settings import RunSettings


class Share(NamedTuple):
    """Which process of how many this is; each works on its own share of every step."""

    rank: int = 0
    processes: int = 1


ALONE = Share()


@dataclasses.dataclass
class Batch:
    """What one pass of a step needs.

    Attributes:
        content: whatever the course's ``loss`` understands.
        names: of the examples, for error messages.
        skipped: files passed over to make this batch, each with its reason.
    """

    content: Any
    names: tuple[str, ...] = ()
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Examination:
    """How good the model is, and what else is to be remembered of it.

    Attributes:
        figures: by subject (a backbone, say), plain numbers by name.
        subject: word under which the log names the subject of its figures.
        score: the one number by which the best weights are chosen; ``None`` chooses none.
        metric: name of the score.
        lower_is_better: whether a smaller score is the better one.
        preview: draws a picture; called at once, with the model as it was examined.
        kept: tensors to remember in the run and its checkpoints.
    """

    figures: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    subject: str = "subject"
    score: float | None = None
    metric: str = "score"
    lower_is_better: bool = True
    preview: Callable[[], Image.Image] | None = None
    kept: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Export:
    """Weights to be written, as :func:`naf_hub.weights.save_weights` takes them.

    Attributes:
        name: registered name that the weights belong to.
        weights: a module or its state dict.
        options: constructor options to load them with.
    """

    name: str
    weights: nn.Module | Mapping[str, Tensor]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Course(Protocol):
    """What is learned. A run owns steps, passes, processes, signals, checkpoints, log and board.

    The properties may be plain attributes; ``model``, ``facts`` and ``about`` are there after :meth:`prepare`.
    """

    @property
    def settings(self) -> RunSettings:
        """Decides, with the data, all that is computed."""
        ...

    @property
    def model(self) -> nn.Module:
        """What is learned, with all that a checkpoint must hold of it in its state dict."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a continued run must share beside the settings: plain JSON data by a name for people, such as
        ``{"list of images": {"files": 5, "sha256": "..."}}``.
        """
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """What summary, log and provenance say beside the run's own figures: plain JSON data."""
        ...

    @property
    def advice(self) -> str:
        """What to do when the loss is no longer finite; ``{saved}`` in it stands for the folder of the last good
        weights.
        """
        ...

    def prepare(self, device: torch.device, share: Share) -> None:
        """Do everything that can fail early: find the data, load and build the models on ``device``."""
        ...

    def batches(self, start: int, stop: int, share: Share) -> Iterable[Batch]:
        """``settings.accumulate`` batches for each step from ``start`` to ``stop - 1``, in order.

        They are a pure function of the settings, the step and the share, whatever ``start`` is: a continued
        run rests on it.
        """
        ...

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Tensor | None:
        """The scalar loss of one pass, by ``net``: the model, wrapped where several processes share gradients.

        ``step`` counts finished steps. Before each call the global random generators are set to a state that
        seed and step alone decide. ``None``: there is nothing to learn from; where no pass of a step has a
        loss, weights and optimizer stay and only the schedule moves on.
        """
        ...

    def examine(self, model: nn.Module, step: int) -> Examination | None:
        """Judge the model as it would be written, in eval mode and without gradients.

        Called by the first process after ``step`` steps where ``eval_every`` or ``preview_every`` is due;
        ``settings.is_due`` says which.
        """
        ...

    def export(self, model: nn.Module) -> Export | None:
        """The weights that ``best/`` and ``weights/`` get; ``None`` writes neither."""
        ...

    def card(self, summary: Mapping[str, Any]) -> str:
        """The model card of those weights: Markdown."""
        ...
