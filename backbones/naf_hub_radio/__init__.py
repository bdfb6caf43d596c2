"""NVIDIA's agglomerative vision backbones RADIOv2.5 and C-RADIOv2."""

from __future__ import annotations

from naf_hub import hookimpl

from .records import records


@hookimpl
def register_backbones(register):
    for record in records():
        register(record)
