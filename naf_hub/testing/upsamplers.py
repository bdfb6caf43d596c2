"""What every upsampler must do."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..interfaces import Upsampler
from ..loading import load_upsampler
from ..parts.linear_groups import project_groups
from ..records import UpsamplerRecord
from ..registry import registry
from ..store import each_map, maps_in
from .subject import Subject, assert_close

# (channels, h, w, image H, image W, output H, output W): square, non-square, non-integer ratio, image of
# another size than the output, a single row, a single cell, ratio 1, and an output smaller than the features.
SIZES = (
    (8, 10, 10, 40, 40, 40, 40),
    (8, 9, 12, 36, 48, 36, 48),
    (8, 10, 11, 27, 25, 27, 25),
    (8, 10, 9, 33, 47, 40, 36),
    (8, 1, 7, 16, 30, 8, 28),
    (8, 1, 1, 12, 12, 9, 7),
    (8, 11, 12, 44, 48, 11, 12),
    (8, 12, 12, 24, 24, 5, 7),
)


def shapes(subject: Subject) -> None:
    """(B, C, H, W) for every size; a method that cannot may raise one clear ValueError instead."""
    model, made = subject.make(), 0
    for size in SIZES:
        image, features = subject.inputs(2, size)
        try:
            with torch.no_grad():
                output = model(image, features, size[5:])
        except ValueError as error:
            assert str(error), f"{size}: ValueError without a message"
            continue
        made += 1
        expected = (2, model.reference(features).shape[1], *size[5:])
        assert tuple(output.shape) == expected, f"{size}: shape {tuple(output.shape)}, expected {expected}"
        assert torch.isfinite(output).all(), f"{size}: output is not finite"
    assert made >= 2, "refuses nearly every size"
    image, features = subject.inputs(1, SIZES[0])
    assert model(image, features).shape[-2:] == image.shape[-2:], "default output size is not the image's"
    assert model(image, features, 40).shape[-2:] == (40, 40), "an int output size must mean a square"


def dtypes(subject: Subject) -> None:
    """The output has the features' dtype and device."""
    for dtype in (torch.float32, torch.float64):
        model = subject.make().to(dtype)
        image, features = subject.inputs(1, SIZES[0], dtype=dtype)
        output = model(image, features, 40)
        assert output.dtype == dtype, f"{dtype} features gave {output.dtype}"
        assert output.device == image.device, "output is on another device than the features"


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


def determinism(subject: Subject) -> None:
    """Two calls in eval mode are bit-equal and change neither inputs, parameters nor buffers."""
    model = subject.make()
    state = copy.deepcopy(model.state_dict())
    inputs = subject.inputs(1, SIZES[0])
    given = [inputs[0], *maps_in(inputs[1])]
    kept = [t.clone() for t in given]
    with torch.no_grad():
        first, second = model(*inputs), model(*inputs)
    assert torch.equal(first, second), "two calls in eval mode differ"
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True)), "the inputs were modified"
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in state.items()), "a parameter or buffer was modified"


def gradients(subject: Subject) -> None:
    """Gradients reach the features and, in a trainable method, every used parameter, where that is promised."""
    model = subject.make()
    if not model.promises.gradients:
        return
    image, features = subject.inputs(1, SIZES[0])
    given = maps_in(features)
    for found in given:
        found.requires_grad_()
    model(image, features).square().mean().backward()
    reached = [found.grad for found in given if found.grad is not None]
    assert reached, "no gradient at the features"
    assert all(torch.isfinite(g).all() for g in reached), "gradient at the features is not finite"
    assert any(g.abs().sum() > 0 for g in reached), "gradient at the features is zero"
    if subject.record.trainable:
        model.requires_grad_(True)
        model(image, features).square().mean().backward()
        used = [p.grad for p in model.parameters() if p.grad is not None]
        assert used, "no parameter received a gradient"
        assert all(torch.isfinite(g).all() for g in used), "a parameter's gradient is not finite"


