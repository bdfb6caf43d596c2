"""``config.json`` beside weights that naf-hub wrote: what they are, how they are built, which bytes they have."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from .json_objects import read_object

FORMAT = 1
SHA256 = re.compile(r"[0-9a-f]{64}")
# What format 1 promises, in every file that was ever written.
FIELDS: dict[str, type] = {
    "format": int,
    "naf_hub_version": str,
    "name": str,
    "options": dict,
    "size": int,
    "sha256": str,
}
# A config with so many of the fields is ours: whoever removes one or two does not remove the checks.
ENOUGH = 3


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` beside a weights file; empty where there is none, or another project's.

    Raises:
        WeightsError: unreadable, written by a newer naf-hub, or lacking something of what the format promises.
    """
    if not path.is_file():
        return {}
    config = read_object(path)
    if "naf_hub_version" not in config and len(FIELDS.keys() & config.keys()) < ENOUGH:
        return {}  # somebody else's config.json (timm, transformers)
    if type(config.get("format")) is int and config["format"] > FORMAT:
        raise WeightsError(
            f"{path}: written by naf-hub {config.get('naf_hub_version')!r}; upgrade: pip install -U naf-hub"
        )
    for key, kind in FIELDS.items():
        if type(config.get(key)) is not kind:
            raise damaged(path, key, config.get(key))
    if config["format"] < 1:
        raise damaged(path, "format", config["format"])
    if not SHA256.fullmatch(config["sha256"]):
        raise damaged(path, "sha256", config["sha256"])
    if not isinstance(config.setdefault("provenance", {}), dict):
        raise damaged(path, "provenance", config["provenance"])
    return config


def damaged(path: Path, key: str, value: Any) -> WeightsError:
    """What to tell of a config whose ``key`` says something that naf-hub never writes."""
    return WeightsError(
        f"{path}: {key} = {reprlib.repr(value)} is nothing that naf-hub writes: damaged or edited; fetch the weights "
        "again"
    )
