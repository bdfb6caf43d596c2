"""``naf-hub new-plugin``: writes a plugin package that works as it is, to start from."""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import re
import shlex
import string
import sys
from pathlib import Path

import click

from ..atomic import atomic_folder
from ..kinds import KINDS
from ..registry import registry
from ..version import __version__

TEMPLATES = Path(__file__).parent.parent / "plugin_templates"
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def check_name(name: str) -> str:
    """The name, if a plugin can register it and Python can call a package and a class by it.

    Raises:
        ValueError: one line that says what is wrong with it.
    """
    if not NAME.fullmatch(name) or len(name) > 40:
        raise ValueError(f"{name!r}: use lower snake case, at most 40 characters, such as my_method")
    title = class_name(name)
    if keyword.iskeyword(title) or hasattr(builtins, title):
        raise ValueError(f"{name!r}: its class would be Python's own {title}; choose another name")
    found = registry()
    taken = {record.name: record.provider for record in found.records.values()}
    taken |= {plugin.name: plugin.distribution for plugin in found.loader.plugins}
    if name in taken:
        raise ValueError(
            f"{name!r} is already registered by {taken[name]}; choose another name or uninstall that"
        )
    if importlib.util.find_spec(f"naf_hub_{name}") is not None:
        raise ValueError(f"a package naf_hub_{name} is already installed; choose another name")
    return name


def check_expression(license: str) -> str:
    """The licence as pyproject.toml states it.

    Raises:
        ValueError: not of that form.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return canonicalize_license_expression(license)
    except InvalidLicenseExpression as error:
        raise ValueError(
            f"{license!r} is no SPDX expression such as MIT, Apache-2.0, or LicenseRef-Mine for one of your own"
        ) from error


def class_name(name: str) -> str:
    """``my_method`` is ``MyMethod``."""
    return "".join(word.capitalize() for word in name.split("_"))


def distribution_name(name: str) -> str:
    """What pip calls the package of a plugin: ``my_method`` is in ``naf-hub-my-method``."""
    return f"naf-hub-{name.replace('_', '-')}"


def render_plugin(kind: str, name: str, license: str) -> dict[str, str]:
    """Text of each file of a new plugin, by its path in the plugin's folder.

    Args:
        kind: the word of a kind.
        name: what is registered, see :func:`check_name`.
        license: of the plugin, see :func:`check_expression`.
    """
    values = {
        "kind": kind,
        "name": name,
        "class_name": class_name(name),
        "package": f"naf_hub_{name}",
        "distribution": distribution_name(name),
        "version": __version__,
        "license": license,
    }
    contents: dict[str, str] = {}
    for part in (TEMPLATES / "any_kind", TEMPLATES / kind):
        for file in sorted(part.rglob("*.template")):
            path = file.relative_to(part).with_suffix("").as_posix()
            # The folder "package" of a template stands for the import package.
            path = re.sub(r"^package/", f"naf_hub_{name}/", path)
            contents[path] = string.Template(file.read_text(encoding="utf-8")).substitute(values)
    return contents


def write_plugin(kind: str, name: str, license: str, folder: Path) -> None:
    """Write a new plugin to a folder that does not exist yet, whole or not at all.

    Raises:
        FileExistsError: there is something at ``folder``.
    """
    contents = render_plugin(kind, name, license)
    _refuse_existing(folder)
    with atomic_folder(folder) as temporary:
        for path, text in contents.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_text(text, encoding="utf-8")
        _refuse_existing(folder)  # atomic_folder would replace what was made meanwhile


def _refuse_existing(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} exists and stays as it is; give another folder with -o")


def _checked(_: click.Context, __: click.Parameter, name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def can_ask() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def _licensed(_: click.Context, __: click.Parameter, license: str | None) -> str:
    if license is None:
        if not can_ask():
            raise click.UsageError("say under which licence you publish it, for example --license MIT")
        license = str(click.prompt("Licence of your plugin (SPDX, such as MIT or Apache-2.0)"))
    try:
        return check_expression(license)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("new-plugin")
@click.argument("kind", type=click.Choice([kind.word for kind in KINDS]))
@click.argument("name", callback=_checked)
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Write this folder, which must not exist yet.  [default: naf-hub-NAME]")  # fmt: skip
@click.option("--license", callback=_licensed, metavar="SPDX",
              help="Publish it under this licence, such as MIT or Apache-2.0.  [default: you are asked]")  # fmt: skip
def new_plugin_command(kind: str, name: str, out: Path | None, license: str) -> None:
    """Write a plugin package to start from: an upsampler, backbone, restorer or task called NAME.

    It holds pyproject.toml, a small method that works, the conformance suite as its test, and a README; it passes
    pytest as written.
    """
    folder = out or Path(distribution_name(name))
    write_plugin(kind, name, license, folder)
    click.echo(f"wrote {folder}: the {kind} {name}, in the package naf_hub_{name}")
    click.echo(f"next:  cd {shlex.quote(str(folder))}")
    click.echo('       pip install -e ".[test]"')
    click.echo("       pytest")
    click.echo(f"       naf-hub info {name}")
    click.echo(f"then:  put your own method into naf_hub_{name}/{kind}.py,")
    click.echo(f"       and the text of {license} into LICENSE")
