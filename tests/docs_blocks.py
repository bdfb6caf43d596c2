"""The fenced blocks of the pages, and the shell commands in them."""

from __future__ import annotations

import dataclasses
import re
import shlex
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What `docs/cli.md` prints of `--help`, and `docs/index.md` of the README, is made from the code and the README.
PAGES = [
    ROOT / "README.md",
    *(p for p in sorted((ROOT / "docs").glob("*.md")) if p.stem not in ("cli", "index")),
]
READMES = sorted(ROOT.glob("*/naf_hub_*/README.md"))  # of plugins: their blocks are read, not run
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
# What ends a command within a line: a pipe, a redirection, the next command.
END = ";|&<>"


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line it begins at, the language behind its fence, and what it holds."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """Those of a page, in order, in these languages or in any."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], textwrap.dedent(match[3]))
        for match in BLOCK.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def shell_lines(block: Block) -> list[str]:
    """Its commands, a line each, without comments and with continuation lines joined."""
    lines = re.sub(r"\\\n\s*", " ", block.code).splitlines()
    return [line for line in (re.sub(r"(^|\s+)#(?!SBATCH).*", "", line).strip() for line in lines) if line]


def words_of(line: str) -> list[str] | None:
    """What a line gives to naf-hub, in words; ``None`` where it does not call it."""
    call = re.match(r"(?:\w+=\S+ |do |srun )*naf-hub\s(.*)|.* -m naf_hub\s(.*)", line)
    if call is None:
        return None
    lexer = shlex.shlex(call[1] or call[2], posix=True, punctuation_chars=END)
    lexer.whitespace_split = True
    words = list(lexer)
    return words[: next((i for i, word in enumerate(words) if word[0] in END), len(words))]
