"""Loading plugins: whatever one of them does, the others work and the user is told once."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import textwrap
import threading

import pytest

import naf_hub
from naf_hub import plugins, registry
from naf_hub.plugins import Plugin

GOOD = """
    from naf_hub import UpsamplerRecord, hookimpl

    @hookimpl
    def register_upsamplers(register):
        register(UpsamplerRecord(name="{name}", summary="made for a test", target="somewhere:Thing"))
"""

BROKEN = {
    "import error": ("import a_package_that_is_not_there", "ModuleNotFoundError"),
    "native library": ("raise OSError('undefined symbol: _Znatten')", "undefined symbol"),
    "exits": ("raise SystemExit(3)", "SystemExit"),
    "syntax": ("def broken(:", "SyntaxError"),
    "misspelt hook": (
        "from naf_hub import hookimpl\n@hookimpl\ndef register_upsampler(register): pass",
        "unknown hook",
    ),
    "extra argument": (
        "from naf_hub import hookimpl\n@hookimpl\ndef register_upsamplers(register, more): pass",
        "more",
    ),
    "no hook": ("x = 1", "implements no naf-hub hook"),
    "raises": (
        "from naf_hub import hookimpl\n@hookimpl\ndef register_tasks(register): raise RuntimeError('boom')",
        "boom",
    ),
    "wrong record": (
        "from naf_hub import hookimpl, TaskRecord\n@hookimpl\ndef register_upsamplers(register):\n"
        "    register(TaskRecord(name='t', summary='s', target='a:B'))",
        "takes a UpsamplerRecord",
    ),
    "bad name": (
        "from naf_hub import hookimpl, UpsamplerRecord\n@hookimpl\ndef register_upsamplers(register):\n"
        "    register(UpsamplerRecord(name='Not/Good', summary='s', target='a:B'))",
        "lower snake case",
    ),
    "clashing name": (
        "from naf_hub import hookimpl, UpsamplerRecord\n@hookimpl\ndef register_upsamplers(register):\n"
        "    register(UpsamplerRecord(name='half_done', summary='s', target='a:B'))\n"
        "    register(UpsamplerRecord(name='naf', summary='s', target='a:B'))",
        "already registered by naf-hub",
    ),
}


def plugin_of(distribution: str) -> Plugin:
    return next(p for p in registry.registry().loader.plugins if p.distribution == distribution)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_reported_and_the_rest_works(kind, install_plugin, caplog):
    code, message = BROKEN[kind]
    install_plugin("aa-broken", code)
    install_plugin("zz-good", GOOD.format(name="good_one"))
    assert {"naf", "bilinear", "good_one"} <= set(naf_hub.list_upsamplers())
    assert "half_done" not in naf_hub.list_upsamplers(), "a refused plugin left something behind"
    assert message in (plugin_of("aa-broken").error or "")
    assert plugin_of("zz-good").error is None
    told = [r.getMessage() for r in caplog.records if "aa-broken" in r.getMessage()]
    assert len(told) == 1
    assert "\n" not in told[0]


def test_every_hook_is_called(install_plugin):
    code = """
        import click
        from naf_hub import BackboneRecord, RestorerRecord, TaskRecord, UpsamplerRecord, hookimpl

        @hookimpl
        def register_restorers(register):
            register(RestorerRecord(name="a_restorer", summary="s", target="a:B"))

        @hookimpl
        def register_upsamplers(register):
            register(UpsamplerRecord(name="an_upsampler", summary="s", target="a:B"))

        @hookimpl
        def register_backbones(register):
            register(BackboneRecord(name="a_backbone", summary="s", target="a:B"))
            register.prefix("family", "all_hooks:any_of_it")

        @hookimpl
        def register_tasks(register):
            register(TaskRecord(name="a_task", summary="s", target="a:B"))

        @hookimpl
        def register_commands(cli):
            pass

        def any_of_it(rest):
            return BackboneRecord(name="family:" + rest, summary="s", target="a:B")
    """
    install_plugin("all-hooks", code)
    assert len(plugin_of("all-hooks").hooks) == 5
    assert "an_upsampler" in naf_hub.list_upsamplers()
    assert "a_backbone" in naf_hub.list_backbones()
    assert "a_task" in naf_hub.list_tasks()
    assert naf_hub.info("family:x").name == "family:x"
    assert "a_restorer" in naf_hub.list_restorers()
    assert naf_hub.info("family:x").provider == "all-hooks"


def test_strict_raises(install_plugin, monkeypatch):
    monkeypatch.setenv("NAF_HUB_STRICT", "1")
    install_plugin("aa-broken", "import a_package_that_is_not_there")
    with pytest.raises(naf_hub.PluginError, match="aa-broken"):
        naf_hub.list_upsamplers()


def test_an_unknown_name_mentions_broken_plugins(install_plugin):
    install_plugin("aa-broken", "import a_package_that_is_not_there")
    with pytest.raises(naf_hub.UnknownNameError, match=r"bilinear.*aa_broken of aa-broken failed"):
        naf_hub.info("bilinaer")


def test_two_distributions_with_one_entry_point_name_are_both_named(install_plugin):
    install_plugin("first-dist", GOOD.format(name="one"), entry="same")
    install_plugin("second-dist", GOOD.format(name="two"), entry="same")
    assert "one" in naf_hub.list_upsamplers()
    assert "two" not in naf_hub.list_upsamplers()
    assert "already provided by first-dist" in (plugin_of("second-dist").error or "")


def test_the_environment_restricts(install_plugin, monkeypatch):
    install_plugin("zz-good", GOOD.format(name="good_one"))
    monkeypatch.setenv("NAF_HUB_PLUGINS", "zz_good")
    registry.reload()
    assert naf_hub.list_upsamplers() == ["good_one"]
    monkeypatch.setenv("NAF_HUB_PLUGINS", "")
    registry.reload()
    assert "naf" in naf_hub.list_upsamplers()
    assert "good_one" not in naf_hub.list_upsamplers()


def test_metadata_is_kept(install_plugin):
    install_plugin("zz-good", GOOD.format(name="good_one"))
    plugin = plugin_of("zz-good")
    assert (plugin.version, plugin.requires, plugin.hooks) == (
        "1.2",
        "naf-hub>=0.1",
        ("register_upsamplers",),
    )
    assert naf_hub.info("good_one").provider == "zz-good"


GOOD_CODE = textwrap.dedent(GOOD.format(name="good_one"))


def test_eight_threads_load_once(install_plugin):
    install_plugin("zz-good", "print('imported')\n" + GOOD_CODE)
    seen: list[registry.Registry] = []
    threads = [threading.Thread(target=lambda: seen.append(registry.registry())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, seen))) == 1


def test_commands_of_a_broken_plugin_do_not_take_the_others(install_plugin, caplog):
    from click.testing import CliRunner

    from naf_hub.commands.main import Cli, _add_commands, cli

    install_plugin(
        "aa-broken",
        "from naf_hub import hookimpl\n@hookimpl\ndef register_commands(cli): raise RuntimeError('boom')",
    )
    install_plugin(
        "zz-good",
        "import click\nfrom naf_hub import hookimpl\n@hookimpl\ndef register_commands(cli):\n"
        "    cli.add_command(click.Command('made_for_a_test', callback=lambda: click.echo('hello')))",
    )
    assert isinstance(cli, Cli)
    _add_commands()
    try:
        assert CliRunner().invoke(cli, ["made_for_a_test"]).output == "hello\n"
        assert any("boom" in r.getMessage() for r in caplog.records)
    finally:
        del cli.commands["made_for_a_test"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise SystemExit(3)", "failed: SystemExit"),
        ("cli.command('list')(lambda: print('HIJACKED'))", "may not replace the command 'list'"),
        (
            "cli.commands['train'].command('reconstruction')(lambda: 0)",
            "replace the command 'reconstruction'",
        ),
        ("cli.commands.clear()", "may not replace the command 'train'"),
    ],
)
def test_a_plugin_can_neither_end_nor_replace_commands(body, told, install_plugin, caplog):
    from naf_hub.commands.main import _add_commands, cli

    cli.list_commands(None)  # pyright: ignore[reportArgumentType]
    before = dict(cli.commands), dict(cli.commands["train"].commands)  # pyright: ignore
    code = f"from naf_hub import hookimpl\n@hookimpl\ndef register_commands(cli): {body}"
    install_plugin("aa-thief", code)
    _add_commands()
    assert (cli.commands, cli.commands["train"].commands) == before  # pyright: ignore
    assert any(told in r.getMessage() and "aa-thief" in r.getMessage() for r in caplog.records)


def test_what_a_plugin_prints_stays_out_of_json(install_plugin):
    install_plugin("zz-chatty", "print('hello from the import')\n" + GOOD_CODE)
    from click.testing import CliRunner

    from naf_hub.commands.main import cli

    result = CliRunner().invoke(cli, ["list", "--json"])
    assert any(r["name"] == "good_one" for r in __import__("json").loads(result.stdout)["upsamplers"])


def test_unreadable_metadata_takes_nothing_down(install_plugin, tmp_path):
    install_plugin("zz-good", GOOD_CODE)
    for path in (tmp_path / "zz-good").glob("*.dist-info/METADATA"):
        path.write_bytes(b"\xff\xfe\x00 not text")
    registry.reload()
    assert "good_one" in naf_hub.list_upsamplers()
    for path in (tmp_path / "zz-good").glob("*.dist-info/METADATA"):
        path.unlink()
    registry.reload()
    assert naf_hub.info("good_one").provider.startswith("zz_good")


@pytest.mark.parametrize(
    "weights",
    [
        "{'default': 5}",
        "{3: Weights('hf://a/b')}",
        "{'default': Weights(5)}",
        "{'d': Weights('x', size='3')}",
    ],
)
def test_records_of_wrong_types_refuse_their_plugin_alone(weights, install_plugin, caplog):
    install_plugin(
        "zz-odd",
        "from naf_hub import hookimpl, UpsamplerRecord, Weights\n@hookimpl\ndef register_upsamplers(register):\n"
        f"    register(UpsamplerRecord(name='odd', summary='x', target='a:B', weights={weights}))",
    )
    assert "odd" not in naf_hub.list_upsamplers()
    assert "naf" in naf_hub.list_upsamplers()
    assert "zz-odd" in caplog.text


def test_a_target_that_cannot_be_imported_names_its_distribution(install_plugin):
    install_plugin(
        "zz-hollow",
        "from naf_hub import hookimpl, UpsamplerRecord\n@hookimpl\ndef register_upsamplers(register):\n"
        "    register(UpsamplerRecord(name='hollow', summary='x', target='nowhere_mod:Area', learned=False))",
    )
    with pytest.raises(naf_hub.PluginError, match=r"'hollow' of zz-hollow.*nowhere_mod"):
        naf_hub.load("hollow")


HEAVY = """
    import sys
    {torch}
    from naf_hub import UpsamplerRecord, hookimpl

    @hookimpl
    def register_upsamplers(register):
        register(UpsamplerRecord(name="good_one", summary="made for a test", target="somewhere:Thing"))
