"""One ranked table of many reports: what is missing is run and kept, what does not compare is left out and told."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.contenders import Contender
from naf_hub.interfaces import Task
from naf_hub.leaderboard import Kept, Measure, Plan, assemble, read_plan, run_missing
from naf_hub.leaderboard.board_plan import shipped
from naf_hub.leaderboard.cells import cells
from naf_hub.leaderboard.entrants import Entrant
from naf_hub.leaderboard.markdown import markdown
from naf_hub.leaderboard.page import html
from naf_hub.records import BackboneRecord
from naf_hub.reports import Metric, Report, Row
from naf_hub.training.folder import FolderError
from naf_hub.training.settings import ConfigError
from naf_hub_open_vocabulary.vocabulary_protocol import VocabularyProtocol
from naf_hub_probing.boundaries import BoundaryProtocol
from naf_hub_probing.depth import DepthProtocol
from naf_hub_probing.segmentation import SegmentationProtocol
from naf_hub_reconstruction.comparison import Protocol as ReconstructionProtocol
from naf_hub_restoration.noisy_comparison import Protocol as DenoisingProtocol
from naf_hub_video.video_protocol import VideoProtocol

SCORES = {"nearest": 10.0, "bilinear": 20.0, "bicubic": 30.0}


class Toy(Task):
    """Gives scores of a table; ``data`` shifts them, and ``error`` wants little."""

    name = "toy"
    version = 2
    metrics = (Metric("score", "%"), Metric("error", "", False))
    calls = 0

    def evaluate(
        self, contenders, data, protocol=None, *, backbone=None, device="cpu", controls=(), broken=""
    ):
        type(self).calls += 1
        (contender,) = contenders
        if contender.label == broken:
            raise RuntimeError("out of\nluck")
        score = SCORES[contender.label] + float(data)
        values = {"score": score, "error": 1 / score}
        rows = [Row(contender.label, values, contender.label, backbone=backbone and backbone.label)]
        rows += [Row(f"{contender.label} ({name})", {"score": 99.0, "error": 0.0}) for name in controls]
        rows.append(Row("yardstick", {"score": 99.0, "error": 0.0}))
        return Report(self.name, self.version, {"seeds": 1, **(protocol or {})}, self.metrics, tuple(rows))


def entrants(*names, kind=naf_hub.UpsamplerRecord):
    found = [Contender.parse(name, kind=kind) for name in names]
    return tuple(Entrant(contender, contender.label) for contender in found)


def measure(name="toy", data="0", metric=0, **more):
    given = {"protocol": {}, "options": {}, "controls": (), "reports": (), "beside": (),
             "entrants": entrants("nearest", "bilinear", "bicubic"),
             "backbones": entrants("pico", kind=BackboneRecord), **more}  # fmt: skip
    return Measure(name, Toy(), data, metric=Toy.metrics[metric], **given)


def plan(*measures, baseline="", paper=None):
    return Plan("Toys", "", measures or (measure(),), baseline, paper or {})


@pytest.fixture
def kept(tmp_path):
    Toy.calls = 0
    return Kept(tmp_path / "reports")


def test_only_what_is_missing_is_run(kept):
    told = []
    assert run_missing(plan(), kept, tell=told.append) == {}
    assert Toy.calls == 3
    assert told[0] == "[1/3] toy: nearest"
    assert "score %: nearest 10.000" in told[1]
    assert run_missing(plan(), kept) == {}
    assert Toy.calls == 3
    two = plan(measure(), measure("more", data="5"))
    run_missing(two, kept)
    assert Toy.calls == 6
    damaged = next(kept.folder.glob("toy-*"))
    damaged.write_text("{")
    run_missing(two, kept)
    assert Toy.calls == 7


@pytest.mark.parametrize(
    "change",
    [
        {"data": "1"},
        {"protocol": {"seeds": 3}},
        {"controls": ("grey",)},
        {"backbones": entrants("pico=none", kind=BackboneRecord)},
    ],
)
def test_whatever_decides_figures_asks_for_new_ones(kept, change):
    run_missing(plan(), kept)
    run_missing(plan(measure(**change)), kept)
    assert Toy.calls == 6


def test_weights_of_a_path_count_by_their_content(kept, tmp_path):
    file = tmp_path / "model.safetensors"

    def cell_file(content):
        file.write_bytes(content)
        cell = plan(measure(entrants=entrants(f"naf={tmp_path}"))).measures[0]
        return next(cells(dataclasses.replace(plan(), measures=(cell,)))).file

    assert cell_file(b"one") != cell_file(b"two")
    assert cell_file(b"one") == cell_file(b"one")


def test_rows_are_ranked_by_their_mean_rank_and_yardsticks_are_not(kept):
    two = plan(measure(controls=("grey",)), measure("errors", metric=1), baseline="nearest")
    run_missing(two, kept)
    board = assemble(two, kept)
    ranked = [(row.label, row.values["mean_rank"]) for row in board.table.rows]
    assert ranked[:3] == [("bicubic", 1.0), ("bilinear", 2.0), ("nearest", 3.0)]
    assert {label for label, rank in ranked[3:] if rank is None} == {
        "yardstick", "nearest (grey)", "bilinear (grey)", "bicubic (grey)",
    }  # fmt: skip
    assert not board.notes()


def test_gain_over_the_baseline_where_all_is_percent(kept):
    chosen = plan(measure(), measure("more", data="4"), baseline="nearest")
    run_missing(chosen, kept)
    table = assemble(chosen, kept).table
    assert table["bicubic"].values["gain"] == pytest.approx(20)
    assert [metric.title for metric in table.metrics][:2] == ["mean rank", "mean gain over nearest"]
    mixed = assemble(plan(measure(), measure("errors", metric=1), baseline="nearest"), kept).table
    assert "gain" not in {metric.name for metric in mixed.metrics}
    assert [metric.name for metric in mixed.metrics] == ["mean_rank", "toy", "errors"]  # of one evaluation


def test_one_failure_takes_nothing_along_and_is_told(kept):
    chosen = plan(measure(options={"broken": "bilinear"}))
    failed = run_missing(chosen, kept)
    assert failed == {("toy", "bilinear"): "out of\\nluck"}
    board = assemble(chosen, kept, failed)
    assert [row.label for row in board.table.rows] == ["bicubic", "nearest", "yardstick"]
    assert board.notes() == ["missing: toy, bilinear: out of\\nluck"]


def test_an_older_protocol_does_not_compare(kept, monkeypatch):
    run_missing(plan(), kept)
    monkeypatch.setattr(Toy, "version", 3)
    board = assemble(plan(), kept)
    assert not board.table.rows
    assert len(board.left_out) == 3
    assert set(board.left_out.values()) == {"protocol version 2, and toy is at 3"}


def test_reports_made_elsewhere_enter_where_they_compare(kept, tmp_path):
    def brought(name, **change):
        report = Report(
            "toy", 2, {"seeds": 1}, Toy.metrics, (Row("theirs", {"score": 25.0}, "theirs", backbone="pico"),)
        )
        return dataclasses.replace(report, **change).save(tmp_path / f"{name}.json")

    other_backbone = (Row("theirs", {"score": 25.0}, backbone="dinov2_reg_s"),)
    paths = (
        brought("good"), brought("seeds", protocol={"seeds": 9}), brought("old", version=1),
        brought("task", task="depth"), brought("backbone", rows=other_backbone), tmp_path / "absent.json",
    )  # fmt: skip
    chosen = plan(measure(reports=paths))
    run_missing(chosen, kept)
    board = assemble(chosen, kept)
    assert [(row.label, row.values["mean_rank"]) for row in board.table.rows[:3]] == [
        ("bicubic", 1), ("theirs", 2), ("bilinear", 3),
    ]  # fmt: skip
    reasons = {Path(file).stem: reason for file, reason in board.left_out.items()}
    assert set(reasons) == {"seeds", "old", "task", "backbone", "absent"}
    assert reasons["seeds"] == "seeds = 9, not 1"
    assert reasons["old"] == "protocol version 1, and toy is at 2"


def test_beside_the_paper(kept):
    paper = {"toy": {"bicubic": 31.5, "naf": 40.0}, "depth": {"naf": 1.0}}
    chosen = plan(paper=paper)
    run_missing(chosen, kept)
    found = assemble(chosen, kept).paper
    assert found["toy: bicubic"].values == {"paper": 31.5, "ours": 30.0, "difference": -1.5}
    assert found["toy: naf"].note == "no row naf in the plan"
    assert found["depth: naf"].note == "no column depth in the plan; it has: toy"


def test_page_escapes_and_marks_the_best(kept):
    chosen = dataclasses.replace(plan(), title="<b>")
    run_missing(chosen, kept)
    text = html(assemble(chosen, kept), note="a & b")
    assert "<title>&lt;b&gt;</title>" in text
    assert "a &amp; b" in text
    assert '<td class="best">30.000</td>' in text
    assert '<td class="best">20.000</td>' not in text
    assert "aria-sort" in text  # the script is inside


PLAN = """
title = "Edges"
upsamplers = ["bilinear", {{ model = "naf=none", label = "untrained" }}]
backbones = ["pico"]

