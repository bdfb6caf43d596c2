"""The torch.hub entry point, kept out of ``hubconf.py`` so that pip and torch.hub share one path."""

from __future__ import annotations

from typing import Any

from torch import nn

import naf_hub


def naf(pretrained: bool = True, backbone: str | None = None, **options: Any) -> nn.Module:
    """NAF in eval mode, as :func:`naf_hub.load` gives it.

    Args:
        pretrained: the weights that ship with the package; ``False`` is random initialisation.
        backbone: a registered backbone to put in front.
        options: further arguments of :func:`naf_hub.load`.
    """
    return naf_hub.load("naf", backbone, **({} if pretrained else {"weights": None}), **options)  # pyright: ignore
