"""Who may import whom, one name for one thing, and what plugin authors may rely on; each rule with what breaks it."""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path

import pytest
from import_rules import (
    Tree,
    commands_needed_elsewhere,
    core_needs_plugins,
    import_circles,
    plugins_need_plugins,
    read_listed,
    shared_names,
    undeclared_imports,
    unlisted_imports,
    vague_modules,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import naf_hub

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parent.parent
ROOMS = [ROOT, ROOT / "plugins", ROOT / "backbones", ROOT / "tasks"]
PAGE = ROOT / "docs" / "plugin-api.md"

# What breaks a rule today, and why it may for now. A line that is no longer so must go.
KNOWN = {
    "encoder: naf_hub_capi.encoder, naf_hub_naf.encoder": "a vision transformer, and NAF's guidance encoder",
    "features: naf_hub_probing.features, naf_hub_reconstruction.features": "views for probes; teacher's features",
    "rope: naf_hub_capi.rope, naf_hub_naf.rope": "two published rotations that differ in their frequencies",
}

# Names that many modules bear since each is its package's own of the same thing.
SHARED = {
    "backbone": "the adapter of a package of backbones",
    "task": "a package's task, and in the core the interface",
    "records": "what a package registers, and in the core the classes of records",
    "convert": "a command, and the work it does",
    "publish": "a command, and the work it does",
    "card": "what a task's model card says, and in the core what every card says",
    "course": "what a package teaches, and in the core the interface",
}


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree.read(ROOMS)


def listed() -> dict[str, dict[str, str]]:
    """The page, and the names of ``naf_hub`` under the modules that define them, as the page says."""
    found = read_listed(PAGE.read_text(encoding="utf-8"))
    for name in found["naf_hub"]:
        if name in naf_hub._HOME:
            found.setdefault(f"naf_hub.{naf_hub._HOME[name]}", {})[name] = ""
    return found


def declared(*lists: list[str]) -> set[str]:
    """Names of distributions in lists of requirements."""
    return {canonicalize_name(Requirement(line).name) for requirements in lists for line in requirements}


def undeclared(tree: Tree) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        lines for extra, lines in project["optional-dependencies"].items() if extra not in ("dev", "docs")
    ]
    return undeclared_imports(tree, declared(project["dependencies"]), declared(*extras))


RULES = {
    "core imports no plugin": core_needs_plugins,
    "a plugin imports no other plugin": plugins_need_plugins,
    "only commands import commands": commands_needed_elsewhere,
    "no circle of imports": import_circles,
    "plugins take what is listed": lambda tree: unlisted_imports(tree, listed()),
    "what is imported is declared": undeclared,
    "modules are named for what they hold": vague_modules,
    "one name means one thing": lambda tree: shared_names(tree, SHARED),
}


def test_the_whole_house_was_read(tree: Tree):
    assert {"naf_hub", "naf_hub_naf", "naf_hub_timm", "naf_hub_reconstruction"} <= tree.packages
    assert {"naf_hub.commands.main", "naf_hub_filters.guided", "naf_hub_probing.command"} <= set(tree.sources)


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds(rule: str, tree: Tree):
    assert RULES[rule](tree) - set(KNOWN) == set()


def test_what_is_known_is_still_so(tree: Tree):
    broken = set().union(*(rule(tree) for rule in RULES.values()))
    assert set(KNOWN) - broken == set(), "mended: remove these from KNOWN"


def toy(modules: dict[str, str]) -> Tree:
    """A core and the plugin ``naf_hub_toy`` with these modules besides; what holds modules is a package."""
    sources = {"naf_hub": "", "naf_hub_toy": ""} | {n: textwrap.dedent(text) for n, text in modules.items()}
    packages = {name for name in sources if any(other.startswith(f"{name}.") for other in sources)}
    return Tree(sources, frozenset(packages))


IN_A_FUNCTION = """
    def act():
        from naf_hub_toy import thing
"""
FOR_TYPES = """
    from typing import TYPE_CHECKING
    if TYPE_CHECKING:
        import naf_hub_toy.model
"""


@pytest.mark.parametrize(
    "source",
    [
        "import naf_hub_toy",
        "import os, naf_hub_toy.model as model",
        "from naf_hub_toy.model import Toy",
        IN_A_FUNCTION,
        FOR_TYPES,
        "NAME = 'naf_hub_toy.model:Toy'",
        "WEIGHTS = 'package://naf_hub_toy/weights'",
    ],
)
def test_a_core_that_needs_a_plugin_is_found(source: str):
    found = core_needs_plugins(toy({"naf_hub.loading": source}))
    assert len(found) == 1
    assert "naf_hub.loading" in found.pop()


