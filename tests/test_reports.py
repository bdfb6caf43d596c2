"""Reports: written and read without loss, printed in every format."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest

import naf_hub
from naf_hub.reports import Metric, Report, ReportError, Row, describe_environment

METRICS = (Metric("miou", "%", True, 1, "mIoU"), Metric("seconds", "s", False, 3))


def make() -> Report:
    rows = (
        Row("naf_plus_plus=50%", {"miou": 61.25, "seconds": 0.5}, "naf_plus_plus", "50%", "pico", "a|b & c"),
        Row("bilinear", {"miou": 64.5}, "bilinear", None, "pico", extras={"loss": (1.0, float("nan"))}),
        Row("other", {"miou": None, "seconds": float("inf")}),
    )
    protocol = {"size": (32, 48), "path": Path("a/b"), "options": {"dim": 3}}
    return Report("toy", 2, protocol, METRICS, rows, {"images": 3}, (0,), {"torch": "x"}, heading="3 images")


def test_round_trip(tmp_path: Path):
    report = make()
    assert Report.from_json(report.to_json()) == report
    assert report.protocol == {"size": [32, 48], "path": "a/b", "options": {"dim": 3}}
    assert report["bilinear"].extras == {"loss": [1.0, None]}
    assert report.created.endswith("+00:00")
    path = report.save(tmp_path / "new" / "report.json")
    assert Report.load(path) == report
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]
    with pytest.raises(KeyError, match="no row 'nearest'"):
        report["nearest"]


def test_a_newer_format_and_other_files_are_refused_in_one_line(tmp_path: Path):
    newer = {**json.loads(make().to_json()), "format": 99, "unheard_of": 1}
    path = tmp_path / "r.json"
    path.write_text(json.dumps(newer))
    with pytest.raises(
        ReportError, match=r"r\.json: report of format 99; this naf-hub .* reads up to 1: update it"
    ):
        Report.load(path)
    for text in ("", "[]", "{}", '{"format": 1}', '{"format": 1, "metrics": [{"nom": 3}]}', "3"):
        with pytest.raises(ReportError, match=r"^not a naf-hub report: [^\n]+$"):
            Report.from_json(text)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ReportError, match=r"r\.json"):
        Report.load(path)
    with pytest.raises(FileNotFoundError):
        Report.load(tmp_path / "missing.json")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = make().save(tmp_path / "r.json")
    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make().save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_the_first_metric_ranks():
    assert [row.label for row in make().ranked()] == ["bilinear", "naf_plus_plus=50%", "other"]
    fast = Report("toy", 1, {}, METRICS[::-1], make().rows)
    assert fast.ranked()[0].label == "naf_plus_plus=50%"
    assert Report("toy", 1, {}, (), make().rows).ranked() == make().rows


def test_table():
    assert make().table().splitlines() == [
        "3 images",
        "upsampler          mIoU %  seconds s  note",
        "naf_plus_plus=50%    61.2      0.500  a|b & c",
        "bilinear             64.5          -",
        "other                   -          -",
    ]


def test_csv_keeps_all_digits():
    rows = list(csv.DictReader(io.StringIO(make().csv())))
    assert rows[0] == {
        "label": "naf_plus_plus=50%", "upsampler": "naf_plus_plus", "weights": "50%", "backbone": "pico",
        "miou": "61.25", "seconds": "0.5", "note": "a|b & c",
    }  # fmt: skip
    assert rows[1]["seconds"] == rows[1]["weights"] == ""


def test_the_kind_of_what_is_compared_heads_the_first_column():
    report = dataclasses.replace(make(), kind="restorer")
    assert Report.from_json(report.to_json()) == report
    assert report.cells()[0][0] == "restorer"
    assert report.csv().startswith("label,restorer,weights,")
    older = json.loads(make().to_json())
    del older["kind"]
    assert Report.from_json(json.dumps(older)).kind == "upsampler"


def test_markdown_and_latex_are_escaped():
    markdown = make().markdown().splitlines()
    assert markdown[1] == "| --- | ---: | ---: | --- |"
    assert markdown[2] == r"| naf\_plus\_plus=50% | 61.2 | 0.500 | a\|b & c |"
    latex = make().latex().splitlines()
    assert latex[0] == r"\begin{tabular}{lrrl}"
    assert latex[2] == r"upsampler & mIoU \% & seconds s & note \\"
    assert latex[4] == r"naf\_plus\_plus=50\% & 61.2 & 0.500 & a|b \& c \\"
    odd = Report("toy", 1, {}, (), (Row("~^\\{}#$", {}),))
    assert odd.latex().splitlines()[4] == r"\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}\#\$ \\"


def test_rows_take_names_from_the_origin_of_a_model():
    naf = naf_hub.load("naf", weights=None, dim=16, num_blocks=1, rope_heads=1)
    row = Row.of("mine", naf, {"miou": 1.0}, backbone="pico")
    assert (row.label, row.upsampler, row.weights, row.backbone) == ("mine", "naf", None, "pico")
    naf.origin = None
    assert Row.of("mine", naf, {}).upsampler == "NAF"


def test_environment_says_what_computed():
    found = describe_environment("cpu")
    assert found["naf_hub"] == naf_hub.__version__
    assert {"torch", "cpu", "threads", "device"} <= found.keys()
    report = Report("toy", 1, {}, METRICS, (), environment=found)
    assert Report.from_json(report.to_json()).environment == found
