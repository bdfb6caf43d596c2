"""Recipes: settings of a run as TOML files, some of which ship with a task."""

from __future__ import annotations

import dataclasses
import importlib.resources
from pathlib import Path

from .settings import ConfigError, FileSettings, parse_toml, read_toml


@dataclasses.dataclass(frozen=True)
class Recipes:
    """The recipe files of a task.

    Attributes:
        package: import name; the files are in its folder ``recipes``.
    """

    package: str

    def names(self) -> list[str]:
        """Names of those that ship."""
        folder = importlib.resources.files(self.package) / "recipes"
        return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))

    def read(self, name: str) -> FileSettings:
        """Keys and values of a recipe: the name of a shipped one, or the path of a TOML file.

        Raises:
            ConfigError: no such recipe, or not TOML.
        """
        shipped, names = name.removesuffix(".toml"), self.names()
        if shipped in names:
            folder = importlib.resources.files(self.package) / "recipes"
            return parse_toml((folder / f"{shipped}.toml").read_text("utf-8"), name)
        if not Path(name).is_file():
            raise ConfigError(
                f"no recipe {name!r}; shipped ones: {', '.join(names)}; or give the path of a TOML file"
            )
        return read_toml(name)
