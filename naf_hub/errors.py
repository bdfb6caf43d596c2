"""Errors that naf-hub raises. Each message says in one line what was wrong and what to do."""

from __future__ import annotations


class NafHubError(Exception):
    """Base of every error that is naf-hub's own."""


class UnknownNameError(NafHubError, LookupError):
    """No upsampler, backbone or task of that name; the message lists the nearest names."""


class WeightsError(NafHubError, RuntimeError):
    """Weights are missing, corrupt, unsafe, or do not belong to this model."""


class WeightsChoiceError(WeightsError):
    """Weights must be chosen, or those that were chosen are not there.

    Python and a command line name weights each in its own way, so the error keeps what both messages are made of:
    ``str(error)`` tells Python's, :func:`as_typed` the other.

    Attributes:
        problem: what was wrong.
        name: of the model, as it is written.
        instead: what to do rather than to name weights, if there is such a thing.
    """

    def __init__(self, problem: str, name: str, instead: str = "") -> None:
        super().__init__(problem, name, instead)
        self.problem, self.name, self.instead = problem, name, instead

    def __str__(self) -> str:
        return self._advise("pass weights=", "weights=None for random initialisation")

    @property
    def typed(self) -> str:
        """The message where models are written as ``NAME=WEIGHTS``."""
        return self._advise(f"write {self.name}=WEIGHTS", f"{self.name}=none for random initialisation")

    def _advise(self, chosen: str, random: str) -> str:
        instead = f"{self.instead}, or " if self.instead else ""
        return f"{self.problem}; {instead}{chosen} (a named set, a path or hf://owner/repo), or {random}"


def as_typed(error: BaseException) -> str:
    """The message of an error for someone who wrote models as ``NAME=WEIGHTS``, in a command or a file."""
    return error.typed if isinstance(error, WeightsChoiceError) else str(error)


class OptionError(NafHubError, TypeError, ValueError):
    """A model cannot be built with the constructor options that were given; the message says what they may be."""


class PluginError(NafHubError, RuntimeError):
    """A plugin could not be loaded or registered (raised only under ``NAF_HUB_STRICT=1``)."""


class ImageError(NafHubError, ValueError):
    """An image file cannot be read or is no image."""


class DatasetError(NafHubError, ValueError):
    """A data set is not laid out as expected, or its parts do not fit each other; the message names folder or file."""


class NotEnoughMemoryError(NafHubError, MemoryError):
    """Something will not fit into memory; the message says how much it needs and how much is free."""


class MapError(NafHubError, ValueError):
    """A backbone does not have a map that was asked of it; the message says what it has."""


class MissingExtraError(NafHubError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""
