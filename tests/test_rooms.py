"""Who may import whom: read from the sources, and each rule shown to refuse what it forbids."""

from __future__ import annotations

import ast
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGIN_ROOTS = ("plugins", "backbones", "tasks")
API_PAGE = ROOT / "docs" / "plugin-api.md"
# Names that mean the same in each folder that has them: a plugin's class, its table of records, its command line.
SHARED_NAMES = {"__init__", "backbone", "task", "records", "model", "command", "commands", "course", "card", "features",
                "rope", "encoder", "network", "convert", "publish"}  # fmt: skip

Import = tuple[str, str, bool]
"""Module imported from, name imported, and whether that happens when the module itself is imported."""


def module_name(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    while not parts[0].startswith("naf_hub"):
        parts.pop(0)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, package: bool = False) -> Iterator[Import]:
    """Every import of a source text, those inside functions and for type checkers too."""
    tree = ast.parse(source)
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if package else module.split(".")[:-1]
            base = parts[: len(parts) - node.level + 1] if node.level else []
            source_module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((source_module, alias.name, node not in lazy) for alias in node.names)


def tree_imports(root: Path) -> dict[str, list[Import]]:
    """Imports of every module below ``root``, by its dotted name."""
    folders = [root / "naf_hub", *(root / name for name in PLUGIN_ROOTS)]
    paths = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.py"))]
    return {
        (name := module_name(path, root)): list(
            imports_of(path.read_text(encoding="utf-8"), name, path.stem == "__init__")
        )
        for path in paths
    }


def top(module: str) -> str:
    return module.partition(".")[0]


def broken_rules(imports: dict[str, list[Import]]) -> list[str]:
    """A line for each import that goes where it must not."""
    found = []
    packages = {top(module) for module in imports}
    for module, entries in imports.items():
        for source, name, _ in entries:
            whole = f"{source}.{name}" if name else source
            if top(source) in packages and top(source) not in (top(module), "naf_hub"):
                what = "core imports a plugin" if top(module) == "naf_hub" else "a plugin imports another"
                found.append(f"{what}: {module} -> {source}")
            inside = module.startswith("naf_hub.commands") or module == "naf_hub.__main__"
            if re.match(r"naf_hub\.commands(\.|$)", whole) and not inside:
                found.append(f"only the command line imports commands: {module} -> {whole}")
    return found


def cycles(imports: dict[str, list[Import]]) -> list[list[str]]:
    """Circles of imports that happen while modules are imported."""
    graph: dict[str, set[str]] = {}
    for module, entries in imports.items():
        targets = {f"{s}.{n}" if f"{s}.{n}" in imports else s for s, n, at_import in entries if at_import}
        graph[module] = {target for target in targets if target in imports and target != module}
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(path[path.index(module) :])
            return
        if module in done:
            return
        for target in sorted(graph[module]):
            visit(target, [*path, module])
        done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def repeated_names(modules: list[str]) -> list[str]:
    """File names that stand for several things."""
    counts = Counter(module.rpartition(".")[2] for module in modules if "." in module)
    return sorted(name for name, count in counts.items() if count > 1 and name not in SHARED_NAMES)


IMPORTS = tree_imports(ROOT)


def test_the_tree_keeps_to_its_rooms():
    assert broken_rules(IMPORTS) == []


def test_no_circles():
    assert cycles(IMPORTS) == []


def test_one_name_means_one_thing():
    assert repeated_names(list(IMPORTS)) == []


def test_no_file_is_called_after_nothing():
    empty = {"utils", "util", "misc", "helpers", "helper", "common", "tools"}
    assert [m for m in IMPORTS if empty & set(m.split("."))] == []


@pytest.mark.parametrize(
    ("module", "source", "told"),
    [
        ("naf_hub.loading", "def f():\n    from naf_hub_naf import model", "core imports a plugin"),
        ("naf_hub_naf.model", "import naf_hub_filters.guided", "a plugin imports another"),
        ("naf_hub_naf.model", "from naf_hub.commands.main import cli", "only the command line"),
        ("naf_hub.loading", "from . import commands", "only the command line"),
        ("naf_hub.loading", "if TYPE_CHECKING:\n    from .commands import main", "only the command line"),
    ],
)
def test_each_rule_refuses(module: str, source: str, told: str):
    known = {name: [] for name in ("naf_hub.loading", "naf_hub_naf.model", "naf_hub_filters.guided")}
    found = broken_rules({**known, module: list(imports_of(source, module))})
    assert len(found) == 1
    assert told in found[0]


def test_circles_and_repeated_names_are_found():
    a = list(imports_of("from .b import x", "naf_hub.a"))
    lazy = list(imports_of("def f():\n    from .a import y", "naf_hub.b"))
    eager = list(imports_of("from . import a", "naf_hub.b"))
    assert cycles({"naf_hub.a": a, "naf_hub.b": lazy}) == []
    assert cycles({"naf_hub.a": a, "naf_hub.b": eager}) == [["naf_hub.a", "naf_hub.b"]]
    assert repeated_names(["naf_hub.windows", "naf_hub_naf.windows", "naf_hub.a", "b.model", "c.model"]) == [
        "windows"
    ]


# --- what plugins may import ------------------------------------------------------------------------------


def listed() -> dict[str, set[str]]:
    """Module to names on the page for plugin authors."""
    found: dict[str, set[str]] = {}
    for line in API_PAGE.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `(naf_hub[\w.]*)` \| (.+?) \|", line):
            found.setdefault(match[1], set()).update(re.findall(r"`(\w+)`", match[2]))
    return found


def test_every_name_on_the_page_exists():
    assert len(listed()) > 15
    for module, names in listed().items():
        for name in names:
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_our_own_plugins_import_nothing_that_is_not_on_the_page():
    import naf_hub

    allowed = {**listed()}
    allowed["naf_hub"] = allowed.get("naf_hub", set()) | set(naf_hub.__all__)
    missing = {
        f"{source}.{name}"
        for module, entries in IMPORTS.items()
        if top(module) != "naf_hub"
        for source, name, _ in entries
        if top(source) == "naf_hub" and name and name not in allowed.get(source, set())
    }
    assert sorted(missing) == []
