"""Both splits of a data set as upsamplers see them behind a backbone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from naf_hub import Backbone, Upsampler
from naf_hub.store import FeatureStore

from .features import SplitFeatures, Survey, survey
from .pairs import Pairs


@dataclasses.dataclass
class Splits:
    """Both splits as one upsampler sees them behind a backbone."""

    train: Pairs
    val: Pairs
    cache: SplitFeatures
    seen: dict[str, Survey]
    workers: int


class SplitViews:
    """Both splits as each upsampler sees them; what one survey found serves all that see the same."""

    def __init__(self, train: Pairs, val: Pairs, store: FeatureStore, workers: int) -> None:
        self.train, self.val, self.store, self.workers = train, val, store, workers
        self.found: dict[tuple[Any, ...], dict[str, Survey]] = {}

    def of(self, upsampler: Upsampler, backbone: Backbone) -> Splits:
        """The splits for ``upsampler`` behind ``backbone``, surveyed if nobody saw them so before."""
        cache = SplitFeatures(self.store, backbone, upsampler)
        # Another reference has other moments, even of the same features.
        space = None if type(upsampler).reference is Upsampler.reference else id(upsampler)
        key = (id(backbone), upsampler.gather_key, space)
        if key not in self.found:
            device = self.store.device
            with frozen(backbone, device), frozen(upsampler, device):
                self.found[key] = {
                    split: survey(pairs, split, cache, self.workers)
                    for split, pairs in (("train", self.train), ("val", self.val))
                }
        return Splits(self.train, self.val, cache, self.found[key], self.workers)


@contextlib.contextmanager
def frozen(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode, on the device, no gradients to the parameters; a caller's module gets its state back."""
    flags = {parameter: parameter.requires_grad for parameter in module.parameters()}
    modes = {part: part.training for part in module.modules()}
    module.eval().requires_grad_(False).to(device)
    try:
        yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for part, mode in modes.items():
            part.training = mode
