"""What came out of a comparison: rows of figures, and all that is needed to read and repeat them."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .atomic import atomic_file
from .errors import NafHubError
from .escapes import one_line, plain
from .version import __version__
from .weights.json_objects import plain_data

FORMAT = 1


def amount(number: int, noun: str) -> str:
    """A number of things in words: ``amount(1, "image")`` is ``"1 image"``, and of 2 it is ``"2 images"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class ReportError(NafHubError, ValueError):
    """A file is no report, or one of a newer naf-hub."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of every row.

    Attributes:
        name: key among the values of a row.
        unit: ``"%"``, ``"s"``, ``"MiB"``, or empty.
        higher_is_better: which way is better.
        digits: decimals in tables; files keep all.
        title: heading in tables, where the name is not enough.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True
    digits: int = 3
    title: str = ""

    @property
    def heading(self) -> str:
        """The title (else the name) with the unit behind it."""
        return " ".join(part for part in (self.title or self.name, self.unit) if part)

    def text(self, value: float | None) -> str:
        """A value as tables show it; ``-`` where there is none."""
        return "-" if value is None else f"{value:.{self.digits}f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One contender.

    Attributes:
        label: unique in its report.
        values: figures by name of the metric; ``None`` where there is none.
        upsampler, weights, backbone: what was compared, the first by its name (that of a restorer in a report of
            those); ``weights`` is ``None`` for random ones and for methods without, ``backbone`` is ``None`` where
            none took part.
        note: a remark for the last column of tables.
        extras: plain data that is no column, such as losses and scores per class.
    """

    label: str
    values: Mapping[str, float | None]
    upsampler: str = ""
    weights: str | None = None
    backbone: str | None = None
    note: str = ""
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, label: str, model: Any, values: Mapping[str, float | None], **more: Any) -> Row:
        """A row that takes name and weights from the origin of a model, or its class where it has none."""
        origin = getattr(model, "origin", None)
        name = type(model).__name__ if origin is None else origin.record.name
        return cls(label, values, name, None if origin is None else origin.weights, **more)


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a task or a benchmark.

    Attributes:
        task: name of what was measured.
        version: of the protocol; figures of different versions do not compare.
        protocol: its settings, plain data.
        metrics: columns of figures; the first ranks.
        rows: one a contender, in the order they were given.
        data: what was evaluated on: plain data such as counts and what was skipped.
        seeds: that the figures depend on.
        environment: software and machine, see :func:`describe_environment`.
        created: UTC time, ISO 8601.
        heading: a line above tables.
        kind: of what the rows compare, which heads their first column.
    """

    task: str
    version: int
    protocol: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    created: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    )
    heading: str = ""
    kind: str = "upsampler"

    def __post_init__(self) -> None:
        # As JSON would give them back, so that a report equals the one read from its file.
        for name in ("protocol", "data", "environment"):
            object.__setattr__(self, name, plain_data(getattr(self, name)))
        object.__setattr__(self, "metrics", tuple(self.metrics))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        rows = [
            dataclasses.replace(row, values=plain_data(row.values), extras=plain_data(row.extras))
            for row in self.rows
        ]
        object.__setattr__(self, "rows", tuple(rows))

    def __getitem__(self, label: str) -> Row:
        """The row of a contender.

        Raises:
            KeyError: no such row.
        """
        for row in self.rows:
            if row.label == label:
                return row
        raise KeyError(f"no row {label!r}; rows: {', '.join(row.label for row in self.rows)}")

    def ranked(self) -> tuple[Row, ...]:
        """The rows, best first by the first metric; rows without that figure come last."""
        if not self.metrics:
            return self.rows
        first = self.metrics[0]
        sign = -1 if first.higher_is_better else 1

        def place(row: Row) -> tuple[bool, float]:
            value = row.values.get(first.name)
            return (value is None, 0.0 if value is None else sign * value)

        return tuple(sorted(self.rows, key=place))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lists = {
            "metrics": [dataclasses.asdict(metric) for metric in self.metrics],
            "rows": [{f.name: getattr(row, f.name) for f in dataclasses.fields(row)} for row in self.rows],
            "seeds": list(self.seeds),
        }
        return {"format": FORMAT, **fields, **lists}

    def to_json(self) -> str:
        """The report as JSON text; numbers that are not finite are ``null``."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report of a JSON text.

        Raises:
            ReportError: no report, or one of a newer naf-hub.
        """
        try:
            data = json.loads(text)
            found = data.pop("format")
            if not isinstance(found, int) or found > FORMAT:
                raise ReportError(
                    f"report of format {found}; this naf-hub ({__version__}) reads up to {FORMAT}: update it"
                )
            data["metrics"] = tuple(Metric(**metric) for metric in data["metrics"])
            data["rows"] = tuple(Row(**row) for row in data["rows"])
            return cls(**data)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ReportError(f"not a naf-hub report: {' '.join(str(error).split())}") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as JSON, whole or not at all."""
        with atomic_file(path) as temporary:
            temporary.write_text(self.to_json() + "\n", encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """The report in a file.

        Raises:
            FileNotFoundError: no such file.
            ReportError: see :meth:`from_json`; names the file.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (ReportError, UnicodeDecodeError) as error:
            raise ReportError(f"{os.fspath(path)}: {error}") from error

    def cells(self) -> list[list[str]]:
        """Heading and rows as text; a last column of notes where there are some."""
        notes = any(row.note for row in self.rows)
        header = [self.kind, *(metric.heading for metric in self.metrics), *(["note"] if notes else [])]
        body = [
            [
                row.label,
                *(m.text(row.values.get(m.name)) for m in self.metrics),
                *([row.note] if notes else []),
            ]
            for row in self.rows
        ]
        return [header, *body]

    def table(self) -> str:
        """Columns for a terminal: labels and notes to the left, figures to the right."""
        cells = self.cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        figures = range(1, 1 + len(self.metrics))
        lines = [
            "  ".join(
                cell.rjust(width) if i in figures else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join([*([self.heading] if self.heading else []), *lines])

    def csv(self) -> str:
        """Comma-separated values at full precision: label, kind, weights, backbone, metrics by name, note."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["label", self.kind, "weights", "backbone", *(m.name for m in self.metrics), "note"])
        for row in self.rows:
            values = [row.values.get(metric.name) for metric in self.metrics]
            writer.writerow([row.label, row.upsampler, row.weights, row.backbone, *values, row.note])
        return stream.getvalue().rstrip("\n")

    def markdown(self) -> str:
        """A Markdown table; what has a meaning there is escaped."""
        header, *body = ([plain(cell) for cell in row] for row in self.cells())
        rule = ["---" if i == 0 or i > len(self.metrics) else "---:" for i in range(len(header))]
        return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *body])

    def latex(self) -> str:
        """A LaTeX ``tabular`` for the booktabs package; what has a meaning there is escaped."""
        header, *body = ([_for_latex(cell) for cell in row] for row in self.cells())
        columns = "l" + "r" * len(self.metrics) + "l" * (len(header) - 1 - len(self.metrics))
        lines = [" & ".join(row) + r" \\" for row in [header, *body]]
        return "\n".join(
            [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
             r"\end{tabular}"]
        )  # fmt: skip


LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def _for_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in one_line(text))


def describe_environment(device: Any = "cpu") -> dict[str, Any]:
    """What figures were made with: versions of naf-hub and torch, device, processor, threads; plain data."""
    from .training.hardware import describe_hardware

    return {"naf_hub": __version__, "device": str(device), **describe_hardware(device)}
