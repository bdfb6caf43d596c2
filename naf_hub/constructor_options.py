"""Constructor options of a target, with defaults and documentation, read from its source: nothing of it is imported."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

# An argument's entry in a docstring: ``name: what it is``, or ``name, other: what they are``.
ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: +(?P<text>.*)")
REQUIRED = "required"
# What marks code and references: ``code``, :class:`~package.Name`.
MARKUP = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`|``(.+?)``")


@dataclasses.dataclass(frozen=True)
class ConstructorOption:
    """One option.

    Attributes:
        name: what it is called, with ``**`` where any further ones are taken.
        default: as the source has it, ``"required"`` where there is none, empty behind ``**``.
        text: what the docstring says of it.
    """

    name: str
    default: str
    text: str = ""


@dataclasses.dataclass(frozen=True)
class _Source:
    """A module's source, and whether the module is a package."""

    tree: ast.Module
    is_package: bool


Definition = ast.ClassDef | ast.FunctionDef


def constructor_options(
    target: str, set_before: Mapping[str, object] | None = None
) -> list[ConstructorOption]:
    """Options of ``"package.module:Class"``, in order; empty where its source cannot be found.

    A class without a constructor of its own has that of its base class, where that lies in the same distribution of
    modules or is imported from one by name.

    Args:
        target: as a record has it.
        set_before: options whose values the record states, in place of the defaults.
    """
    module, _, name = target.partition(":")
    texts: dict[str, str] = {}
    for place, found in _definitions(module, name):
        function = _constructor(found)
        for documented in (found, function):
            if documented is not None:
                texts = _argument_texts(ast.get_docstring(documented) or "") | texts
        if function is not None:
            stated = {key: repr(value) for key, value in (set_before or {}).items()}
            return [
                ConstructorOption(key, stated.get(key, default), texts.get(key.lstrip("*"), ""))
                for key, default in _arguments(function, place)
            ]
    return []


def _definitions(module: str, name: str) -> Iterator[tuple[str, Definition]]:
    """What a name stands for, and the base classes of that, nearest first, each with its module."""
    seen: set[tuple[str, str]] = set()
    waiting = [(module, name)]
    while waiting:
        place = waiting.pop(0)
        source = _source(place[0])
        if place in seen or source is None:
            continue
        seen.add(place)
        for node in source.tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == place[1]:
                yield place[0], node
                bases = node.bases if isinstance(node, ast.ClassDef) else []
                waiting += [(place[0], base.id) for base in bases if isinstance(base, ast.Name)]
        waiting += _origins(*place)


def _origins(module: str, name: str) -> list[tuple[str, str]]:
    """Where a module imports a name from, and what it is called there."""
    source = _source(module)
    if source is None:
        return []
    return [
        (_absolute(module, source.is_package, node), alias.name)
        for node in source.tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (alias.asname or alias.name) == name
    ]


@functools.cache
def _source(module: str) -> _Source | None:
    """The source of a module; packages that it lies in are not imported, as the machinery of Python would."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        file = Path(places[0], "__init__.py") if places else Path((spec and spec.origin) or "")
        for part in rest:
            folder = file.parent / part
            file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        return _Source(ast.parse(file.read_text(encoding="utf-8")), file.name == "__init__.py")
    except (
        ImportError,
        OSError,
        ValueError,
        SyntaxError,
    ):  # a module without source, or one that is not there
        return None


def _absolute(module: str, is_package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _constructor(node: Definition) -> ast.FunctionDef | None:
    if isinstance(node, ast.FunctionDef):
        return node
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _arguments(function: ast.FunctionDef, module: str) -> Iterator[tuple[str, str]]:
    """Names and defaults, without ``self``."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [
        *zip(plain, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        if argument.arg != "self":
            yield argument.arg, REQUIRED if default is None else _value(default, module)
    if arguments.kwarg is not None:
        yield f"**{arguments.kwarg.arg}", ""


def _value(default: ast.expr, module: str) -> str:
    """A default as its source has it; of a constant's name what the constant is set to."""
    if isinstance(default, ast.Name):
        for place, name in ((module, default.id), *_origins(module, default.id)):
            source = _source(place)
            for node in source.tree.body if source is not None else []:
                targets = node.targets if isinstance(node, ast.Assign) else []
                targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
                value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
                if value is not None and any(isinstance(t, ast.Name) and t.id == name for t in targets):
                    return ast.unparse(value)
    return ast.unparse(default)


def _argument_texts(docstring: str) -> dict[str, str]:
    """What a docstring's section ``Args:`` says, by name, each in one line."""
    _, section, rest = inspect.cleandoc(docstring).partition("Args:\n")
    if not section:
        return {}
    lines = rest.split("\n")
    end = next((i for i, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent("\n".join(lines[:end])).split("\n"):
        entry = None if line.startswith(" ") else ENTRY.fullmatch(line)
        if entry:
            names = [name.lstrip("*") for name in entry["names"].split(", ")]
        for name in names:
            texts[name] = f"{texts.get(name, '')} {entry['text'] if entry else line.strip()}".strip()
    return {name: MARKUP.sub(lambda match: match[1] or match[2], text) for name, text in texts.items()}
