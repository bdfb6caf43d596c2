"""What the docs say is so: generated pages are fresh, code blocks run, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import naf_hub
from naf_hub import hookspecs, registry
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
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["registered.md", "cli.md"])
def test_generated_pages_are_fresh(page: str):
    assert (DOCS / page).read_text(encoding="utf-8") == generator().PAGES[page](), "run `make docs`"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/index.md", "docs/quickstart.md", "docs/extract.md", "docs/views.md"]
)
def test_python_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    rgb = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(rgb).save("photo.jpg")
    Path("photos").mkdir()
    Image.fromarray(rgb).save("photos/photo.jpg")
    import torch

    scope: dict[str, object] = {"image": torch.rand(1, 3, 448, 448), "lr_features": torch.rand(1, 16, 28, 28)}
    found = [block for block in blocks(ROOT / page, "python") if "naf_hub" in block or "(image)" in block]
    assert found
    with torch.no_grad():
        for block in found:
            if "register" not in block:
                exec(block, scope)


def install_from_docs(install_plugin, tmp_path: Path, package: str, entry: str) -> None:
    page = DOCS / "write-a-plugin.md"
    files = {
        code.splitlines()[0].removeprefix("# "): code
        for code in blocks(page, "python")
        if code.startswith("# ")
    }
    own = {name: code for name, code in files.items() if name.startswith(f"{package}/")}
    assert len(own) == 2
    assert sum(bool(line.strip()) for code in own.values() for line in code.splitlines()) <= 20
    distribution = package.replace("_", "-")
    install_plugin(distribution, "", entry=entry, module=package)
    root = tmp_path / distribution
    (root / f"{package}.py").unlink()
    for name, code in own.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(code)
    registry.reload()


def test_the_plugin_of_the_docs_works(install_plugin, tmp_path: Path):
    entry = re.search(
        r'\[project\.entry-points\.naf_hub\]\n(\w+) = "(\w+)"', blocks(DOCS / "write-a-plugin.md", "toml")[0]
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
