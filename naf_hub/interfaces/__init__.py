"""The interfaces plugins implement. Images are RGB floats in [0, 1], shape (B, 3, H, W), everywhere."""

from ..records import IMAGENET_MEAN, IMAGENET_STD
from .backbone import Backbone
from .foreign_weights import ForeignWeights, Shape, Step
from .normalize import Normalize
from .plain_module import wrap
from .restorer import Restorer
from .stand_in import StandIn
from .task import Task
from .upsampler import Features, Upsampler

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Backbone",
    "Features",
    "ForeignWeights",
    "Normalize",
    "Restorer",
    "Shape",
    "StandIn",
    "Step",
    "Task",
    "Upsampler",
    "wrap",
]
