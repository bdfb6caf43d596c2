"""``naf-hub new-plugin``: a package that is a plugin and passes its tests as it is written."""

from __future__ import annotations

import re
import string
from importlib.resources import files
from pathlib import Path

import click

from ..atomic import atomic_folder
from ..kinds import KINDS
from ..records import NAME
from ..version import __version__

TEMPLATES = files("naf_hub") / "plugin_templates"
# Where each template of a kind goes in the package.
PLACES = {
    "init.template": "{package}/__init__.py",
    "module.template": "{package}/{module}.py",
    "command.template": "{package}/command.py",
    "test.template": "tests/test_{module}.py",
}


def write_plugin(kind: str, name: str, folder: Path) -> list[Path]:
    """Write a plugin package.

    Args:
        kind: what it provides: the word of a kind.
        name: of what it provides, lower snake case; the package is ``naf_hub_NAME``.
        folder: to be made.

    Returns:
        The files written.

    Raises:
        ValueError: no such kind, or no such name can be.
        FileExistsError: the folder exists.
    """
    words = [one.word for one in KINDS]
    if kind not in words:
        raise ValueError(f"{kind!r} is none of {', '.join(words)}")
    if not NAME.fullmatch(name) or len(name) > 40:
        raise ValueError(f"name {name!r}: use lower snake case, at most 40 characters")
    if folder.exists():
        raise FileExistsError(
            f"{folder} exists, and nothing in it is overwritten; choose another folder with -o"
        )
    module = {"upsampler": "method", "backbone": "network", "restorer": "method", "task": "task"}[kind]
    values = {
        "name": name,
        "word": kind,
        "package": f"naf_hub_{name}",
        "distribution": f"naf-hub-{name.replace('_', '-')}",
        "module": module,
        "class_name": re.sub(r"(?:^|_)(.)", lambda match: match[1].upper(), name),
        "summary": f"The {kind} {name}.",
        "naf_hub_version": __version__,
    }
    with atomic_folder(folder) as temporary:
        for source in (TEMPLATES / "shared", TEMPLATES / kind):
            for template in source.iterdir():
                place = PLACES.get(template.name, template.name.removesuffix(".template")).format(**values)
                target = temporary / place
                target.parent.mkdir(parents=True, exist_ok=True)
                text = string.Template(template.read_text(encoding="utf-8")).substitute(values)
                target.write_text(text, encoding="utf-8")
    return sorted(path for path in folder.rglob("*") if path.is_file())


@click.command("new-plugin")
@click.argument("kind", type=click.Choice([kind.word for kind in KINDS]))
@click.argument("name")
@click.option("-o", "--out", type=click.Path(), help="Folder to make.  [default: naf-hub-NAME]")
def new_plugin_command(kind: str, name: str, out: str | None) -> None:
    """Write a plugin package that provides a KIND called NAME, with a test that passes as it is written."""
    folder = Path(out or f"naf-hub-{name.replace('_', '-')}")
    try:
        written = write_plugin(kind, name, folder)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"next: cd {folder} && pip install -e '.[dev]' && pytest")
