"""What a release is made of agrees: version, changelog, citation, constraints of the oldest, workflows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import naf_hub
from naf_hub.onnx_export import ONNXSCRIPT

tomllib = pytest.importorskip("tomllib", reason="in the standard library since Python 3.11")

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_version_is_cited_and_in_the_changelog():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == naf_hub.__version__
    assert f"\n## {naf_hub.__version__} " in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_oldest_are_the_bounds_that_are_declared(project):
    pinned = {}
    for line in (ROOT / "constraints/oldest.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            (only,) = requirement.specifier
            assert only.operator == "=="
            pinned[requirement.name.lower()] = Version(only.version)
    extras = project["optional-dependencies"]
    declared = [
        *project["dependencies"],
        *(text for name in ("app", "demo", "eval", "export", "train") for text in extras[name]),
    ]
    for text in declared:
        requirement = Requirement(text)
        if requirement.marker is None:
            bound = next(Version(s.version) for s in requirement.specifier if s.operator == ">=")
            oldest = pinned[requirement.name.lower()]
            # A first patch release is the oldest of 1.11 where 1.11.0 cannot be installed.
            assert oldest.release[:2] == (*bound.release, 0)[:2], text
            assert oldest >= bound, text


def test_the_message_about_an_old_onnxscript_names_the_bound_that_is_declared(project):
    assert f"onnxscript>={ONNXSCRIPT}" in project["optional-dependencies"]["export"]


def test_python_versions_of_the_workflow_are_those_declared(project):
    matrix = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf-8"))["jobs"]["versions"]
    tried = {entry["python"] for entry in matrix["strategy"]["matrix"]["include"]} | {"3.11"}
    named = {c.rsplit(" ")[-1] for c in project["classifiers"] if re.search(r"Python :: 3\.\d+$", c)}
    assert tried == named
    assert f">={min(named, key=Version)}" == project["requires-python"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_files_that_workflows_name_are_there(path):
    text = path.read_text("utf-8")
    assert yaml.safe_load(text)["jobs"]
    for name in re.findall(r"(?<![\w/])(?:\.ci/run|[\w/]+\.(?:py|toml|md))(?![\w/])", text):
        assert list(ROOT.glob(name)), name
    assert "permissions:" in text


def test_the_tag_check_of_the_release_reads_the_version():
    script = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    pattern = re.search(r"sed -n 's/(.*?)/\\1/p' naf_hub/version.py", script)
    assert pattern is not None
    found = re.search(
        pattern[1].replace(r"\(", "(").replace(r"\)", ")"), (ROOT / "naf_hub/version.py").read_text(), re.M
    )
    assert found is not None
    assert found[1] == naf_hub.__version__


def test_a_release_needs_a_date_in_the_changelog():
    """As grep's pattern says in the workflow, with the version that the shell puts in."""
    script = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    (pattern,) = re.findall(r'grep --extended-regexp "(.*?)" CHANGELOG.md', script)
    pattern = re.sub(r"\$\{.*?\}", r"0\\.2\\.0", pattern.replace("\\\\.}", "}"))
    assert re.search(pattern, "## 0.2.0 (2026-12-01)")
    assert re.search(pattern, "## 0.2.0 - 2026-12-01")
    for line in ("## 0.2.0 (unreleased)", "## 0.2.01 (2026-12-01)", "## 0x2x0 (2026-12-01)"):
        assert not re.search(pattern, line)


def test_what_pypi_shows_links_to_nothing_beside_it():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["metadata"]
    text = (ROOT / "README.md").read_text("utf-8")
    for rule in settings["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text, count = re.subn(rule["pattern"], rule["replacement"], text)
        assert count, rule
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert [target for target in targets if not target.startswith("https://")] == []
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8").split("\nplugins:")[0])["site_url"]
    assert f"{site}latest/quickstart/#install" in targets
