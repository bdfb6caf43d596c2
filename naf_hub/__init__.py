"""naf-hub: one registry for vision-feature upsamplers.

>>> import naf_hub
>>> model = naf_hub.load("naf", backbone="pico")
>>> features = model("photo.jpg")  # (1, C, H, W): one vector a pixel

Importing this package imports neither torch nor timm; the first ``load`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .errors import ImageError, MapError, NafHubError, PluginError, UnknownNameError, WeightsError
    from .feature_files import open_features
    from .hookspecs import hookimpl
    from .interfaces import Backbone, ForeignWeights, Normalize, Restorer, Task, Upsampler, wrap
    from .loading import load, load_backbone, load_restorer, load_task
    from .picture import pca_picture
    from .pipeline import FeaturePipeline
    from .promises import Promises
    from .records import BackboneRecord, RestorerRecord, TaskRecord, UpsamplerRecord, Weights
    from .registry import info, list_backbones, list_restorers, list_tasks, list_upsamplers
    from .wants import Want

_HOME = {
    "ImageError": "errors",
    "MapError": "errors",
    "NafHubError": "errors",
    "PluginError": "errors",
    "UnknownNameError": "errors",
    "WeightsError": "errors",
    "open_features": "feature_files",
    "hookimpl": "hookspecs",
    "Backbone": "interfaces",
    "ForeignWeights": "interfaces",
    "Normalize": "interfaces",
    "Restorer": "interfaces",
    "Task": "interfaces",
    "Upsampler": "interfaces",
    "load": "loading",
    "load_backbone": "loading",
    "load_restorer": "loading",
    "load_task": "loading",
    "pca_picture": "picture",
    "FeaturePipeline": "pipeline",
    "Promises": "promises",
    "BackboneRecord": "records",
    "RestorerRecord": "records",
    "TaskRecord": "records",
    "UpsamplerRecord": "records",
    "Weights": "records",
    "info": "registry",
    "list_backbones": "registry",
    "list_restorers": "registry",
    "list_tasks": "registry",
    "list_upsamplers": "registry",
    "Want": "wants",
    "wrap": "interfaces",
}

__all__ = [
    "Backbone",
    "BackboneRecord",
    "FeaturePipeline",
    "ForeignWeights",
    "ImageError",
    "MapError",
    "NafHubError",
    "Normalize",
    "PluginError",
    "Promises",
    "Restorer",
    "RestorerRecord",
    "Task",
    "TaskRecord",
    "UnknownNameError",
    "Upsampler",
    "UpsamplerRecord",
    "Want",
    "Weights",
    "WeightsError",
    "__version__",
    "hookimpl",
    "info",
    "list_backbones",
    "list_restorers",
    "list_tasks",
    "list_upsamplers",
    "load",
    "load_backbone",
    "load_restorer",
    "load_task",
    "open_features",
    "pca_picture",
    "wrap",
]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): interfaces import torch, which takes seconds that `list` and `info` need not pay.
    if name not in _HOME:
        raise AttributeError(f"module 'naf_hub' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