"""


def shown_plugins() -> tuple[str, dict[str, dict]]:
    """What ``naf-hub plugins`` prints, and its JSON by distribution."""
    from click.testing import CliRunner

    from naf_hub.commands.main import cli

    text = CliRunner().invoke(cli, ["plugins"]).stdout
    rows = json.loads(CliRunner().invoke(cli, ["plugins", "--json"]).stdout)
    return text, {row["distribution"]: row for row in rows}


@pytest.mark.parametrize(
    "line",
    [
        "import torch",
        "from torch import nn",
        "from torch.nn.functional import pad",
        "from naf_hub import Upsampler",
        "import types; sys.modules['torch'] = types.ModuleType('torch')",
        "",
    ],
)
def test_a_plugin_that_imports_torch_is_told_off(line, install_plugin, monkeypatch):
    """Whoever imports it first, and who finds it imported already."""
    importlib.import_module("torch")
    if "ModuleType" in line:
        monkeypatch.delitem(sys.modules, "torch")
    install_plugin("zz-heavy", HEAVY.format(torch=line))
    text, shown = shown_plugins()
    assert shown["zz-heavy"]["error"] is None
    assert bool(shown["zz-heavy"]["doubts"]) == bool(line)
    assert bool(re.search(r"(?m)^zz-heavy: zz_heavy imports torch \(\d+\.\d s\)", text)) == bool(line)


@pytest.mark.parametrize(
    ("required", "told"),
    [
        ("naf-hub>=9000", True),
        ("NAF_hub (<0.0.1)", True),
        ("naf-hub>=0.1", False),
        ("naf-hub-other>=9000", False),
        ("naf-hub>=9000; extra == 'new'", False),
        ("naf-hub", False),
    ],
)
def test_a_plugin_that_requires_another_version_is_told_off(required, told, install_plugin, tmp_path):
    install_plugin("zz-good", GOOD_CODE)
    (metadata,) = (tmp_path / "zz-good").glob("*.dist-info/METADATA")
    metadata.write_text(metadata.read_text().replace("naf-hub>=0.1", required))
    registry.reload()
    text, shown = shown_plugins()
    assert ("zz-good: requires" in text) == told
    assert [f"and naf-hub is {naf_hub.__version__}" in doubt for doubt in shown["zz-good"]["doubts"]] == [
        True
    ] * told


@pytest.mark.parametrize("group", ["naf-hub", "nafhub", "naf_hub.plugins", "NAF_HUB", "naf_hubs", "naf_hub"])
def test_a_misspelt_group_is_told(group, install_plugin, tmp_path):
    install_plugin("zz-good", GOOD_CODE)
    (entries,) = (tmp_path / "zz-good").glob("*.dist-info/entry_points.txt")
    entries.write_text(f"[console_scripts]\nx = y:z\n[{group}]\nzz_good = zz_good\n")
    registry.reload()
    text, shown = shown_plugins()
    (line,) = [line for line in text.splitlines() if "zz-good" in line]
    assert ("misspelt" in line) == (group != "naf_hub")
    assert ("good_one" in naf_hub.list_upsamplers()) == (group == "naf_hub")
    if group != "naf_hub":
        assert repr(group) in shown["zz-good"]["error"]


def test_the_licence_of_the_code_is_what_the_distribution_states(install_plugin, tmp_path):
    code = """
        from naf_hub import BackboneRecord, UpsamplerRecord, hookimpl

        @hookimpl
        def register_upsamplers(register):
            register(UpsamplerRecord(name="good_one", summary="s", target="a:B"))
            register(UpsamplerRecord(name="own_one", summary="s", target="a:B", license="BSD-3-Clause"))

        @hookimpl
        def register_backbones(register):
            register.prefix("family", "zz_good:any_of_it")

        def any_of_it(rest):
            return BackboneRecord(name="family:" + rest, summary="s", target="a:B")
    """
    install_plugin("zz-good", code)
    assert naf_hub.info("good_one").license is None
    (metadata,) = (tmp_path / "zz-good").glob("*.dist-info/METADATA")
    metadata.write_text(metadata.read_text() + "License-Expression: MIT\n")
    registry.reload()
    names = ("good_one", "own_one", "family:x", "naf")
    assert [naf_hub.info(name).license for name in names] == ["MIT", "BSD-3-Clause", "MIT", "Apache-2.0"]


def test_listing_imports_neither_torch_nor_timm():
    code = (
        "import sys, naf_hub; from naf_hub.commands.main import cli; naf_hub.list_upsamplers();"
        "naf_hub.list_backbones();"
        "naf_hub.info('naf'); cli.list_commands(None);"
        "cli.main(['list', '--json'], standalone_mode=False); cli.main(['plugins'], standalone_mode=False);"
        "bad = {'torch', 'timm', 'torchvision', 'kornia', 'huggingface_hub', 'numpy', 'PIL'} & set(sys.modules);"
        "assert not bad, bad"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_metadata_is_read_once_a_distribution(monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    state = plugins._requirement

    def counted(distribution):
        read.append(distribution.name)
        return state(distribution)

    monkeypatch.setattr(plugins, "_requirement", counted)
    registry.reload()
    assert len(registry.registry().loader.plugins) > len(read) == len(set(read))
