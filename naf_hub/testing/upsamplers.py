"""What every upsampler must do."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..interfaces import Upsampler
from ..loading import load_upsampler
from ..records import UpsamplerRecord
from ..registry import registry
from ..store import each_map, maps_in
from .promised import (
    batch_independence,
    channel_order,
    constant_features,
    feature_range,
    linear_groups,
    linearity,
    open_sizes,
    translation,
)
from .subject import SIZES, Subject, assert_close, assert_threads_agree, copies_of


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
    """The result is the same with gradients, without them and in inference mode, which leaves nothing behind."""
    model = subject.make().requires_grad_(True)
    inputs = subject.inputs(1, SIZES[2])
    with torch.inference_mode():
        inference = model(*inputs).clone()
    with torch.no_grad():
        without = model(*inputs)
    output = model(*inputs)
    assert_close(output.detach(), without, 2e-5, "with and without gradients")
    assert_close(inference, without, 2e-5, "in inference mode and without gradients")
    if output.requires_grad:
        output.sum().backward()  # fails where a table was kept that inference mode made


def copies(subject: Subject) -> None:
    """deepcopy, pickling and a state_dict round trip give the same model."""
    model = subject.make()
    inputs = subject.inputs(1, SIZES[0])
    with torch.no_grad():
        expected = model(*inputs)
        for how, other in copies_of(model, subject.make()):
            assert torch.equal(other(*inputs), expected), f"{how} computes something else"


def buffers(subject: Subject) -> None:
    """A caller's buffer receives what the plain call returns, and so do windows of rows."""
    model = subject.make()
    inputs = subject.inputs(2, SIZES[1])
    with torch.no_grad():
        expected = model(*inputs)
        buffer = torch.full(expected.shape, torch.nan, dtype=expected.dtype)
        assert model(*inputs, output=buffer) is buffer, "the buffer is not what is returned"
        assert_close(buffer, expected, 2e-5, "into a buffer")
        rows = torch.cat(list(model.stream(*inputs, rows=(5, 31))), 2)
        assert_close(rows, expected[:, :, 5:31], 2e-5, "rows 5 to 31")


def points(subject: Subject) -> None:
    """Features at chosen pixels are the map's there, and so are their gradients where those are promised."""
    model, size = subject.make(), SIZES[3]
    image, features = subject.inputs(2, size)
    height, width = size[5:]
    chosen = torch.tensor([(0, 0), (width - 1, height - 1), (5, 17), (width - 1, 2), (5, 17)])
    chosen = torch.stack([chosen, chosen.flip(0).clamp(1)])  # the second image is asked for others
    given = maps_in(features)
    for found in given:
        found.requires_grad_(model.promises.gradients)
    with torch.set_grad_enabled(model.promises.gradients):
        whole = model(image, features, (height, width))
        wanted = torch.stack([m[:, y, x] for m, (x, y) in zip(whole, chosen.mT, strict=True)])
        picked = model.features_at(image, features, chosen, (height, width))
    assert_close(picked, wanted, 2e-5, "features at points")
    if not model.promises.gradients:
        return
    through_points, through_map = (
        torch.autograd.grad(result.square().sum(), given, allow_unused=True) for result in (picked, wanted)
    )
    for one, other in zip(through_points, through_map, strict=True):
        assert (one is None) == (other is None), "features at points: a gradient is missing"
        if one is not None and other is not None:
            assert_close(one, other, 2e-4, "gradients through points")


def finite(subject: Subject) -> None:
    """Black and white images, and features of zeros, give finite outputs, though nothing in them deviates."""
    model = subject.make()
    image, features = subject.inputs(1, SIZES[1])
    zeros = each_map(torch.zeros_like, features)
    with torch.no_grad():
        for what, flat, given in (
            ("a black image", torch.zeros_like(image), features),
            ("a white image", torch.ones_like(image), features),
            ("features of zeros", image, zeros),
            ("a black image and features of zeros", torch.zeros_like(image), zeros),
        ):
            assert torch.isfinite(model(flat, given)).all(), f"{what}: output is not finite"


def threads(subject: Subject) -> None:
    """The number of CPU threads changes nothing but rounding."""
    model = subject.make()
    inputs = subject.inputs(1, (8, 24, 24, 96, 96))
    assert_threads_agree(lambda: model(*inputs))


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


def half_precision(subject: Subject) -> None:
    """Weights, image and features in bfloat16 give a bfloat16 output that is finite and near the float32 one."""
    model = subject.make()
    image, features = subject.inputs(
        1, SIZES[0], dtype=torch.bfloat16
    )  # rounded: some see the last bits of an image
    with torch.no_grad():
        expected = model(image.float(), each_map(torch.Tensor.float, features))
        found = model.to(torch.bfloat16)(image, features)
    assert found.dtype == torch.bfloat16, f"bfloat16 features gave {found.dtype}"
    assert torch.isfinite(found).all(), "not finite in bfloat16"
    error = (found.float() - expected).norm() / expected.norm()
    assert error < 0.3, f"bfloat16 is {float(error):.2%} off"


def export(subject: Subject) -> None:
    """torch.export captures the model and the captured program agrees, where that is promised."""
    model = subject.make()
    if not model.promises.export:
        return
    inputs = subject.inputs(1, SIZES[0])
    program = torch.export.export(model, inputs, strict=False)
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
        (
            "a buffer of another size",
            (image, features, 40, image.new_empty(2, model.reference(features).shape[1], 40, 41)),
        ),
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


UPSAMPLER_CHECKS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        shapes, dtypes, finite, batch_independence, linear_groups, linearity, channel_order, translation,
        constant_features, feature_range, determinism, buffers, points, threads, gradients, gradient_agreement, copies,
        autocast, half_precision, export, open_sizes, bad_input,
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
