"""What a user sees of ``list`` and ``info`` on terminals of any width and in pipes, and what TAB and ``-q`` do."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import naf_hub
from naf_hub import registry, terminal
from naf_hub.commands import registered
from naf_hub.commands.main import cli
from naf_hub.constructor_options import constructor_options
from naf_hub.record_facts import download_size, in_bytes, in_words, short_license


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch):
    """Set how wide the terminal is that reads; without it, a pipe reads."""

    def make(columns: int) -> None:
        for module in (terminal, registered):
            monkeypatch.setattr(module, "terminal_width", lambda: columns)

    return make


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_list_has_a_line_a_name_that_fits(width, columns: int):
    width(columns)
    lines = run("list").splitlines()
    assert max(map(len, lines)) <= columns
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    names = [
        *naf_hub.list_upsamplers(),
        *naf_hub.list_backbones(),
        *naf_hub.list_restorers(),
        *naf_hub.list_tasks(),
    ]
    assert sorted(listed) == sorted(names)


def test_list_is_whole_in_a_pipe():
    lines = run("list").splitlines()
    for name in (*naf_hub.list_upsamplers(), *naf_hub.list_backbones()):
        (line,) = [line for line in lines if line.split()[:1] == [name] and line.startswith("  ")]
        assert line.endswith(naf_hub.info(name).summary)


def test_list_tells_what_matters_for_choosing():
    heads = run("list", "--kind", "backbone").splitlines()[0].split()
    assert heads == ["backbones", "channels", "patch", "parameters", "licence", "weights", "summary"]
    lines = {line.split()[0]: line for line in run("list").splitlines() if line.startswith("  ")}
    assert lines["mae_b"].split()[1:7] == ["768", "16", "85.8", "M", "non-commercial", "default"]
    assert lines["dinov3_b"].split()[5:7] == ["own", "terms"]
    assert "Apache-2.0" in lines["naf"]
    assert "dino_s16, +10" in lines["featup_jbu"]
    shown = run("list").splitlines()
    assert shown.index(" DINOv2 vision transformer") + 1 == shown.index(lines["dinov2_b"])  # by family


def test_list_finds_a_part_of_a_name_and_one_kind():
    found = json.loads(run("list", "DINO", "--json"))
    assert {r["name"] for r in found["backbones"]} == {n for n in naf_hub.list_backbones() if "dino" in n}
    assert [r["name"] for r in found["upsamplers"]] == []
    assert naf_hub.list_upsamplers("bilateral") == [
        "bilateral",
        "joint_bilateral",
        "joint_bilateral_upsampling",
    ]
    assert naf_hub.list_upsamplers("bilateral*") == ["bilateral"]
    assert list(json.loads(run("list", "--kind", "task", "--json"))) == ["tasks"]
    assert "timm:" not in run("list", "--kind", "task")


def test_list_leaves_weights_out_before_it_cuts_licences(width):
    width(60)
    shown = run("list", "--kind", "backbone")
    heading = shown.splitlines()[0]
    assert "licence" in heading
    assert "weights" not in heading
    assert "…" not in shown


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_info_wraps_words_but_never_an_address(width, columns: int):
    width(columns)
    shown = run("info", "naf")
    assert naf_hub.info("naf").weights["official"].source in shown
    assert (
        max(len(line) for line in shown.splitlines() if "://" not in line and "sha256" not in line) <= columns
    )


def test_info_tells_how_to_load_what_it_costs_and_what_may_be_set():
    shown = run("info", "naf")
    assert 'naf_hub.load("naf")' in shown
    assert "parameters         662,528" in shown
    assert "nothing; 2.65 MB come with the package" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("  kernel_size ")]
    assert line.split(maxsplit=2)[1:] == ["9", "cells per side of the window, odd."]
    plus = run("info", "naf_plus_plus")
    assert 'naf_hub.load("naf_plus_plus", weights=None)' in plus
    assert [line.split()[1] for line in plus.splitlines() if line.startswith("  dim ")] == ["768"]
    assert 'naf_hub.load("loftup", backbone="dinov2_s")' in run("info", "loftup")
    assert "about 343 MB if it is stored in float32" in run("info", "dinov3_b")


def test_info_of_a_timm_model_prints_a_name_that_works():
    shown = run("info", "timm:resnet18")
    (name,) = [line.split()[1] for line in shown.splitlines() if line.startswith("name ")]
    assert naf_hub.info(name).name == name
    assert 'naf_hub.load_backbone("timm:resnet18")' in shown


def test_words_for_numbers():
    assert [in_words(n) for n in (0, 999, 1000, 34_305, 85_798_656, 999_600_000, 6_716_030_976)] == [
        "0", "999", "1.00 K", "34.3 K", "85.8 M", "1.00 G", "6.72 G",
    ]  # fmt: skip
    assert in_bytes(2_654_000) == "2.65 MB"


def test_licences_in_a_word():
    words = {
        name: short_license(naf_hub.info(name))
        for name in ("pico", "franca_b", "radio_v2_5_b", "uplift", "lift")
    }
    assert words == {"pico": "Apache-2.0", "franca_b": "non-commercial", "radio_v2_5_b": "non-commercial",
                     "uplift": "none stated", "lift": ""}  # fmt: skip
    record = naf_hub.UpsamplerRecord(
        name="a", summary="A.", target="a:B", weights={"x": naf_hub.Weights("hf://a/b")}
    )
    assert download_size(record, record.weights["x"]) == ""


OPTIONS = '''
    from naf_hub import UpsamplerRecord, hookimpl
    from options_naf_base import SIDE, Base

    raise_at_import = 1 / 1

    class Optioned(Base):
        """Text.

        Args:
            side: of ``the`` :class:`~naf_hub.Upsampler`,
                in pixels.
            rest: passed on.

        Raises:
            ValueError: never.
        """

        def __init__(self, channels, side: int = SIDE, *, mode="a", **rest):
            pass

    class Heir(Optioned):
        pass
'''


def test_options_of_a_constructor_are_read_without_running_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "options_naf"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('was imported')")
    text = OPTIONS.replace("options_naf_base", ".constants").replace("\n    ", "\n")
    (package / "model.py").write_text(text)
    (package / "constants.py").write_text("SIDE: int = 3 * 7\nclass Base: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [
        (o.name, o.default, o.text) for o in constructor_options("options_naf.model:Heir", {"mode": "b"})
    ]
    assert found == [
        ("channels", "required", ""),
        ("side", "3 * 7", "of the Upsampler, in pixels."),
        ("mode", "'b'", ""),
        ("**rest", "", "passed on."),
    ]
    assert "options_naf" not in sys.modules
    assert constructor_options("options_naf.nothing:Heir") == constructor_options("not_there.model:A") == []


def test_every_option_of_what_is_registered_is_documented():
    found = registry.registry().records.values()
    bare = {
        f"{record.target} {option.name}"
        for record in found
        for option in constructor_options(record.target)
        if not option.text
    }
    assert bare == set()


@pytest.mark.parametrize(
    ("words", "typed", "expected"),
    [
        (["info"], "dinov3_cnx", ["dinov3_cnx_b", "dinov3_cnx_l", "dinov3_cnx_s", "dinov3_cnx_t"]),
        (["upsample", "--upsampler"], "naf", ["naf", "naf_local", "naf_plus_plus", "naf_small"]),
        (["upsample", "--backbone"], "pico", ["pico"]),
        (["denoise", "--restorer"], "naf", ["naf_denoiser"]),
        (["eval", "segmentation", "--upsampler"], "carafe", ["carafe"]),
        (["bench", "naf"], "carafe", ["carafe"]),
        (["eval"], "dep", ["depth"]),
        ([], "upsam", ["upsample"]),
        (["list", "--kind"], "t", ["task"]),
    ],
)
def test_tab_completes_commands_and_names(words: list[str], typed: str, expected: list[str]):
    found = ShellComplete(cli, {}, "naf-hub", "_NAF_HUB_COMPLETE").get_completions(words, typed)
    assert [item.value for item in found] == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_asks_naf_hub(shell: str):
    script = run("completion", shell)
    assert f"_NAF_HUB_COMPLETE={shell}_complete" in script
    assert "naf-hub" in script


def test_a_bash_that_was_told_completes(tmp_path: Path):
    program = tmp_path / "naf-hub"
    # As the installed script, whose name click derives the variable from.
    program.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c "
        '"import sys; sys.argv[0] = \'naf-hub\'; from naf_hub.commands.main import main; main()" "$@"\n'
    )
    program.chmod(0o755)
    done = subprocess.run(
        [str(program)], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "COMP_WORDS": "naf-hub info pic", "COMP_CWORD": "2", "_NAF_HUB_COMPLETE": "bash_complete"},
    )  # fmt: skip
    assert done.stdout == "plain,pico\n", done.stderr


def test_quiet_and_verbose_hold_for_one_call():
    levels: list[int] = []

    @click.command("noted-level")
    def command() -> None:
        levels.append(logging.getLogger("naf_hub").getEffectiveLevel())
        terminal.tell("remark")

    from naf_hub.commands.verbosity import add_verbosity

    add_verbosity(command)
    before = logging.getLogger("naf_hub").level
    outputs = [CliRunner().invoke(command, given).stderr for given in ([], ["-q"], ["-v"])]
    assert outputs == ["naf-hub: remark\n", "", "naf-hub: remark\n"]
    assert levels[1:] == [logging.ERROR, logging.INFO]
    assert logging.getLogger("naf_hub").level == before


@pytest.mark.parametrize("place", [0, 1, 2], ids=["before the group", "before the command", "behind it"])
@pytest.mark.parametrize(("switch", "level"), [("-q", logging.ERROR), ("--verbose", logging.INFO)])
def test_quiet_and_verbose_may_come_before_the_command(
    place: int, switch: str, level: int, monkeypatch: pytest.MonkeyPatch
):
    from naf_hub.commands.main import cli
    from naf_hub.commands.verbosity import add_verbosity

    levels: list[int] = []
    group = cli.get_command(click.Context(cli), "eval")
    assert isinstance(group, click.Group)

    @click.command("noted")
    def noted() -> None:
        levels.append(logging.getLogger("naf_hub").getEffectiveLevel())

    add_verbosity(noted)
    monkeypatch.setitem(group.commands, "noted", noted)
    before = logging.getLogger("naf_hub").level
    words = ["eval", "noted"]
    words.insert(place, switch)
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert levels == [level]
    assert logging.getLogger("naf_hub").level == before


def test_a_log_gets_a_line_at_first_and_then_one_a_minute(capsys: pytest.CaptureFixture[str]):
    seconds = [0.0]
    lines = terminal._LogLines(2, lambda: seconds[0])
    shown = [
        (1, "none"),
        (2, "one"),
        (61, "two"),
        (62, "\rthree  "),
        (63, "\r     "),
        (200, "\r     "),
        (200, "four"),
    ]
    for at, text in shown:
        seconds[0] = at
        lines.write(text)
    assert capsys.readouterr().err == "naf-hub: one\nnaf-hub: three\nnaf-hub: four\n"


def test_progress_in_a_log_says_what_how_far_and_how_long(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    assert list(terminal.progress_bar(range(3), first=0, desc="counting", unit="number")) == [0, 1, 2]
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"naf-hub: counting: 0 of 3 numbers, 00:00 passed, .* left", line)
    with terminal.progress_bar(total=3, desc="counting") as bar:  # too short for a line
        bar.set_postfix_str("a remark")
        bar.update(3)
    list(terminal.progress_bar(range(3), wanted=False, first=0))
    caplog.set_level(logging.ERROR, "naf_hub")
    list(terminal.progress_bar(range(3), first=0))
    assert capsys.readouterr().err == ""


def test_every_bar_heeds_quiet():
    root = Path(__file__).parents[1]
    folders = ("naf_hub", "tasks", "plugins", "backbones")
    sources = [path for folder in folders for path in (root / folder).rglob("*.py")]
    assert len(sources) > 200
    assert not [path for path in sources if "disable=None" in path.read_text(encoding="utf-8")]


def test_quiet_shows_no_bar(caplog: pytest.LogCaptureFixture):
    assert terminal.no_bar() is None  # tqdm's own choice: on a terminal
    assert terminal.no_bar(False) is True
    caplog.set_level(logging.ERROR, "naf_hub")
    assert terminal.no_bar() is True
