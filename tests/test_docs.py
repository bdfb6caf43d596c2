"""What the docs say is so: generated pages are fresh, the plugins that pages write work, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from docs_blocks import blocks
from docs_world import files_of, install_from_docs
from markdown.extensions.toc import slugify, unique

import naf_hub
from naf_hub import hookspecs
from naf_hub.testing import (
    BACKBONE_CHECKS,
    UPSAMPLER_CHECKS,
    check_backbone,
    check_restorer,
    check_upsampler,
)

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
HOOKS = [name for name in vars(hookspecs) if name.startswith("register_")]


def generator():
    if str(DOCS) not in sys.path:
        sys.path.append(str(DOCS))  # it imports the module beside it
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page",
    [
        "index.md",
        "registered.md",
        "cli.md",
        "zoo.md",
        "zoo.csv",
        "gallery.md",
        "board.md",
        "assets/sortable.js",
        "assets/speed-cpu-float32.svg",
        "assets/speed-h200-float32.svg",
        "assets/camvid-mobilenetv1.svg",
        "assets/camvid-vit-s14.svg",
        "assets/boundaries-mobilenetv1.svg",
        "assets/boundaries-vit-s14.svg",
        "assets/video.svg",
        "assets/depth.svg",
        "assets/growth-seconds.svg",
        "assets/growth-memory.svg",
        "assets/growth-factors.svg",
    ],
)
def test_generated_pages_are_fresh(page: str):
    assert (DOCS / page).read_text(encoding="utf-8") == generator().PAGES[page](), "run `make docs`"


def test_a_map_that_can_be_mistaken_is_told_beside_its_upsampler():
    page = (DOCS / "upsamplers.md").read_text(encoding="utf-8")
    told = {
        name: generator().caveat(naf_hub.registry.registry().find(name, naf_hub.UpsamplerRecord))
        for name in ("lift", "naf", "vit_up")
    }
    assert "cannot tell key maps" in told["lift"].replace("\n", " ")
    assert told["lift"] in page
    assert not told["naf"] + told["vit_up"]  # tokens; maps by name
    assert page.count("cannot tell") == 1


def rows_below(page: str, heading: str, column: str) -> dict[str, list[str]]:
    """Figures by row's name in a column of the first table with that column below a heading, as printed."""
    section = re.split(rf"(?m)^#+ {re.escape(heading)}$", (DOCS / page).read_text(encoding="utf-8"))[1]
    lines = [[cell.strip(" *`") for cell in line.split("|")[1:-1]] for line in section.splitlines()]
    at = next(n for n, cells in enumerate(lines) if column in cells)
    found, before = {}, ""
    for cells in lines[at + 2 : lines.index([], at)]:
        name = re.sub("^the same", before, cells[0].replace("`", ""))
        before = before if cells[0].startswith("the same") else name
        found[name] = re.findall(r"\d+\.\d+", cells[lines[at].index(column)])
    return found


ZERO_SHOT = "MobileNetV1 (zero-shot)"
# Of an older report, whose labels are not those of the table.
SHORTER = {"naf": "naf, default weights", "anyup": "anyup, the authors' weights"}


@pytest.mark.parametrize(
    ("report", "page", "heading", "column", "metrics"),
    [
        ("camvid-mobilenetv1", "results.md", "CamVid linear probe", ZERO_SHOT, ["miou", "miou_2px"]),
        ("camvid-vit-s14", "results.md", "CamVid linear probe", "ViT-S/14", ["miou", "miou_2px"]),
        ("boundaries-mobilenetv1", "results.md", "Boundaries", ZERO_SHOT, ["average_precision", "best_f"]),
        ("boundaries-vit-s14", "results.md", "Boundaries", "ViT-S/14", ["average_precision", "best_f"]),
        *(
            (report, page, heading, column, [column.split(" ")[0]])
            for report, page, heading in (
                ("video", "results.md", "Video"),
                ("depth", "depth.md", "Upsamplers on four backbones"),
            )
            for column in (
                ZERO_SHOT if report == "video" else "MobileNetV1",
                "EfficientNet-Lite0",
                "pico",
                "ViT-S/14",
            )
        ),
    ],
)
def test_kept_figures_of_charts_are_those_of_the_table(
    report: str, page: str, heading: str, column: str, metrics: list[str]
):
    printed = rows_below(page, heading, column)
    kept = {row["label"]: row["values"] for row in generator().charts.read(report)["rows"]}
    compared = 0
    for label, values in kept.items():
        # A row may still be without figures on the page; what it has must be what the chart shows.
        figures = printed[label if label in printed else SHORTER[label]][: len(metrics)]
        compared += bool(figures)
        assert not figures or figures == [f"{values[metric]:.1f}" for metric in metrics], label
    assert compared >= len(kept) - 1


