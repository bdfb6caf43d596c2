"""Errors that naf-hub raises. Each message says in one line what was wrong and what to do."""

from __future__ import annotations


class NafHubError(Exception):
    """Base of every error that is naf-hub's own."""


class UnknownNameError(NafHubError, LookupError):
    """No upsampler, backbone or task of that name; the message lists the nearest names."""


class WeightsError(NafHubError, RuntimeError):
    """Weights are missing, corrupt, unsafe, or do not belong to this model."""


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
