"""Classes in words: a class owns one query or several, its synonyms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

SYNONYMS, CLASSES = ";", ","
_BACKGROUND = (
    "sky wall tree wood grass road sea river mountain sands desk bed building cloud lamp door window wardrobe "
    "ceiling shelf curtain stair floor hill rail fence"
)
# "ship" and "table" stand for boat and dining table, as published.
_THINGS = (
    "aeroplane bicycle bird ship bottle bus car cat chair cow table dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What is looked for.

    Attributes:
        names: of the classes.
        synonyms: queries of each class; a pixel takes the class of the query that fits best.
        threshold: where no class is as probable as this, the first class is taken; 0 never.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    threshold: float = 0.0

    @classmethod
    def of(cls, classes: Iterable[Sequence[str]], where: str = "classes") -> Vocabulary:
        """The vocabulary of the queries of each class; a class is named by its first.

        Args:
            classes: queries of each.
            where: what messages call it.

        Raises:
            ValueError: fewer than two classes, an empty query, or one that stands twice.
        """
        queries = [tuple(" ".join(query.split()) for query in synonyms) for synonyms in classes]
        if not any(any(synonyms) for synonyms in queries):
            raise ValueError(f'{where}: no class; name what to look for, as in "cat,sofa,wall"')
        seen: dict[str, str] = {}
        for query in (query for synonyms in queries for query in synonyms):
            if not query:
                raise ValueError(f"{where}: an empty name; write one between every two separators")
            if query.casefold() in seen:
                raise ValueError(f"{where}: {query!r} stands twice; name each once")
            seen[query.casefold()] = query
        if len(queries) < 2:
            raise ValueError(f"{where}: one class only, {queries[0][0]!r}; name what else there is, too")
        return cls(tuple(synonyms[0] for synonyms in queries), tuple(queries))

    @classmethod
    def parse(cls, text: str) -> Vocabulary:
        """The vocabulary that a text means.

        Args:
            text: a key of :data:`VOCABULARIES`; a ``.txt`` file with a class a line, synonyms parted by ``;``; or
                classes parted by ``,``, such as ``"cat;kitten,sofa,wall"``.

        Raises:
            ValueError: see :meth:`of`; or the file is no text.
            FileNotFoundError: no such file.
        """
        if text in VOCABULARIES:
            return VOCABULARIES[text]
        if not text.endswith(".txt"):
            return cls.of([part.split(SYNONYMS) for part in text.split(CLASSES)])
        try:
            lines = Path(text).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise FileNotFoundError(f"no file of class names {text}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{text}: not UTF-8 text; write a class a line") from error
        return cls.of([line.split(SYNONYMS) for line in lines if line.strip()], text)

    @property
    def queries(self) -> tuple[str, ...]:
        """All queries, class by class."""
        return tuple(query for synonyms in self.synonyms for query in synonyms)

    @property
    def owners(self) -> tuple[int, ...]:
        """Index of the class of each query."""
        return tuple(index for index, synonyms in enumerate(self.synonyms) for _ in synonyms)


_VOC20 = Vocabulary.of([thing] for thing in _THINGS.split())
VOCABULARIES = {
    "voc21": Vocabulary(
        ("background", *_VOC20.names), (tuple(_BACKGROUND.split()), *_VOC20.synonyms), threshold=0.2
    ),
    "voc20": _VOC20,
}
"""Pascal VOC as ProxyCLIP asks for it, with its background and without."""