def test_controls_are_paler_in_charts():
    charts = generator().charts
    for own, control in (("naf", "naf, guided by an even grey"), ("anyup", "blur, a control")):
        drawn = charts.bars("title", "unit", [charts.Bar(own, 2.0), charts.Bar(control, 1.0)])
        assert drawn.count(f'fill="{charts.colour_of(own)}"') == 1
        assert drawn.count(f'fill="{charts.colour_of(control)}"') == 1
        assert charts.colour_of(own) != charts.colour_of(control)
        assert "pale: controls" in drawn
    beside = charts.panels("title", "unit", ["a", "b"], [[charts.Bar("naf", 2.0, 0.1), None]])
    assert beside.count(f'fill="{charts.OURS}"') == 1
    assert "pale" not in beside


def test_names_and_figures_of_charts_stand_free():
    charts = generator().charts
    drawn = charts.bars("title", "unit", [charts.Bar("naf", 59.9, 0.3, 59.0), charts.Bar("other", 60.0)])
    lines = [float(x) for x in re.findall(r'<line x1="([0-9.]+)"', drawn)]
    figures = [
        float(x) - 7 * 11 for x in re.findall(r'x="([0-9.]+)"[^>]*text-anchor="end"[^>]*>[0-9]', drawn)
    ]
    assert len(figures) == 2
    assert max(lines) < min(figures)
    near = [(400.0 + 9 * n, 300.0 + 8 * n) for n in range(3)]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in near]
    for at in near:
        box = charts.free_place("uplift", at, taken)[3]
        assert not any(charts.overlap(box, other) for other in taken)
        taken.append(box)


@pytest.mark.parametrize("package", ["naf_hub_example", "naf_hub_mean_color", "naf_hub_box_blur"])
def test_plugins_of_the_docs_are_short(package: str):
    own = files_of("write-a-plugin.md", package)
    assert len(own) == 2
    assert sum(bool(line.strip()) for code in own.values() for line in code.splitlines()) <= 20


def test_the_learned_upsampler_of_the_docs_works(install_plugin, tmp_path: Path):
    install_from_docs(install_plugin, tmp_path, "naf_hub_mine", "mine", "add-a-learned-upsampler.md")
    assert naf_hub.info("mine").learned
    check_upsampler("mine", checks=["shapes", "gradients"])


def test_the_task_and_command_of_the_docs_work(install_plugin, tmp_path: Path):
    install_from_docs(install_plugin, tmp_path, "naf_hub_flatness", "flatness", "add-a-task.md")
    report = naf_hub.load_task("flatness").evaluate(["bilinear", "nearest"], None)
    assert [row.label for row in report.rows] == ["bilinear", "nearest"]
    assert report["bilinear"].values["change"] == pytest.approx(0, abs=1e-6)
    top = click.Group("naf-hub", commands={"eval": click.Group("eval")})
    sys.modules["naf_hub_flatness"].register_commands(top)
    result = CliRunner().invoke(top, ["eval", "flatness", "--upsampler", "bilinear", "--format", "markdown"])
    assert result.exit_code == 0, result.output
    assert "| bilinear | 0.000 |" in result.output


def test_the_plugin_of_the_docs_works(install_plugin, tmp_path: Path):
    entry = re.search(
        r'\[project\.entry-points\.naf_hub\]\n(\w+) = "(\w+)"',
        blocks(DOCS / "write-a-plugin.md", "toml")[0].code,
    )
    assert entry is not None
    install_from_docs(install_plugin, tmp_path, entry[2], entry[1])
    assert naf_hub.info("area").provider == "naf-hub-example"
    check_upsampler("area")


def test_the_backbone_of_the_docs_works(install_plugin, tmp_path: Path):
    install_from_docs(install_plugin, tmp_path, "naf_hub_mean_color", "mean_color")
    check_backbone("mean_color")


def test_the_restorer_of_the_docs_works(install_plugin, tmp_path):
    install_from_docs(install_plugin, tmp_path, "naf_hub_box_blur", "box_blur")
    check_restorer("box_blur")


