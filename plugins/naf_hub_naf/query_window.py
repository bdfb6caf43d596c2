"""What one output pixel of NAF attends to: its window of cells, with logits and weights per head (arXiv 2511.18452)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from naf_hub.checks import check_features, check_image, check_output_size
from naf_hub.images import as_batch
from naf_hub.parts.precision import autocast_off

from .model import NAF
from .spatial import decay
from .windows import source_cells, window_slots


@dataclasses.dataclass(frozen=True)
class QueryWindow:
    """The window of one output pixel: k_y x k_x slots, each a low-resolution cell.

    Where output and features differ by whole numbers every slot is another cell; at other ratios one cell may fill
    several slots. Near borders the window is shifted inward, so that the middle slot is not the pixel's own cell.

    Attributes:
        at: row and column of the pixel in the output.
        rows: (k_y,) row of cells of each slot.
        columns: (k_x,) column of cells of each slot.
        logits: (heads, k_y, k_x) scaled scores before the softmax.
        weights: (heads, k_y, k_x); those of one head sum to 1.
        queries: (H, W, C) of all pixels, rotated by their place.
        keys: (h, w, C) of all cells, rotated by their place.
        values: (h, w, D), the features.
    """

    at: tuple[int, int]
    rows: Tensor
    columns: Tensor
    logits: Tensor
    weights: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) cells."""
        return self.keys.shape[0], self.keys.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) output pixels."""
        return self.queries.shape[0], self.queries.shape[1]

    def output(self) -> Tensor:
        """(D,): the weighted sum of the values, which is what the model gives at the pixel.

        Head m weighs the m-th of as many groups of channels.
        """
        values = self.values[self.rows][:, self.columns]
        groups = values.to(self.weights.dtype).tensor_split(len(self.weights), dim=-1)
        return torch.cat(
            [torch.einsum("ij,ijd->d", w, group) for w, group in zip(self.weights, groups, strict=True)]
        )

    def on_grid(self) -> Tensor:
        """(heads, h, w): the weight of every cell, zero outside the window."""
        h, w = self.grid
        cells = (self.rows[:, None] * w + self.columns).flatten()
        found = self.weights.new_zeros(len(self.weights), h * w)
        return found.index_add(1, cells, self.weights.flatten(1)).unflatten(1, (h, w))

    def offsets(self) -> tuple[Tensor, Tensor]:
        """(k_y,) and (k_x,): from the pixel's centre to the centre of each slot's cell, in cells."""
        places = (
            (n + 0.5) * cells / size - 0.5
            for n, cells, size in zip(self.at, self.grid, self.size, strict=True)
        )
        rows, columns = (
            slots.to(self.logits) - place
            for slots, place in zip((self.rows, self.columns), places, strict=True)
        )
        return rows, columns

    def nearness(self, locality: float | None) -> Tensor:
        """(k_y, k_x): what such a ``locality`` of the model adds to the logits of every head."""
        down, along = self.offsets()
        if locality is None:
            return down.new_zeros(len(down), len(along))
        return decay(down, locality)[:, None] + decay(along, locality)

    def distances(self) -> Tensor:
        """(k_y, k_x): from the pixel's centre to the centre of each slot's cell, in cells."""
        rows, columns = self.offsets()
        return (rows[:, None].square() + columns.square()).sqrt()

    def pixels(self) -> tuple[slice, slice]:
        """Rows and columns of output pixels whose cells the window spans."""
        spans = []
        for slots, cells, size in zip((self.rows, self.columns), self.grid, self.size, strict=True):
            below = source_cells(cells, size)
            inside = ((below >= int(slots.min())) & (below <= int(slots.max()))).nonzero()[0]
            spans.append(slice(int(inside[0]), int(inside[-1]) + 1))
        return spans[0], spans[1]


@torch.no_grad()
def query_window(
    model: NAF,
    image: Tensor,
    features: Tensor | tuple[int, int],
    at: tuple[int, int],
    output_size: int | tuple[int, int] | None = None,
) -> QueryWindow:
    """What the output pixel in row ``at[0]`` and column ``at[1]`` attends to.

    Args:
        model: in eval mode.
        image: (1, 3, H_img, W_img) or (3, H_img, W_img), RGB in [0, 1].
        features: (1, D, h, w); or just (h, w), since logits and weights do not depend on them: values then are 0.
        at: row and column in the output.
        output_size: an int (square) or (H, W); default the image's size.

    Returns:
        The window; ``output()`` of it is ``model(image, features, output_size)[0, :, *at]`` up to rounding.

    Raises:
        ValueError: several images, features that do not fit, or a pixel outside the output.
    """
    image = as_batch(image)
    check_image(image, model.takes_any_range)
    if isinstance(features, Tensor):
        check_features(features, image)
    else:
        features = image.new_zeros(len(image), model.num_heads, *features)
    if len(image) != 1:
        raise ValueError(f"one image at a time has a window to look at, got {len(image)}")
    height, width = check_output_size(output_size, image)
    y, x = at
    if not (0 <= y < height and 0 <= x < width):
        raise ValueError(f"row {y}, column {x} lies outside the output of {height} x {width} pixels")
    queries, keys, values = (
        found[0] for found in model.operands(model.normalize(image), features, (height, width))
    )
    rows, columns = (
        torch.tensor(window_slots(cells, side, model.kernel_size)[place], device=image.device)
        for cells, side, place in zip(keys.shape[:2], (height, width), at, strict=True)
    )
    with autocast_off(image.device):
        query = queries[y, x].unflatten(0, (model.num_heads, -1))
        seen = keys[rows][:, columns].unflatten(-1, (model.num_heads, -1))
        logits = torch.einsum("nc,ijnc->nij", query, seen) * query.shape[-1] ** -0.5
        window = QueryWindow(at, rows, columns, logits, logits, queries, keys, values)
        if model.distance is not None:
            down, along = (offset[None, None] for offset in window.offsets())
            logits = logits * model.distance(down, along).view(logits.shape[1:])
        logits = logits + window.nearness(model.locality)
        weights = logits.flatten(1).softmax(dim=-1).view_as(logits)
    return dataclasses.replace(window, logits=logits, weights=weights)
