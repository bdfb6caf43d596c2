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
        "assets/sortable.js",
        "assets/speed-cpu-float32.svg",
        "assets/speed-h200-float32.svg",
        "assets/camvid-mobilenetv1.svg",
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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_exist(page: Path):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


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
