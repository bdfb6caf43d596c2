"""The model zoo: what has weights, with its size and licence, as a page that can be searched and as a CSV file."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable

from naf_hub.records import BackboneRecord, Record, RestorerRecord, UpsamplerRecord, Weights

BYTES = 4  # of a parameter in float32, in which nearly all weights are published

HEADING = """---
hide: [toc]
---
"""
INTRODUCTION = """# Model zoo

What has learned weights, or is made to have them. Type to search, click a heading to sort; the same as [CSV](zoo.csv).
Parameters are millions, of upsamplers made for a number of channels at {channels}. The download is in MB, *in italics*
where the publisher states no size: then it is four bytes a parameter. The licence is that of the weights. *Sets* are
the published weights; without any (-) a model starts from random ones, to train.

Any timm model with a spatial feature map also loads, as `timm:<model name>`; methods without weights are on
[Upsamplers](upsamplers.md).
"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row; sizes in bytes, ``None`` where nothing is published or stated."""

    kind: str
    name: str
    sets: int
    parameters: int | None
    download: int | None
    download_stated: bool
    license: str
    free: bool | None
    channels: int | None
    patch: int | None
    native: int | None
    source: str
    paper: str


def entry(record: Record, parameters: int | None) -> Entry:
    sets = list(record.weights.values())
    stated = next((weights.size for weights in sets if weights.size), None)
    estimate = parameters * BYTES if parameters and sets else None
    licenses = sorted({weights.license or "not stated" for weights in sets})
    marks = [word for word, holds in _terms(record).items() if holds and word not in " ".join(licenses)]
    backbone = record if isinstance(record, BackboneRecord) else None
    return Entry(
        record.kind, record.name, len(sets), parameters, stated or estimate, stated is not None,
        ", ".join([*licenses, *marks]) or "-", all(weights.free for weights in sets) if sets else None,
        backbone.embed_dim if backbone else None, backbone.patch_size if backbone else None,
        backbone.native_size if backbone else None, _source(sets), record.paper or "",
    )  # fmt: skip


def _terms(record: Record) -> dict[str, bool]:
    if not isinstance(record, BackboneRecord):
        return {}
    return {"non-commercial": record.non_commercial, "gated": record.gated}


def _source(sets: list[Weights]) -> str:
    """Repository or file of the first set; empty where it ships with naf-hub, or where there is none."""
    if not sets or sets[0].source.startswith("package://"):
        return ""
    return f"https://huggingface.co/{sets[0].repository}" if sets[0].repository else sets[0].source


def entries(records: list[Record], count: Callable[[UpsamplerRecord], int]) -> list[Entry]:
    """Of all that is learned, upsamplers first; ``count`` tells the parameters of one that does not state them."""
    kinds = (UpsamplerRecord, BackboneRecord, RestorerRecord)
    learned = [record for kind in kinds for record in records if isinstance(record, kind) and record.learned]
    return [
        entry(
            record,
            count(record)
            if record.parameters is None and isinstance(record, UpsamplerRecord)
            else record.parameters,
        )
        for record in learned
    ]


def _millions(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e6:,.{1 if number >= 1e5 else 2}f}"


def _cells(row: Entry) -> list[str]:
    size = _millions(row.download)
    download = size if row.download_stated or row.download is None else f"*{size}*"
    license = f"[{row.license}]({row.source})" if "huggingface.co" in row.source else row.license
    about = [str(row.sets or "-")]
    if row.kind == "backbone":
        about = [str(row.channels), str(row.patch), str(row.native or "any")]
    return [f"`{row.name}`", license, *about, _millions(row.parameters), download]


def page(rows: list[Entry], note: str, channels: int) -> str:
    parts = [HEADING + note, INTRODUCTION.format(channels=channels)]
    for kind, heading in (("upsampler", "Upsamplers"), ("backbone", "Backbones"), ("restorer", "Restorers")):
        about = ["channels", "patch", "native size"] if kind == "backbone" else ["sets"]
        header = ["name", "licence", *about, "parameters", "download"]
        numbers = ["---:"] * (len(header) - 2)
        lines = [header, ["---", "---", *numbers], *(_cells(row) for row in rows if row.kind == kind)]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        parts.append(f'## {heading}\n\n<div class="sortable" markdown>\n\n{table}\n\n</div>\n')
    return "\n".join(parts)


def as_csv(rows: list[Entry]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Entry))
    writer.writerows(dataclasses.astuple(row) for row in rows)
    return text.getvalue()