[[measures]]
task = "boundaries"
data = "edges"
controls = ["grey"]

[[measures]]
name = "absent"
task = "boundaries"
data = "nowhere"
"""


@pytest.fixture
def edges(tmp_path):
    for part in ("images", "boundaries"):
        (tmp_path / "edges" / part).mkdir(parents=True)
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[10:30, 20:50] = (200, 40, 90)
    Image.fromarray(picture).save(tmp_path / "edges/images/a.png")
    outline = np.zeros((48, 64), np.uint8)
    outline[10, 20:50] = outline[30, 20:50] = outline[10:30, 20] = outline[10:30, 50] = 255
    Image.fromarray(outline).save(tmp_path / "edges/boundaries/a.png")
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format())
    return path


def leaderboard(*arguments):
    return CliRunner().invoke(cli, ["leaderboard", *map(str, arguments), "--device", "cpu"])


def test_command(edges, tmp_path):
    out = tmp_path / "board"
    done = leaderboard(edges, "-o", out)
    assert done.exit_code == 1  # one column has no data
    assert "missing: absent: no folder" in done.stderr
    assert "untrained (grey)" in done.stdout
    assert {path.name for path in out.glob("leaderboard.*")} == {
        f"leaderboard.{ending}" for ending in ("md", "csv", "tex", "html", "json")
    }
    table = Report.load(out / "leaderboard.json")
    assert {"bilinear", "untrained", "untrained (grey)", "image"} == {row.label for row in table.rows}
    empty = leaderboard(edges, "-o", tmp_path / "empty", "--no-run")
    assert empty.stdout == "Edges: no figures yet\n"
    (out / "naf-hub-results.json").unlink()  # as before there was one
    again = leaderboard(edges, "-o", out, "--no-run", "--format", "csv")
    assert again.exit_code == 0
    assert again.stdout.startswith("label,upsampler")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("boundaries", "boundariez"), "boundariez"),
        (
            ("controls = [", "options = { progres = false }\ncontrols = ["),
            "no option 'progres'; did you mean progress?",
        ),
        (
            ("controls = [", "options = { device = 'cpu' }\ncontrols = ["),
            "has no option 'device'; options: progress",
        ),
        (
            ("controls = [", "options = { progress = 'no' }\ncontrols = ["),
            "plan.toml: measure 'boundaries': option progress = 'no': must be true or false",
        ),
        (('["pico"]', '[{ model = "pico", protocol = { limit = 2 } }]'), "belong to a measure or to a row"),
        (("bilinear", "bilineer"), "plan.toml: unknown upsampler 'bilineer'; did you mean"),
        (('data = "edges"', 'date = "edges"'), "unknown key 'date'; did you mean data?"),
        (('name = "absent"', 'name = "boundaries"'), "two measures called 'boundaries'"),
        (("untrained", "bilinear"), "upsampler 'bilinear' twice"),
        (('controls = ["grey"]', 'metric = "miou"'), "boundaries has average_precision"),
        (('upsamplers = ["bilinear", { model = "naf=none", label = "untrained" }]', ""), "none is named"),
        (("[[measures]]", "[measures]"), "plan.toml"),
        (("label =", 'control = "gray", label ='), "no control 'gray'; there are: grey, other"),
        (
            ("label =", 'backbones = ["picco"], label ='),
            "'untrained' is for the backbone 'picco'; the plan has: pico",
        ),
        (
            ("label =", 'measures = ["edge"], label ='),
            "is for the measure 'edge'; the plan has: absent, boundaries",
        ),
        (
            ('["pico"]', '[{ model = "pico", measures = ["absent"] }]'),
            "where it serves is said by the measures",
        ),
        (
            ('data = "edges"', 'data = "edges"\nbeside = ["miou"]'),
            "beside = 'miou': boundaries has average_precision",
        ),
        (('title = "Edges"', "[paper]\nedges = 3\n"), "plan.toml"),
        (('model = "naf=none", ', ""), "plan.toml: no 'model'"),
    ],
)
def test_bad_plans_are_one_line(edges, tmp_path, change, told):
    edges.write_text(edges.read_text().replace(*change))
    done = leaderboard(edges, "-o", tmp_path / "board")
    assert done.exit_code in (1, 2)
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize("text", ["", "measures = [3]", 'measures = "x"'])
def test_plans_without_measures_are_one_line(tmp_path, text):
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"plan\.toml: (no 'measures'|.* stands where a table)"):
        read_plan(tmp_path / "plan.toml")


def test_no_plan_need_be_shipped(edges, monkeypatch, tmp_path):
    monkeypatch.setattr("naf_hub.leaderboard.board_plan.resources.files", lambda _: tmp_path / "nothing")
    assert shipped() == []
    assert read_plan(edges).measures
    with pytest.raises(FileNotFoundError, match=r"give a TOML file$"):
        read_plan("nowhere")


def test_a_place_that_cannot_be_written_is_told_before_anything_is_run(edges, tmp_path):
    (tmp_path / "file").touch()
    done = leaderboard(edges, "-o", tmp_path / "file" / "board")
    assert done.exit_code == 1
    assert "no file can be made there" in done.stderr
    assert "[1/" not in done.stderr


def test_a_folder_of_the_user_is_left_alone(edges, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    done = leaderboard(edges, "-o", tmp_path / "mine")
    assert done.exit_code == 1
    assert "mine is not empty (letter.txt) and holds no results of leaderboard" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    (tmp_path / "mine" / "reports").mkdir()
    assert leaderboard(edges, "-o", tmp_path / "mine").exit_code == 1, "reports may be of the user's, too"


def test_no_plan_of_the_name():
    with pytest.raises(FileNotFoundError, match="no plan nowhere: give a TOML file"):
        read_plan("nowhere")


@pytest.mark.parametrize("name", shipped())
def test_shipped_plans_name_what_there_is(name):
    """Reading looks up every task and model, and builds no settings: those of the measures are tried here."""
    chosen = read_plan(name)
    rows = {}
    for cell in cells(chosen):
        rows.setdefault(cell.column, set()).add(cell.entrant.label)
        protocol = {"boundaries": BoundaryProtocol, "open_vocabulary": VocabularyProtocol,
                    "video_segmentation": VideoProtocol, "depth": DepthProtocol,
                    "segmentation": SegmentationProtocol, "denoising": DenoisingProtocol,
                    "reconstruction": ReconstructionProtocol}[cell.measure.task.name]  # fmt: skip
        protocol.read(cell.protocol)
    for column, figures in chosen.paper.items():
        assert set(figures) <= rows[column]
    assert name in ("edges", "results") or set(chosen.paper) == set(rows)


def test_tables_of_the_paper_are_shipped():
    assert {f"paper-table-{number}" for number in (2, 3, 4, 5, 8, 9, 11, 12)} <= set(shipped())
    assert read_plan("paper-table-9").paper["Cityscapes, SigLIP2-B"]["large x2"] == 56.98
    figures = read_plan("paper-table-8").paper
    assert (figures["sigma 0.5"]["rednet"], figures["p 0.1"]["naf_denoiser"]) == (24.46, 47.47)


def test_a_row_may_have_settings_of_its_own(kept):
    larger = Entrant(Contender.parse("bilinear"), "larger", {"enlarge": 2})
    chosen = plan(measure(protocol={"enlarge": 1}, entrants=(*entrants("bilinear"), larger)))
    run_missing(chosen, kept)
    plain, own = cells(chosen)
    assert plain.file.split("-")[1:3] != own.file.split("-")[1:3]
    assert [kept.load(cell).protocol["enlarge"] for cell in (plain, own)] == [1, 2]
    assert [row.label for row in assemble(chosen, kept).table.rows[:2]] == ["bilinear", "larger"]


def test_what_is_plainly_missing_is_told_without_a_run(kept, tmp_path):
    chosen = plan(measure(data=str(tmp_path / "nowhere"), entrants=entrants("nearest", "bicubic", "lift")))
    there = plan(measure(data=str(tmp_path), entrants=entrants("nearest", "lift")))
    place = f"no data at {tmp_path / 'nowhere'}"
    assert assemble(chosen, kept).notes() == [
        f"missing: toy: {place}",
        "missing: toy, lift: no weights of lift are known; name some, lift=PATH",
    ]
    assert list(assemble(there, kept).missing.values()) == [
        ("not evaluated",), ("no weights of lift are known; name some, lift=PATH",),
    ]  # fmt: skip


def test_what_is_made_per_backbone_lacks_a_set_of_others(kept, tmp_path):
    """As the record says, before anything runs; a backbone with a set, and weights by a path, lack nothing."""
    rows = entrants("jafar", f"jafar={tmp_path}")
    both = entrants("pico", "dinov2_s", kind=BackboneRecord)
    chosen = plan(measure(data=str(tmp_path), entrants=rows, backbones=both))
    assert [cell.lacks for cell in cells(chosen) if cell.entrant.label == "jafar"] == [
        ("no weights of jafar for pico are known; name some, jafar=PATH",), (),
    ]  # fmt: skip
    assert not any(cell.lacks for cell in cells(chosen) if cell.entrant.label != "jafar")


def test_what_several_columns_lack_is_one_line(kept, tmp_path):
    both = [
        measure(name, data=str(tmp_path), entrants=entrants("nearest", "lift")) for name in ("one", "two")
    ]
    assert assemble(plan(*both), kept).notes() == [
        "missing: one, two, nearest: not evaluated",
        "missing: one, two, lift: no weights of lift are known; name some, lift=PATH",
    ]


@pytest.mark.parametrize("figure", ['"high"', "true", "nan"])
def test_paper_figures_must_be_numbers(edges, figure):
    edges.write_text(edges.read_text() + f'\n[paper."boundaries"]\nnaf = {figure}\n')
    with pytest.raises(ConfigError, match="give a table of numbers"):
        read_plan(edges)


def test_a_row_may_be_a_control(edges, tmp_path):
    """Alone, without a rank, and with other figures than what it stands in for."""
    plain = '{ model = "naf=none", label = "untrained" }'
    edges.write_text(edges.read_text().replace(plain, f'{plain}, {{ model = "naf=none", control = "grey" }}')
                     .replace('controls = ["grey"]\n', "").split('[[measures]]\nname = "absent"')[0])  # fmt: skip
    done = leaderboard(edges, "-o", tmp_path / "board")
    assert done.exit_code == 0, done.stderr
    table = Report.load(tmp_path / "board/leaderboard.json")
    assert table["naf=none (grey)"].values["mean_rank"] is None
    assert table["naf=none (grey)"].values["boundaries"] != table["untrained"].values["boundaries"]
    assert len(list((tmp_path / "board/reports").glob("*.json"))) == 3


def test_rows_compete_where_they_are_told_to(kept):
    both = entrants("pico", "pico=none", kind=BackboneRecord)
    here = dataclasses.replace(entrants("bicubic")[0], measures=("more",), backbones=("pico=none",))
    rows = (*entrants("bilinear"), here)
    chosen = plan(measure(entrants=rows, backbones=both), measure("more", "5", entrants=rows, backbones=both))
    run_missing(chosen, kept)
    assert Toy.calls == 5
    values = assemble(chosen, kept).table["bicubic"].values
    assert [name for name, value in values.items() if name != "mean_rank"] == ["more, pico=none"]
    assert not assemble(chosen, kept).missing


def test_what_another_process_is_at_is_left_to_it(kept):
    chosen = plan()
    first, second, _ = cells(chosen)
    told = []
    with kept.claim(first):
        assert run_missing(chosen, kept, tell=told.append) == {}
    assert Toy.calls == 2
    assert told[0].startswith("[1/3] toy: nearest: process ")
    assert not list(kept.folder.glob(".*.lock"))
    (kept.folder / second.file).unlink()
    run_missing(chosen, kept)
    assert Toy.calls == 4  # a claim ends with who had it


def test_a_cell_that_came_meanwhile_is_not_run_again(kept, monkeypatch):
    chosen = plan()
    run_missing(chosen, kept)
    absent = iter([None] * 3)
    monkeypatch.setattr(kept, "load", lambda cell: next(absent, True))
    run_missing(chosen, kept)  # all were missing when it looked first
    assert Toy.calls == 3


def test_weights_start_where_the_data_does(edges, tmp_path):
    edges.write_text(edges.read_text().replace("naf=none", "naf=mine.safetensors"))
    assert list(cells(read_plan(edges)))[1].entrant.contender.weights == "mine.safetensors"
    (tmp_path / "mine.safetensors").touch()
    assert list(cells(read_plan(edges)))[1].entrant.contender.weights == str(tmp_path / "mine.safetensors")
    (tmp_path / "mine.safetensors").rename(tmp_path / "edges/mine.safetensors")
    below = read_plan(edges, tmp_path / "edges")
    assert list(cells(below))[1].entrant.contender.weights == str(tmp_path / "edges/mine.safetensors")


def test_markdown_has_a_table_of_every_measure(kept):
    chosen = plan(measure(beside=Toy.metrics[1:], protocol={"limit": 2}), measure("other", data="7"))
    cell = next(cells(chosen))
    row = Row("nearest", {"score": 9.0, "score_spread": 0.25, "error": 0.1})
    environment = {"seconds": 90.0, "cpu": "AMD EPYC", "threads": 1}
    kept.store(
        cell, Report("toy", 2, {}, (*Toy.metrics, Metric("score_spread")), (row,), environment=environment)
    )
    text = markdown(chosen, kept, assemble(chosen, kept))
    assert (
        "## toy\n\nscore % ± standard deviation over the seeds, in brackets error; higher is better." in text
    )
    assert "| nearest | 9.000 ± 0.2500 (0.100) | 1.5 |" in text
    assert "Task toy, version 2, with limit = 2. On AMD EPYC, 1 thread." in text
    assert "## other" not in text  # has no figures yet
    run_missing(chosen, kept)
    assert kept.load(list(cells(chosen))[1]).environment["seconds"] >= 0


class Steady(Toy):
    """Goes on from files of its parts in ``out``; the third part is where it may be interrupted."""

    goes_on = True
    parts: list[int] = []  # noqa: RUF012
    trouble: BaseException | None = None

    def evaluate(self, contenders, data, protocol=None, *, out=None, **more):
        for part in range(4):
            file = out / f"{part}.part"
            if file.exists():
                continue
            if part == 2 and self.trouble is not None:
                raise self.trouble
            out.mkdir(exist_ok=True)
            file.touch()
            self.parts.append(part)
        return super().evaluate(contenders, data, protocol, **more)


@pytest.fixture
def steady(monkeypatch):
    monkeypatch.setattr(Steady, "parts", [])
    one = dataclasses.replace(measure(entrants=entrants("bilinear")), task=Steady())
    return plan(one)


def test_an_interrupted_cell_goes_on(kept, steady, monkeypatch):
    monkeypatch.setattr(Steady, "trouble", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_missing(steady, kept)
    assert assemble(steady, kept).missing
    monkeypatch.setattr(Steady, "trouble", None)
    told = []
    assert run_missing(steady, kept, tell=told.append) == {}
    assert Steady.parts == [0, 1, 2, 3]
    assert told[1] == "    going on from what is there"
    (cell,) = cells(steady)
    assert [path.name for path in kept.folder.iterdir()] == [cell.file]
    report = kept.load(cell)
    assert "seconds" not in report.environment  # those of its first part are not known
    (kept.folder / cell.file).unlink()
    run_missing(steady, kept)
    assert kept.load(cell).environment["seconds"] >= 0


def test_what_cannot_go_on_begins_anew_once(kept, steady, monkeypatch):
    for trouble in (
        OSError("disk full"),
        ValueError("disk full"),
    ):  # another cause costs nothing that is there
        monkeypatch.setattr(Steady, "trouble", trouble)
        assert run_missing(steady, kept) == {("toy", "bilinear"): "disk full"}
    assert Steady.parts == [0, 1]
    told = []
    monkeypatch.setattr(Steady, "trouble", FolderError("pictures\nchanged"))
    run_missing(steady, kept, tell=told.append)
    assert Steady.parts == [0, 1, 0, 1]
    assert told[2] == "    cannot go on, so begins anew: pictures\\nchanged"
    monkeypatch.setattr(Steady, "trouble", None)
    assert run_missing(steady, kept) == {}
    assert Steady.parts == [0, 1, 0, 1, 2, 3]


def test_tasks_that_keep_results_say_so():
    for name in naf_hub.list_tasks():
        task = naf_hub.load_task(name)
        assert task.goes_on == ("out" in inspect.signature(task.evaluate).parameters), name


def test_a_column_of_a_task_goes_on_from_its_pictures(edges, tmp_path, monkeypatch):
    for part in ("images", "boundaries"):
        (tmp_path / f"edges/{part}/b.png").write_bytes((tmp_path / f"edges/{part}/a.png").read_bytes())
    edges.write_text(edges.read_text().split('[[measures]]\nname = "absent"')[0])
    straight = leaderboard(edges, "-o", tmp_path / "straight", "--format", "csv")
    assert straight.exit_code == 0, straight.stderr
    calls = []
    upsample = naf_hub.load("bilinear").__class__.upsample

    def interrupted(self, image, features, output_size):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return upsample(self, image, features, output_size)

    monkeypatch.setattr(naf_hub.load("bilinear").__class__, "upsample", interrupted)
    assert leaderboard(edges, "-o", tmp_path / "board").exit_code == 130
    again = leaderboard(edges, "-o", tmp_path / "board", "--format", "csv")
    assert again.stdout == straight.stdout
    assert len(calls) == 3
    assert not list((tmp_path / "board/reports").glob(".*"))


def test_a_control_by_nature_has_no_rank(edges, tmp_path):
    edges.write_text(edges.read_text().replace('label = "untrained"', 'label = "untrained", ranked = false')
                     .split('[[measures]]\nname = "absent"')[0])  # fmt: skip
    assert leaderboard(edges, "-o", tmp_path / "board").exit_code == 0
    table = Report.load(tmp_path / "board/leaderboard.json")
    assert table["untrained"].values["mean_rank"] is None
    assert table["untrained"].values["boundaries"] is not None
    assert table["bilinear"].values["mean_rank"] == 1.0
    edges.write_text(
        'backbones = [{ model = "pico", ranked = false }]\n'
        + edges.read_text().replace('backbones = ["pico"]\n', "")
    )
    with pytest.raises(ConfigError, match="rows are ranked, not backbones"):
        read_plan(edges)
