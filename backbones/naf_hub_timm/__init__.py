"""Backbones from timm: named records, and ``timm:<model name>`` for any other timm model."""

from __future__ import annotations

from naf_hub import hookimpl

from .table import alias_records


@hookimpl
def register_backbones(register):
    for record in alias_records():
        register(record)
    register.prefix("timm", "naf_hub_timm.records:record_for")
