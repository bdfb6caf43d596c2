"""Every template gives a package that passes its own tests as it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from naf_hub.commands.main import cli
from naf_hub.commands.new_plugin import write_plugin
from naf_hub.kinds import KINDS


def install(folder: Path, site: Path, name: str) -> None:
    """What ``pip install -e`` would leave, without a network: the package's folder and its entry point."""
    info = site / f"naf_hub_{name}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: naf-hub-{name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[naf_hub]\n{name} = naf_hub_{name}\n")


@pytest.mark.parametrize("kind", [kind.word for kind in KINDS])
def test_what_is_written_passes_pytest_and_ruff(kind: str, tmp_path: Path):
    folder, site, name = tmp_path / "package", tmp_path / "site", f"my_{kind}"
    result = CliRunner().invoke(cli, ["new-plugin", kind, name, "-o", str(folder)])
    assert result.exit_code == 0, result.output
    assert "pip install -e" in result.output
    install(folder, site, name)
    path = os.pathsep.join([str(site), str(folder), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    listed = subprocess.run(
        [sys.executable, "-m", "naf_hub", "info", name],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"naf-hub-my_{kind}" in listed.stdout
    ruff = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "E,F",
        "--line-length",
        "110",
        str(folder),
    ]
    checked = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_nothing_is_overwritten(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    result = CliRunner().invoke(cli, ["new-plugin", "upsampler", "sharp", "-o", str(tmp_path / "mine")])
    assert result.exit_code == 1
    assert "exists, and nothing in it is overwritten" in result.output
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["My-Plugin", "1st", "", "a" * 41, "x/../y"])
def test_names_that_cannot_be_are_told(name: str, tmp_path: Path):
    result = CliRunner().invoke(cli, ["new-plugin", "task", name, "-o", str(tmp_path / "p")])
    assert result.exit_code == 2
    assert "lower snake case" in result.output
    assert not (tmp_path / "p").exists()


def test_an_unknown_kind_is_told(tmp_path: Path):
    assert CliRunner().invoke(cli, ["new-plugin", "cat", "tom"]).exit_code == 2
    with pytest.raises(ValueError, match="'cat' is none of upsampler"):
        write_plugin("cat", "tom", tmp_path / "p")
