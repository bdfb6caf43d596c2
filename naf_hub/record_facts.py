"""What a record says, in a few words each: for tables and pages."""

from __future__ import annotations

from .records import BackboneRecord, Record, UpsamplerRecord, Weights

FLOAT32 = 4


def in_words(number: int, units: tuple[str, ...] = ("", " K", " M", " G")) -> str:
    """A number, from a thousand on with three digits and a unit: ``86.6 M``."""
    value, step = float(number), 0
    while value >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    decimals = max(0, 3 - len(str(int(value)))) if step else 0
    return f"{value:.{decimals}f}{units[step]}"


def in_bytes(number: int) -> str:
    """A number of bytes: ``346 MB``."""
    return in_words(number, (" bytes", " kB", " MB", " GB"))


def short_license(record: Record) -> str:
    """Licence of the weights that are loaded by default, or of the first set: its name where it allows every use, else
    what to mind; empty where no weights are published."""
    weights = record.weights.get("default") or next(iter(record.weights.values()), None)
    limited = isinstance(record, BackboneRecord) and record.non_commercial
    if limited or "-nc-" in ((weights and weights.license) or "").lower():
        return "non-commercial"
    if isinstance(record, BackboneRecord) and record.gated:
        return "gated"
    if weights is None:
        return ""
    if weights.license is None or weights.license == "none stated":
        return "none stated"
    return weights.license if weights.free else "own terms"


def short_sets(record: Record) -> str:
    """Names of a record's weights, of more than two the first and how many more; empty where none are needed."""
    names = list(record.weights)
    if not names:
        return "none yet" if record.learned else ""
    return ", ".join(names if len(names) <= 2 else [names[0], f"+{len(names) - 1}"])


def download_size(record: Record, weights: Weights) -> str:
    """What loading a set fetches, in words; empty where neither its size nor the parameters are stated."""
    if weights.source.startswith("package://"):
        return f"nothing; {in_bytes(weights.size)} come with the package" if weights.size else "nothing"
    if weights.size is not None:
        return in_bytes(weights.size)
    if record.parameters:
        return f"not stated; about {in_bytes(record.parameters * FLOAT32)} if it is stored in float32"
    return ""


def call_of(record: Record, loader: str) -> str:
    """The line of Python that loads it."""
    backbone = ""
    if isinstance(record, UpsamplerRecord) and not record.backbone_agnostic and record.weights:
        backbone = f', backbone="{next(iter(record.weights))}"'
    elif record.learned and "default" not in record.weights:
        backbone = ", weights=None"
    return f'naf_hub.{loader}("{record.name}"{backbone})'
