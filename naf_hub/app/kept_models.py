"""Models that stay loaded while the page is open."""

from __future__ import annotations

import threading
from typing import Any

from ..contenders import Contender
from ..interfaces import Backbone, Upsampler
from ..photo_batch import describe_contender
from ..pipeline import FeaturePipeline
from ..records import BackboneRecord


class KeptModels:
    """Loads each model once. Of backbones the last is kept, since one may take gigabytes, with its upsamplers.

    Args:
        device: where models are put.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = device
        self._lock = threading.Lock()
        self._behind = ""
        self._backbone: tuple[Backbone, dict[str, Any]] | None = None
        self._upsamplers: dict[str, tuple[Upsampler, dict[str, Any]]] = {}

    def load(self, backbone: str, upsampler: str) -> tuple[FeaturePipeline, dict[str, Any]]:
        """The pipeline of two ``NAME[=WEIGHTS]``, and what a record says of it, see :mod:`naf_hub.made_with`.

        Raises:
            UnknownNameError, ValueError, WeightsError: as for :meth:`naf_hub.contenders.Contender.load`.
        """
        behind = Contender.parse(backbone, kind=BackboneRecord)
        chosen = Contender.parse(upsampler)
        with self._lock:
            if backbone != self._behind:
                self._behind, self._backbone, self._upsamplers = backbone, None, {}
            if upsampler not in self._upsamplers:
                # By name, so that weights which this backbone has none of are told before the backbone is fetched.
                made = chosen.load(behind.name, self.device)
                self._upsamplers[upsampler] = made, describe_contender(chosen, made)
            if self._backbone is None:
                loaded = behind.load(device=self.device)
                self._backbone = loaded, describe_contender(behind, loaded)
            (below, of_backbone), (above, of_upsampler) = self._backbone, self._upsamplers[upsampler]
        return FeaturePipeline(below, above).eval(), of_upsampler | of_backbone