def test_a_core_that_only_speaks_of_plugins_is_not():
    source = '"""Text on naf_hub_toy.model."""\nimport naf_hub_toys\nX = "naf_hub_toys.a:B"'
    assert core_needs_plugins(toy({"naf_hub.loading": source})) == set()


def test_a_plugin_that_needs_another_is_found():
    tree = toy({"naf_hub_other.model": IN_A_FUNCTION, "naf_hub_toy.model": "from .thing import x"})
    assert plugins_need_plugins(tree) == {"naf_hub_other.model imports naf_hub_toy"}


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("naf_hub.loading", "from .commands.options import a", True),
        ("naf_hub.weights.convert", "def f():\n    from ..commands import options", True),
        ("naf_hub_toy.command", "from naf_hub.commands import options", True),
        ("naf_hub.__main__", "from .commands.main import main", False),
        ("naf_hub.commands.main", "from . import options", False),
    ],
)
def test_commands_are_only_for_commands(module: str, source: str, wrong: bool):
    others = dict.fromkeys(("naf_hub.weights", "naf_hub.commands", "naf_hub.commands.options"), "")
    assert bool(commands_needed_elsewhere(toy({**others, module: source}))) == wrong


def test_a_circle_is_found_where_modules_meet_it_at_their_start():
    circle = {
        "naf_hub.a": "from .b import x",
        "naf_hub.b": "try:\n    from . import c\nexcept E:\n    pass",
    }
    assert import_circles(toy({**circle, "naf_hub.c": "import naf_hub.a"})) == {
        "naf_hub.a -> naf_hub.b -> naf_hub.c -> naf_hub.a"
    }
    late = "def f():\n    import naf_hub.a"
    assert import_circles(toy({**circle, "naf_hub.c": late})) == set()
    for_types = "if TYPE_CHECKING:\n    import naf_hub.a"
    assert import_circles(toy({**circle, "naf_hub.c": for_types})) == set()


@pytest.mark.parametrize(
    "source",
    [
        "from naf_hub.parts import hidden",
        "def f():\n    from naf_hub.parts import hidden",
        "if TYPE_CHECKING:\n    from naf_hub.parts import hidden",
        "import naf_hub.parts\nnaf_hub.parts.hidden",
        "from naf_hub import parts\nparts.hidden()",
        "from naf_hub import parts as pieces\nclass A(pieces.hidden): pass",
    ],
)
def test_what_is_not_listed_is_found_however_it_is_taken(source: str):
    listed = {"naf_hub": ["load"], "naf_hub.parts": ["shown"]}
    source += "\nimport naf_hub\nnaf_hub.load('x')\nfrom naf_hub.parts import shown"
    tree = toy({"naf_hub.parts": "", "naf_hub_toy.model": source})
    assert unlisted_imports(tree, listed) == {"naf_hub_toy.model takes naf_hub.parts.hidden"}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("import numpy, os\nfrom PIL import Image", False),
        ("def f():\n    import skimage.data", False),
        ("import skimage.data", True),
        ("def f():\n    from other_thing import x", True),
        ("from . import records", False),
    ],
)
def test_an_import_that_is_not_declared_is_found(source: str, wrong: bool):
    tree = toy({"naf_hub.loading": source, "naf_hub.records": "import naf_hub_toy"})
    found = undeclared_imports(tree, declared(["numpy>=1.24", "pillow"]), declared(["scikit-image>=0.22"]))
    assert bool(found) == wrong


def test_vague_and_shared_names_are_found():
    assert vague_modules(toy({"naf_hub_toy.utils": "", "naf_hub.helpers": ""})) == {
        "naf_hub_toy.utils",
        "naf_hub.helpers",
    }
    names = ("naf_hub.plan", "naf_hub_toy.plan", "naf_hub_toy.backbone", "naf_hub_other.backbone")
    tree = toy(dict.fromkeys(names, ""))
    assert shared_names(tree, {"backbone"}) == {"plan: naf_hub.plan, naf_hub_toy.plan"}


def test_every_listed_name_is_there_and_has_a_sentence():
    found = read_listed(PAGE.read_text(encoding="utf-8"))
    assert set(naf_hub.__all__) == set(found["naf_hub"])
    assert set(importlib.import_module("naf_hub.testing").__all__) == set(found["naf_hub.testing"])
    for module, names in found.items():
        assert names, f"{module} lists nothing"
        for name, sentence in names.items():
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"
            assert sentence.endswith("."), f"{module}.{name}: {sentence!r} is no sentence"
    assert not any(module.startswith("naf_hub.commands") for module in found)


def test_the_imagenet_constants_stand_in_one_place(tree: Tree):
    assert [module for module, source in tree.sources.items() if "0.485" in source] == ["naf_hub.records"]
