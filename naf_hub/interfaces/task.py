"""The interface of tasks: what upsampled features are for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..records import Record, UpsamplerRecord
from ..reports import Metric, Report

if TYPE_CHECKING:
    from ..training.course import Course


class Task:
    """What upsampled features are for; a subclass implements :meth:`evaluate`, or :meth:`course` and :meth:`train`.

    Attributes:
        name: the registered one.
        contends: record class of what it compares.
        version: of its protocol; figures of different versions do not compare.
        metrics: figures of each row of its reports; the first ranks.
        goes_on: whether ``evaluate`` takes ``out``, a folder from which the same evaluation, interrupted, goes on.
    """

    name: ClassVar[str] = ""
    contends: ClassVar[type[Record]] = UpsamplerRecord
    version: ClassVar[int] = 1
    metrics: ClassVar[tuple[Metric, ...]] = ()
    goes_on: ClassVar[bool] = False

    def train(self, **options: Any) -> dict[str, Any]:
        """Train and return a summary; raises ``NotImplementedError`` where the task cannot train."""
        raise NotImplementedError(f"task {self.name!r} does not train")

    def course(self, settings: Mapping[str, Any]) -> Course:
        """What is learned under these settings, for :class:`naf_hub.training.run.Run` to train.

        Raises:
            NotImplementedError: the task does not train.
        """
        raise NotImplementedError(f"task {self.name!r} does not train")

    def evaluate(
        self,
        contenders: Any,
        data: Any,
        protocol: Mapping[str, Any] | None = None,
        *,
        backbone: Any = None,
        device: Any = "cpu",
    ) -> Report:
        """Compare contenders, everything else being equal.

        Args:
            contenders: ``NAME[=WEIGHTS]``, :class:`~naf_hub.contenders.Contender` or modules; one, several, or
                modules by the label to report.
            data: what to evaluate on, as the task says.
            protocol: settings over the task's own, as plain data.
            backbone: ``NAME[=WEIGHTS]``, a contender or a module; ``None`` where the task needs none.
            device: where to compute.

        A task may take more keywords, for what changes no figure.

        Raises:
            NotImplementedError: the task cannot evaluate.
        """
        raise NotImplementedError(f"task {self.name!r} does not evaluate")