def test_the_checks_named_in_the_docs_exist():
    text = (DOCS / "write-a-plugin.md").read_text()
    assert "UPSAMPLER_CHECKS" in text
    assert all((check.__doc__ or "").strip() for check in (UPSAMPLER_CHECKS | BACKBONE_CHECKS).values())


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_and_tested(hook: str):
    assert hook in (DOCS / "write-a-plugin.md").read_text()
    tests = "".join(
        path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_docs.py"
    )
    assert f"def {hook}(" in tests


def anchors(page: Path) -> set[str]:
    """What links may name behind ``#``: headings, as the site slugs them, and ids that are spelled out."""
    text = re.sub(r"(?ms)^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"(?m)^#+ +(.+?) *#*$", text):
        named = re.search(r"\{ *#([\w-]+)[^}]*\}$", heading)
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading)
        unique(named[1] if named else slugify(plain, "-"), found)
    return found | set(re.findall(r"\bid=\"([^\"]+)\"", text))


def links(text: str) -> list[tuple[str, str]]:
    """Targets of a text's links, and what they name behind ``#``."""
    return re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_exist(page: Path):
    for target, anchor in links(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name}: {target}#{anchor}"


def test_a_wrong_anchor_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`, [three](four.md)\n```sh\n# five\n```\n## Six {#seven}\n## Eight\n## Eight\n"
    )
    assert anchors(page) == {"one-two-three", "seven", "eight", "eight_1"}
    assert links("[a](b.md#c) [d](#e) ![f](g.png)") == [("b.md", "c"), ("", "e"), ("g.png", "")]


def test_every_public_name_has_a_docstring_and_is_in_the_api_page():
    api = (DOCS / "api.md").read_text()
    for name in naf_hub.__all__:
        if name in ("__version__", "hookimpl"):
            continue
        value = getattr(naf_hub, name)
        assert value.__doc__, name
        home = value.__module__
        assert f"::: naf_hub.{name}" in api or f"::: {home}" in api, f"{name} is not on the API page"


def test_pictures_are_made_by_the_commands_of_their_pages():
    pictures = generator().pictures
    assert pictures.named_command("views.md", "compare.jpg").startswith("naf-hub compare chelsea.png ")


def test_the_size_of_the_package_on_the_page_is_what_is_installed():
    rooms = [
        ROOT / "naf_hub",
        *(p for room in ("plugins", "backbones", "tasks") for p in (ROOT / room).iterdir()),
    ]
    files = [file for room in rooms for file in room.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    (stated,) = re.findall(
        r"with the weights it ships, is (\d+) MB", (DOCS / "quickstart.md").read_text("utf-8")
    )
    assert abs(sum(file.stat().st_size for file in files) / 1e6 - int(stated)) < 1


# What rows of the board are called in the tables of the pages.
PRINTED = {
    "blur": ["blur, a control"],
    "naf": ["naf, default weights"],
    "naf, guided by grey": ["naf, guided by an even grey"],
    "naf_local, guided by grey": ["naf_local, guided by an even grey"],
    "anyup": ["anyup, the paper's weights"],
    "anyup, multi-backbone": [
        "anyup, the authors' weights of several backbones",
        "anyup, several backbones",
    ],
    "featup_jbu": ["featup_jbu, the authors' weights for CLIP", "featup_jbu, CLIP's weights"],
    "image": ["the picture's own edges"],
}


@pytest.mark.parametrize(
    ("measure", "page", "heading", "columns"),
    [
        ("boundaries", "results.md", "Boundaries", (ZERO_SHOT, "pico", "EfficientNet-Lite0", "ViT-S/14")),
        ("video", "results.md", "Video", (ZERO_SHOT, "pico", "EfficientNet-Lite0", "ViT-S/14")),
        ("depth", "depth.md", "Upsamplers on four backbones", ("MobileNetV1", "pico", "ViT-S/14")),
        ("CamVid", "results.md", "CamVid linear probe", ("ViT-S/14",)),
    ],
)
def test_the_board_has_the_figures_of_the_pages(
    measure: str, page: str, heading: str, columns: tuple[str, ...]
):
    board = generator().board.Report.load(DOCS / "reports" / "board.json")
    compared = 0
    for column in columns:
        printed = rows_below(page, heading, column)
        for row in board.rows:
            value = row.values.get(f"{measure}, {column.removesuffix(' (zero-shot)')}")
            name = next((name for name in PRINTED.get(row.label, [row.label]) if name in printed), None)
            if value is not None and name is not None and printed[name]:
                compared += 1
                assert printed[name][0] == f"{value:.1f}", (row.label, column)
    assert compared >= 10 * len(columns)
