"""``naf-hub new-plugin``: what it writes passes its own tests as written, and nothing is ever overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from import_rules import Tree, unlisted_imports
from ready_python import run_python
from test_rooms import listed

import naf_hub
from naf_hub import hookspecs
from naf_hub.commands import new_plugin
from naf_hub.commands.main import cli
from naf_hub.commands.new_plugin import check_name, render_plugin, write_plugin
from naf_hub.kinds import KINDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WORDS = [kind.word for kind in KINDS]


def write_installed(kind: str, name: str, folder: Path) -> dict[str, str]:
    """Write a plugin with the metadata that pip would make of its pyproject.toml; an environment that sees it."""
    write_plugin(kind, name, "MIT", folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    requires = "".join(f"Requires-Dist: {line}\n" for line in project["dependencies"])
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n{requires}"
    )
    entries = "".join(f"{key} = {value}\n" for key, value in project["entry-points"]["naf_hub"].items())
    (info / "entry_points.txt").write_text(f"[naf_hub]\n{entries}")
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": path, "NAF_HUB_STRICT": "1"}


def ruff(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ruff", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("kind", WORDS)
def test_the_package_passes_pytest_and_ruff_as_written(kind: str, tmp_path: Path):
    folder = tmp_path / "plugin"
    env = write_installed(kind, f"made_by_{kind}_template", folder)
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", folder=folder, environment=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
    done = ruff("check", "--no-cache", ".", folder=folder)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", WORDS)
def test_the_templates_keep_the_rules_of_this_project(kind: str, tmp_path: Path):
    write_plugin(kind, "my_method", "MIT", tmp_path / "plugin")
    rules = "E,F,UP,B,SIM,C4,RUF,PT,NPY,PIE,RET"
    for command in (
        ["check", "--isolated", "--no-cache", "--select", rules],
        ["format", "--check", "--no-cache", "--isolated"],
    ):
        done = ruff(*command, "--line-length", "110", ".", folder=tmp_path / "plugin")
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", WORDS)
def test_the_templates_take_what_plugins_may_import(kind: str):
    sources = {
        path.removesuffix(".py").replace("/", "."): text
        for path, text in render_plugin(kind, "my_method", "MIT").items()
        if path.endswith(".py")
    }
    taken = {f"{i.target}.{i.name}" for i in Tree(sources).imports() if i.target.startswith("naf_hub")}
    assert f"naf_hub.{kind.title()}" in taken, "the base class was not seen"
    assert unlisted_imports(Tree(sources), listed()) == set()


@pytest.mark.parametrize("kind", WORDS)
def test_a_package_is_whole(kind: str):
    contents = render_plugin(kind, "my_method", "MIT")
    expected = {
        "pyproject.toml",
        "README.md",
        "naf_hub_my_method/__init__.py",
        f"naf_hub_my_method/{kind}.py",
        "tests/test_conformance.py",
    }
    assert expected <= set(contents)
    assert "$" not in "".join(contents.values()), "a placeholder was left"
    project = tomllib.loads(contents["pyproject.toml"])["project"]
    assert project["name"] == "naf-hub-my-method"
    assert project["license"] == "MIT"
    assert project["dependencies"] == [f"naf-hub>={naf_hub.__version__}"]
    assert project["entry-points"]["naf_hub"] == {"my_method": "naf_hub_my_method"}
    assert "class MyMethod(" in contents[f"naf_hub_my_method/{kind}.py"]


def test_there_is_a_template_for_every_kind_of_record():
    hooks = {name for name in vars(hookspecs) if name.startswith("register_")} - {"register_commands"}
    assert hooks <= {kind.hook for kind in KINDS}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MyMethod", "lower snake case"),
        ("my-method", "lower snake case"),
        ("my__method", "lower snake case"),
        ("my_", "lower snake case"),
        ("1st", "lower snake case"),
        ("a" * 41, "at most 40"),
        ("none", "Python's own None"),
        ("value_error", "Python's own ValueError"),
        ("bilinear", "already registered by naf-hub"),
        ("filters", "already registered by naf-hub"),
    ],
)
def test_names_that_cannot_work_are_refused_in_one_line(name: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        check_name(name)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_installed_is_not_written_again(install_plugin):
    install_plugin("some-other-name", "", module="naf_hub_mine")
    with pytest.raises(ValueError, match="naf_hub_mine is already installed"):
        check_name("mine")


def test_the_command_says_what_to_do_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["new-plugin", "upsampler", "my_method", "--license", "mit"])
    assert done.exit_code == 0, done.output
    for line in (
        "cd naf-hub-my-method",
        'pip install -e ".[test]"',
        "pytest",
        "naf_hub_my_method/upsampler.py",
    ):
        assert line in done.output
    assert (tmp_path / "naf-hub-my-method" / "naf_hub_my_method" / "upsampler.py").is_file()
    refused = CliRunner().invoke(cli, ["new-plugin", "upsampler", "Mine"])
    assert (refused.exit_code, list(tmp_path.iterdir())) == (2, [tmp_path / "naf-hub-my-method"])
    assert "lower snake case" in refused.output


def test_the_licence_is_asked_and_never_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    command = ["new-plugin", "upsampler", "my_method"]
    for options, message in (
        ([], "for example --license MIT"),
        (["--license", "mine"], "no SPDX expression"),
    ):
        refused = CliRunner().invoke(cli, [*command, *options])
        assert (refused.exit_code, list(tmp_path.iterdir())) == (2, [])
        assert message in refused.output
    monkeypatch.setattr(new_plugin, "can_ask", lambda: True)
    done = CliRunner().invoke(cli, command, input="bsd-3-clause\n")
    assert done.exit_code == 0, done.output
    assert "text of BSD-3-Clause into LICENSE" in done.output
    text = (tmp_path / "naf-hub-my-method" / "pyproject.toml").read_text()
    assert tomllib.loads(text)["project"]["license"] == "BSD-3-Clause"


@pytest.mark.parametrize("existing", ["folder", "empty folder", "file", "link"])
def test_what_exists_stays_as_it_is(existing: str, tmp_path: Path):
    target = tmp_path / "there"
    if existing == "file":
        target.write_text("mine")
    elif existing == "link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        if existing == "folder":
            (target / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(cli, ["new-plugin", "task", "my_task", "-o", str(target), "--license", "MIT"])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "exists and stays as it is" in done.output
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_made_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "there"
    write = new_plugin.atomic_folder

    def late(path):
        target.mkdir()
        (target / "notes.txt").write_text("mine")
        return write(path)

    monkeypatch.setattr(new_plugin, "atomic_folder", late)
    with pytest.raises(FileExistsError):
        write_plugin("upsampler", "my_method", "MIT", target)
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "notes.txt"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write, written = Path.write_text, []

    def failing(path: Path, *args, **kwargs):
        if len(written) == 3:
            raise OSError("disk full")
        written.append(path)
        return write(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(OSError, match="disk full"):
        write_plugin("upsampler", "my_method", "MIT", tmp_path / "there")
    assert len(written) == 3
    assert not list(tmp_path.iterdir())
