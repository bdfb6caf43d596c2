"""What an upsampler must do where it promises it; see :class:`naf_hub.Promises`."""

from __future__ import annotations

from typing import Any

import torch

from ..parts.linear_groups import project_groups
from ..store import each_map
from .subject import SIZES, Subject, assert_close


def batch_independence(subject: Subject) -> None:
    """A batch of two is two batches of one, where that is promised."""
    model = subject.make()
    if not model.promises.batch_independent:
        return
    image, features = subject.inputs(2, SIZES[1])

    def alone(i: int) -> torch.Tensor:
        return model(image[i : i + 1], each_map(lambda found: found[i : i + 1], features))

    with torch.no_grad():
        assert_close(model(image, features), torch.cat([alone(0), alone(1)]), 2e-5, "batch independence")


def open_sizes(subject: Subject) -> None:
    """One exported graph serves every batch, image and feature size, where that is promised."""
    model = subject.make()
    if not (model.promises.export and model.promises.open_sizes):
        return
    free: Any = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    image, features = subject.inputs(2, (8, 6, 4, 48, 36))
    with torch.no_grad():
        program = torch.export.export(
            model,
            (image, features),
            dynamic_shapes=(free, each_map(lambda _: free, features)),
            strict=False,
        ).module()
        for batch, size in ((1, (8, 5, 7, 33, 46)), (4, (8, 10, 12, 40, 61))):
            inputs = subject.inputs(batch, size)
            assert_close(program(*inputs), model(*inputs), 5e-5, "torch.export with open sizes")


def constant_features(subject: Subject) -> None:
    """Constant features give the same constant, where that is promised."""
    model = subject.make()
    if not model.promises.constant:
        return
    image, features = subject.inputs(1, SIZES[1])
    with torch.no_grad():
        output = model(image, each_map(lambda found: torch.full_like(found, 1.5), features))
    assert_close(output, torch.full_like(output, 1.5), 2e-5, "constant in, constant out")


def feature_range(subject: Subject) -> None:
    """Every value lies within the range of its input channel, where that is promised."""
    model = subject.make()
    if not model.promises.range:
        return
    image, features = subject.inputs(1, SIZES[1])
    with torch.no_grad():
        output = model(image, features)
    low, high = (
        getattr(model.reference(features).flatten(2), f)(-1).values[..., None, None] for f in ("min", "max")
    )
    assert (output >= low - 1e-5).all(), "an output value is below its channel's least input"
    assert (output <= high + 1e-5).all(), "an output value is above its channel's greatest input"


def linear_groups(subject: Subject) -> None:
    """Class scores may be upsampled instead of features, group by group, where that is promised."""
    model = subject.make()
    groups = model.promises.linear_groups
    if groups is None:
        return
    for size in (SIZES[1], SIZES[2]):
        image, features = subject.inputs(1, size)
        assert isinstance(features, torch.Tensor), "linear_groups is for methods that want one map"
        # A number of channels that the groups do not divide: they are cut as torch.tensor_split cuts.
        features = (
            torch.cat([features, features[:, :1].square()], dim=1) if subject.channels is None else features
        )
        weight = torch.randn(3, features.shape[1], generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            whole = torch.einsum("bchw,kc->bkhw", model(image, features, size[5:]), weight)
            scores = model(image, project_groups(features, weight, groups), size[5:])
            apart = scores.unflatten(1, (groups, 3)).sum(1)
        assert_close(apart, whole, 1e-4 * max(1.0, float(whole.abs().max())), f"linear_groups={groups}")


def linearity(subject: Subject) -> None:
    """Sums and multiples of features give those of their outputs, where ``linear_groups`` is promised."""
    model = subject.make()
    if model.promises.linear_groups is None:
        return
    image, first = subject.inputs(1, SIZES[1])
    assert isinstance(first, torch.Tensor), "linear_groups is for methods that want one map"
    second = first.square()
    with torch.no_grad():
        wanted = 2 * model(image, first) - 3 * model(image, second)
        found = model(image, 2 * first - 3 * second)
    assert_close(found, wanted, 1e-4 * max(1.0, float(wanted.abs().max())), "linearity")


def channel_order(subject: Subject) -> None:
    """Channels may change places within their group, where ``linear_groups`` is promised."""
    model = subject.make()
    groups = model.promises.linear_groups
    if groups is None:
        return
    image, features = subject.inputs(1, SIZES[1])
    assert isinstance(features, torch.Tensor), "linear_groups is for methods that want one map"
    order = torch.cat([group.flip(0) for group in torch.arange(features.shape[1]).tensor_split(groups)])
    with torch.no_grad():
        found, wanted = model(image, features[:, order]), model(image, features)[:, order]
    assert_close(found, wanted, 1e-4 * max(1.0, float(wanted.abs().max())), "channels in another order")


def translation(subject: Subject) -> None:
    """Image and features moved by one cell give the output moved by one cell, where that is promised."""
    model = subject.make()
    if not model.promises.translation:
        return
    cells, ratio, margin = 26, 3, 11
    image, features = subject.inputs(1, (8, cells, cells, ratio * cells, ratio * cells))
    moved = each_map(lambda found: found.roll((1, 1), (-2, -1)), features)
    with torch.no_grad():
        wanted = model(image, features).roll((ratio, ratio), (-2, -1))
        found = model(image.roll((ratio, ratio), (-2, -1)), moved)
    inner = (..., *[slice(ratio * margin, ratio * (cells - margin))] * 2)
    limit = 1e-4 * max(1.0, float(wanted.abs().max()))
    assert_close(found[inner], wanted[inner], limit, "translation by one cell")
