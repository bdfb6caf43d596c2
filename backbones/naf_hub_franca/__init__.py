"""Franca (valeo.ai): open vision transformers of patch 14, with the RASA head that removes positional bias."""

from __future__ import annotations

from naf_hub import hookimpl

from .releases import records


@hookimpl
def register_backbones(register):
    for record in records():
        register(record)
