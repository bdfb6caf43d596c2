"""Labelled pictures to segment: Pascal VOC as it is published, or a folder with a ``classes.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from naf_hub.errors import DatasetError, ImageError
from naf_hub.images import read_image
from naf_hub.labels import Classes, read_classes, read_label
from naf_hub.paired_files import pair_files, require_like_sides, require_same_shape, spread
from naf_hub.voc import VOC_LAYOUT, VOC_NAMES, VOC_SOURCE, VOC_VOID, find_voc, voc_pairs

from .vocabulary import VOCABULARIES, Vocabulary

LAYOUT = (
    f"VOC 2012 with {VOC_LAYOUT} ({VOC_SOURCE}), or a folder with classes.json and val/{{images,labels}}/"
)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Labelled pictures and what is looked for in them.

    Attributes:
        pairs: files of pictures and labels.
        classes: what the ids of the labels mean; scores bear their names.
        vocabulary: a class of words for each of them.
        unlabelled: number of pictures that were left out since they have no label.
    """

    pairs: Sequence[tuple[Path, Path]]
    classes: Classes
    vocabulary: Vocabulary
    unlabelled: int = 0

    @classmethod
    def open(cls, root: Path, words: str | None = None, limit: int = 0) -> Benchmark:
        """The validation pictures of a data set.

        Args:
            root: see :data:`LAYOUT`.
            words: see :meth:`Vocabulary.parse`; by default ``voc21``, or the names in ``classes.json``. For VOC, 21
                classes have a background and 20 have none: there, its pixels are not scored.
            limit: at most so many pictures, evenly spread; 0 for all.

        Raises:
            DatasetError: the folder is not as expected, a label is of another size than its picture, or there is not a
                class of words for each class.
            ValueError, FileNotFoundError: see :meth:`Vocabulary.parse`.
        """
        voc, unlabelled = find_voc(root), 0
        if voc is not None:
            vocabulary = Vocabulary.parse(words) if words else VOCABULARIES["voc21"]
            names = dict(enumerate(VOC_NAMES))
            void = {VOC_VOID} if len(vocabulary.names) == len(names) else {0, VOC_VOID}
            scored: Mapping[int, str] = {number: name for number, name in names.items() if number not in void}
            classes, pairs = Classes.of(scored, void, "VOC 2012"), voc_pairs(voc, "val")
        elif (root / "classes.json").is_file():
            classes = read_classes(root / "classes.json")
            vocabulary = Vocabulary.parse(words) if words else of_names(classes, root)
            pairs, unlabelled = pair_files(root / "val" / "images", root / "val" / "labels", LAYOUT, None)
        else:
            raise DatasetError(f"{root} is no data set of open vocabulary; expected {LAYOUT}")
        if len(vocabulary.names) != len(classes.names):
            raise DatasetError(
                f"{root} scores {len(classes.names)} classes and {len(vocabulary.names)} were given in words; give one "
                f"for each, in this order: {', '.join(classes.names)}"
            )
        pairs = spread(pairs, limit or None)
        require_like_sides(pairs)
        return cls(pairs, classes, vocabulary, unlabelled)

    def read(
        self, skipped: dict[str, str], pairs: Iterator[tuple[Path, Path]]
    ) -> Iterator[tuple[tuple[Path, Path], Tensor, Tensor]]:
        """Files, pictures (3, H, W) in [0, 1] and labels (h, w); unreadable ones go to ``skipped``.

        Raises:
            DatasetError: a label with an unknown id, or of another shape than its picture.
        """
        for picture, labelled in pairs:
            try:
                image, label = read_image(picture), read_label(labelled, self.classes)
            except (ImageError, OSError) as error:
                skipped[str(picture)] = str(error)
                continue
            require_same_shape(image, label, picture, labelled)
            yield (picture, labelled), image, label


def of_names(classes: Classes, root: Path) -> Vocabulary:
    """The vocabulary of the names in ``classes.json``, underscores read as spaces."""
    return Vocabulary.of([[name.replace("_", " ")] for name in classes.names], f"{root / 'classes.json'}")
