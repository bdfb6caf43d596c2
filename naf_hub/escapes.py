"""Text from outside (names of folders, weights and machines) as Markdown, YAML and TOML may hold it: one line each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Also what GitHub's Markdown has beyond the standard: tables, strikethrough.
MARKDOWN = {character: f"\\{character}" for character in "\\`*_[]<>|~"}
ADDRESS = re.compile(r"https?://[\w.~:/?#@!$&*+,;=%-]+", re.ASCII)
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# How a path begins that says where on a machine things lie.
PLACE = re.compile(r"/|~|\\\\|[A-Za-z]:[/\\]|\.\.[/\\]")


def one_line(text: str) -> str:
    """The text with everything that is not printed (line ends, control characters, halves of surrogate pairs) as
    Python writes it: ``\\n``.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain(text: str) -> str:
    """The text as Markdown that shows just it."""
    shown = "".join(MARKDOWN.get(character, character) for character in one_line(text))
    return re.sub(r"&(?=#?\w+;)", r"\\&", shown)


def plain_name(label: str) -> str:
    """The label as a name that every system takes for a file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", label).strip("-")


def code(text: str) -> str:
    """The text as inline code of Markdown; an empty one as ``""``. In a table each ``|`` needs a backslash besides."""
    shown = one_line(text) or '""'
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    padding = " " if shown.strip("`") != shown or shown.strip() != shown else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def link(address: str | None, title: str | None = None) -> str:
    """A link of Markdown, by default under the address itself; empty where that is none of the web."""
    if not address or not ADDRESS.fullmatch(address):
        return ""
    return f"[{plain(title)}]({address})" if title else f"<{address}>"


def quoted(text: str) -> str:
    """The text as a string in double quotes, which YAML, TOML and Python read alike.

    Halves of surrogate pairs, which names of files may hold and none of the three takes, become U+FFFD.
    """
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    point = 0xFFFD if 0xD800 <= ord(character) < 0xE000 else ord(character)
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def portable(value: Any) -> Any:
    """A setting, or a list or table of them, that does not say where on this machine things lie.

    Of paths that are absolute or lead out of the working folder, the weights in ``NAME=PATH`` too, the last name stays,
    with what is a pattern behind it: ``/data/mine/photos/*.jpg`` becomes ``photos/*.jpg``.
    """
    if isinstance(value, Mapping):
        return {key: portable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(entry) for entry in value]
    if not isinstance(value, str):
        return value
    name, _, path = value.partition("=")
    if PLACE.match(value):
        return _last_name(value)
    return f"{name}={_last_name(path)}" if PLACE.match(path) else value


def _last_name(path: str) -> str:
    names = [name for name in re.split(r"[/\\]", path) if name]
    patterns = (number for number, name in enumerate(names) if set("*?[") & set(name))
    return "/".join(names[max(0, next(patterns, len(names)) - 1) :])


def toml_table(settings: Mapping[str, Any]) -> str:
    """Settings as lines of TOML, which has no null: what is ``None`` is left out."""
    return "\n".join(f"{_key(key)} = {_toml(value)}" for key, value in settings.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    return repr(value)


def _key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else quoted(key)
