"""How well edges lie on boundaries that people drew: precision and recall with a tolerance, as BSDS500 has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from naf_hub.errors import MissingExtraError

from .edges import Edges

THRESHOLDS = 30


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Boundaries of one picture.

    Attributes:
        points: (M, 2) rows and columns.
        shares: (M,) share of the annotators who drew a boundary there.
        reach: tolerance in pixels.
    """

    points: np.ndarray
    shares: np.ndarray
    reach: float

    @classmethod
    def of(cls, picture: Tensor, tolerance: float) -> Drawn:
        """From shares (H, W) in [0, 1]; ``tolerance`` is a fraction of the diagonal."""
        shares = picture.numpy()
        points = np.argwhere(shares > 0)
        return cls(points, shares[shares > 0], tolerance * float(np.hypot(*shares.shape)))


@dataclasses.dataclass(frozen=True)
class Score:
    """Figures over all pictures.

    Attributes:
        average_precision: mean, over recalls of 0 to 1, of the highest precision at that recall or a higher one;
            0 where no threshold reaches it.
        best_f: highest harmonic mean of both at one threshold for all pictures (ODS).
        recall, precision: at that threshold.
    """

    average_precision: float
    best_f: float
    recall: float
    precision: float


def score_edges(found: Sequence[Edges], drawn: Sequence[Drawn]) -> Score:
    """Compare the edges of pictures with what people drew in them, at ``THRESHOLDS`` strengths.

    Precision is the share of edge pixels that can be matched, one to one, to a pixel that anybody drew, at most the
    tolerance away. Recall is the share of what each annotator drew, all annotators together, that has an edge within
    the tolerance; without matching, since averaged drawings put the annotators' lines side by side.

    Raises:
        MissingExtraError: SciPy is not installed.
        ValueError: nothing was drawn, or no edge found.
    """
    strengths = np.concatenate([edges.strength.numpy() for edges in found])
    total = sum(float(one.shares.sum()) for one in drawn)
    if not total or not len(strengths):
        raise ValueError("no boundary to compare with" if not total else "no edge was found in any picture")
    # Equally many edges between one threshold and the next: strengths of different upsamplers do not compare.
    levels = np.quantile(strengths, np.linspace(0, 1, THRESHOLDS + 1)[:-1])
    hits, right, edges_at = np.zeros((3, THRESHOLDS))
    for edges, truth in zip(found, drawn, strict=True):
        points, strength = edges.points.numpy(), edges.strength.numpy()
        pairs = near_pairs(points, truth)
        strongest = np.zeros(len(truth.points))
        np.maximum.at(strongest, pairs[1], strength[pairs[0]])
        for n, level in enumerate(levels):
            kept = strength >= level
            edges_at[n] += kept.sum()
            right[n] += matched(pairs[:, kept[pairs[0]]], len(points), len(truth.points))
            hits[n] += truth.shares[strongest >= level].sum() if len(pairs[0]) else 0.0
    recall, precision = hits / total, right / np.maximum(edges_at, 1)
    f = 2 * recall * precision / np.maximum(recall + precision, 1e-12)
    best = int(f.argmax())
    curve = [max(precision[recall >= place], default=0.0) for place in np.linspace(0, 1, 101)]
    return Score(float(np.mean(curve)), float(f[best]), float(recall[best]), float(precision[best]))


def near_pairs(points: np.ndarray, truth: Drawn) -> np.ndarray:
    """(2, P) numbers of edge pixels and drawn pixels that lie within the tolerance of each other."""
    try:
        from scipy.spatial import KDTree
    except ImportError as error:
        raise MissingExtraError("scoring boundaries needs pip install 'naf-hub[eval]'") from error
    if not len(points) or not len(truth.points):
        return np.zeros((2, 0), dtype=np.int64)
    found = KDTree(points).sparse_distance_matrix(KDTree(truth.points), truth.reach, output_type="coo_matrix")
    near = np.stack([found.row, found.col]).astype(np.int64)
    # The sparse matrix leaves distances of zero out.
    places = {tuple(place): number for number, place in enumerate(truth.points.tolist())}
    same = [(n, places[tuple(p)]) for n, p in enumerate(points.tolist()) if tuple(p) in places]
    return np.unique(np.concatenate([near, np.array(same, dtype=np.int64).reshape(-1, 2).T], 1), axis=1)


def matched(pairs: np.ndarray, edges: int, drawn: int) -> int:
    """Most pairs that share no pixel."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if not pairs.shape[1]:
        return 0
    # Older SciPy matches only graphs whose places are 32-bit.
    places = tuple(pairs.astype(np.int32))
    graph = coo_array((np.ones(pairs.shape[1], dtype=np.int8), places), shape=(edges, drawn))
    return int((maximum_bipartite_matching(graph.tocsr(), perm_type="column") >= 0).sum())
