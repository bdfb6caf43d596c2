"""Why nearest beats bilinear on boundaries: where the edges lie, how many they are, and how strong, each by itself.

python docs/boundary_places.py bsds500-boundaries 8
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import naf_hub
from naf_hub.contenders import load_contenders
from naf_hub.paired_files import spread
from naf_hub_probing.boundaries import BoundaryProtocol, find_pairs, read_pairs, whole_cells
from naf_hub_probing.boundary_scores import Drawn, score_edges
from naf_hub_probing.edges import Edges, find_edges

METHODS = ("nearest", "bilinear")


def shuffled(edges: Edges, generator: torch.Generator) -> Edges:
    """The same places, their strengths dealt out anew."""
    return edges._replace(strength=edges.strength[torch.randperm(len(edges.strength), generator=generator)])


def moved(edges: Edges, pixels: int) -> Edges:
    """Shifted down and to the right; what leaves the picture is lost."""
    points = edges.points + pixels
    inside = (points < torch.tensor(edges.size)).all(1)
    return Edges(points[inside], edges.strength[inside], edges.size)


@torch.no_grad()
def main(data: str, limit: str) -> None:
    protocol, generator = BoundaryProtocol(), torch.Generator().manual_seed(0)
    models = load_contenders(list(METHODS), made_for="pico", device="cpu")
    backbone = naf_hub.load_backbone("pico")
    found: dict[str, list[Edges]] = {}
    drawn: list[Drawn] = []
    for _, image, share in read_pairs(spread(find_pairs(Path(data)), int(limit)), {}):
        drawn.append(Drawn.of(share, protocol.tolerance))
        features = backbone(whole_cells(image[None], backbone.patch_size))
        for label, model in models.items():
            output = model(image[None], features, (image.shape[-2], image.shape[-1]))[0]
            edges = find_edges(output, protocol.sigma)
            found.setdefault(label, []).append(edges)
            found.setdefault(f"{label}, shuffled", []).append(shuffled(edges, generator))
            found.setdefault(f"{label}, moved", []).append(moved(edges, backbone.patch_size // 2))
    for label, maps in found.items():
        score = score_edges(maps, drawn)
        pixels = np.mean([len(edges.points) / (edges.size[0] * edges.size[1]) for edges in maps])
        recall = score_edges([m._replace(strength=torch.ones_like(m.strength)) for m in maps], drawn).recall
        print(
            f"{label:20} AP {100 * score.average_precision:5.1f}  edge pixels {100 * pixels:5.1f} %  "
            f"recall of all {100 * recall:5.1f} %"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
