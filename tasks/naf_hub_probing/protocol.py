"""What decides the figures of a linear probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from naf_hub.training.settings import build

from .course import Recipe
from .transforms import Size, require_sides

P = TypeVar("P", bound="ProbeProtocol")


@dataclasses.dataclass(frozen=True)
class ProbeProtocol:
    """What decides the figures of every linear probe.

    Attributes:
        recipe: epochs, learning rate and so on.
        size: of the pictures; see :data:`naf_hub_probing.transforms.Size`.
        standardize: the head learns on features standardised per channel over the training split.
        limit, limit_train: at most that many pairs of each split (of training), evenly spaced.
        seeds: train so many heads, from ``seed`` on; figures are their means, with the standard deviation of the
            first. Only the last epoch is scored then.
    """

    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    size: Size = 448
    standardize: bool = False
    limit: int | None = None
    limit_train: int | None = None
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        require_sides("size", self.size)
        for name in ("limit", "limit_train"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @classmethod
    def read(cls: type[P], settings: Mapping[str, Any]) -> P:
        """The protocol of plain settings; those of :class:`Recipe` stand among the others.

        Raises:
            ValueError: a setting that does not exist, is of the wrong type or out of range.
        """
        own = {field.name for field in dataclasses.fields(cls)} - {"recipe"}
        of_recipe = {field.name for field in dataclasses.fields(Recipe)}
        strangers = sorted(set(settings) - own - of_recipe)
        if strangers:
            raise ValueError(f"no setting {strangers[0]!r}; there are: {', '.join(sorted(own | of_recipe))}")
        recipe = build(Recipe, {key: value for key, value in settings.items() if key in of_recipe})
        if recipe.train_pixels is not None:
            recipe = dataclasses.replace(recipe, flip=False)
        chosen = build(cls, {key: value for key, value in settings.items() if key in own})
        return dataclasses.replace(chosen, recipe=recipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain settings, as :meth:`read` takes them."""
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "recipe"}
        return {**dataclasses.asdict(self.recipe), **settings}

    @property
    def every_seed(self) -> tuple[int, ...]:
        """Seeds of the heads."""
        return tuple(range(self.recipe.seed, self.recipe.seed + self.seeds))

    def name_run(self, label: str, seed: int) -> str:
        """What the head of a seed is called in files."""
        return f"{label}-seed{seed}" if self.seeds > 1 else label
