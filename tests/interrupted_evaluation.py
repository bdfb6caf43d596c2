"""An evaluation that stops in its middle and goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch.nn.functional as F

from naf_hub import Upsampler
from naf_hub.reports import Report


def counted(calls: list[int], most: int | None = None) -> Upsampler:
    """An upsampler that notes each call, and is interrupted after so many."""

    class Counted(Upsampler):
        def upsample(self, image, features, output_size):
            if len(calls) == most:
                raise KeyboardInterrupt
            calls.append(1)
            return F.interpolate(features, output_size, mode="bilinear") * image.mean()

    return Counted()


def check_going_on(evaluate: Callable[[Mapping[str, Upsampler], Path | None], Report], out: Path) -> None:
    """Interrupted at its last call and continued, it must say what it says at once, and not compute twice.

    Args:
        evaluate: two contenders, keeping results in the folder.
        out: the folder.
    """
    straight, before, after = [], [], []
    models = {"first": counted([]), "second": counted(straight)}
    expected = evaluate(models, None)
    with pytest.raises(KeyboardInterrupt):
        evaluate({"first": counted([]), "second": counted(before, len(straight) - 1)}, out)
    assert len(before) == len(straight) - 1
    (out / "second.jsonl").open("a").write('{"key": "cut sho')
    found = evaluate({"first": counted([], 0), "second": counted(after)}, out)
    assert [row.values for row in found.rows] == [row.values for row in expected.rows]
    assert 0 < len(after) < len(straight)
    again = evaluate({"first": counted([], 0), "second": counted([], 0)}, out)
    assert [row.values for row in again.rows] == [row.values for row in expected.rows]