def gradient_agreement(subject: Subject) -> None:
    """The result is the same with and without gradients enabled."""
    model = subject.make().requires_grad_(True)
    inputs = subject.inputs(1, SIZES[2])
    with torch.no_grad():
        without = model(*inputs)
    assert_close(model(*inputs).detach(), without, 2e-5, "with and without gradients")


def copies(subject: Subject) -> None:
    """deepcopy and a state_dict round trip give the same model."""
    model = subject.make()
    inputs = subject.inputs(1, SIZES[0])
    fresh = subject.make()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(*inputs)
        assert torch.equal(copy.deepcopy(model)(*inputs), expected), "a deepcopy computes something else"
        assert torch.equal(fresh(*inputs), expected), "a state_dict round trip computes something else"


def autocast(subject: Subject) -> None:
    """Under bfloat16 autocast the result stays finite and near the float32 one."""
    model = subject.make()
    inputs = subject.inputs(1, SIZES[0])
    with torch.no_grad():
        expected = model(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(*inputs)
    assert torch.isfinite(found).all(), "not finite under bfloat16 autocast"
    error = (found.float() - expected).norm() / expected.norm()
    assert error < 0.1, f"bfloat16 autocast is {float(error):.2%} off"


def export(subject: Subject) -> None:
    """torch.export captures the model and the captured program agrees, where that is promised."""
    model = subject.make()
    if not model.promises.export:
        return
    inputs = subject.inputs(1, SIZES[0])
    program = torch.export.export(model, inputs)
    with torch.no_grad():
        assert_close(program.module()(*inputs), model(*inputs), 2e-5, "torch.export")


def bad_input(subject: Subject) -> None:
    """Wrong input raises ValueError or TypeError; values outside [0, 1] warn."""
    model = subject.make()
    image, features = subject.inputs(2, SIZES[0])
    flat = each_map(lambda found: found[0], features)
    poisoned = each_map(lambda found: found * float("nan"), features)
    wrong: list[tuple[str, tuple[Any, ...]]] = [
        ("an image of 4 channels", (image.repeat(1, 2, 1, 1)[:, :4], features)),
        ("another batch size", (image[:1], features)),
        ("features without a batch", (image, flat)),
        ("an empty image", (image[..., :0], features)),
        ("a 32-bit integer image", ((image * 255).int(), features)),
        ("NaN in the image", (image * float("nan"), features)),
        ("NaN in the features", (image, poisoned)),
        ("output size 0", (image, features, 0)),
        ("an output size of three", (image, features, (4, 4, 4))),
    ]
    for what, arguments in wrong:
        try:
            model(*arguments)
        except (ValueError, TypeError) as error:
            assert str(error), f"{what}: error without a message"
        else:
            raise AssertionError(f"{what} was accepted")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(image * 255, features)
    assert any(w.category is UserWarning and "[0, 1]" in str(w.message) for w in caught), (
        "0-255 images pass silently"
    )


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


UPSAMPLER_CHECKS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        shapes, dtypes, batch_independence, linear_groups, constant_features, feature_range, determinism, gradients,
        gradient_agreement, copies, autocast, export, bad_input,
    )
}  # fmt: skip


def check_upsampler(
    name: str, *, checks: Iterable[str] | None = None, channels: int | None = None, **options: Any
) -> None:
    """Run the conformance suite on a registered upsampler.

    Args:
        name: registered name.
        checks: names out of ``UPSAMPLER_CHECKS``; default all.
        channels: feature channels to feed, where the method insists on a number; a method with an option of that name
            is made for them.
        options: constructor options, for example a small width.

    Raises:
        AssertionError: says which promise is broken.
    """

    def make() -> Upsampler:
        torch.manual_seed(0)
        return load_upsampler(name, weights=None, made_for=channels, **options)

    subject = Subject(make, registry().find(name, UpsamplerRecord), channels)
    for check in checks or UPSAMPLER_CHECKS:
        UPSAMPLER_CHECKS[check](subject)
