"""Commands and messages in the docs are those of the code: options exist, and so do the messages quoted."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import click
import pytest
from docs_blocks import PAGES, READMES, ROOT, blocks, shell_lines, words_of

import naf_hub
from naf_hub.commands.main import cli

EVERY = [*PAGES, *READMES]
PLACEHOLDER = re.compile(r"\.\.\.|\$|\*")


# Commands that a page itself shows how to add.
ADDED = {"add-a-task": ["eval", "flatness"]}


def commands(page: Path) -> list[list[str]]:
    """The words behind naf-hub of each call in the shell blocks of a page."""
    found = [words_of(line) for block in blocks(page, "sh") for line in shell_lines(block)]
    return [words for words in found if words is not None]


def refuse_unknown(words: list[str]) -> None:
    """Follow the words to the command they name and let its own parser take the rest, without running it."""
    abridged = any(PLACEHOLDER.search(word) for word in words)
    words = [word for word in words if word != "..."]
    context, command = click.Context(cli, info_name="naf-hub", **cli.context_settings), cli
    given: dict[str, object] = {}
    while True:
        given, rest, _ = command.make_parser(context).parse_args(args=words)
        if not isinstance(command, click.Group) or not rest:
            break
        name, found, words = command.resolve_command(context, rest)
        assert found is not None
        context, command = click.Context(found, context, name, **found.context_settings), found
    for option in command.params:
        if isinstance(option.type, click.Choice) and isinstance(value := given.get(option.name or ""), str):
            option.type.convert(value, option, context)
        missing = option.required and given.get(option.name or "") in (None, (), [])
        assert not missing or abridged, f"{option.name} is missing"


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.stem if page in PAGES else page.parent.name)
def test_commands_of_the_docs_are_understood(page: Path):
    for words in commands(page):
        if words[:2] == ADDED.get(page.stem):
            continue
        try:
            refuse_unknown(words)
        except (click.UsageError, AssertionError) as error:
            message = error.format_message() if isinstance(error, click.UsageError) else error
            pytest.fail(f"{page.name}: naf-hub {' '.join(words)}: {message}")


def test_a_command_with_a_wrong_option_is_found():
    with pytest.raises(click.UsageError, match="--sizes"):
        refuse_unknown(["upsample", "photo.jpg", "--sizes", "3"])
    with pytest.raises(click.UsageError, match="No such command 'upsampel'"):
        refuse_unknown(["upsampel"])


def texts(tree: ast.AST) -> list[str]:
    """The strings of a module, what is filled in at run time as a single ``\\0``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(re.sub(r"%[sr]", "\0", node.value))
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
            found.append("".join(map(str, parts)))
    return found


def test_messages_quoted_on_the_faq_page_exist():
    quoted = re.findall(r"^> `(.*)`$", (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quoted) > 20
    sources = [*(ROOT / "naf_hub").rglob("*.py")]
    written = "\n".join(text for path in sources for text in texts(ast.parse(path.read_text("utf-8"))))
    for message in quoted:
        pieces = [re.escape(piece) for piece in message.split("...") if piece]
        assert re.search(".*".join(pieces), written), f"no message of naf-hub's: {message}"


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.stem if page in PAGES else page.parent.name)
def test_python_of_the_docs_imports_and_calls_what_there_is(page: Path):
    """Also where a block cannot be run here, as it fetches weights or takes gigabytes."""
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.code)):
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("naf_hub")
                and not node.level
            ):
                assert node.module
                if importlib.util.find_spec(
                    node.module.partition(".")[0]
                ):  # no plugin that the page itself makes
                    module = importlib.import_module(node.module)
                    assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], block
            if isinstance(node, ast.Call) and re.match(r"naf_hub\.\w+$", called := ast.unparse(node.func)):
                given = {keyword.arg: keyword for keyword in node.keywords if keyword.arg}
                inspect.signature(getattr(naf_hub, called.partition(".")[2])).bind(*node.args, **given)
