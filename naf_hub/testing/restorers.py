"""What every restorer must do."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..interfaces import Restorer
from ..loading import load_restorer
from ..records import RestorerRecord
from ..registry import registry
from .subject import Subject, assert_close, assert_threads_agree, copies_of

# (H, W): square, non-square, odd, a single row, a single pixel.
SIDES = ((32, 32), (24, 40), (17, 23), (1, 9), (1, 1))


def noisy(batch: int, height: int, width: int) -> Tensor:
    """Random images (B, 3, H, W) with noise of deviation 0.3, which leaves [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, height, width, generator=generator)
    return image + 0.3 * torch.randn(image.shape, generator=generator)


def restorer_shapes(subject: Subject) -> None:
    """The same shape for every size; noise outside [0, 1] is accepted without a warning."""
    model = subject.make()
    for height, width in SIDES:
        image = noisy(2, height, width)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            output = model(image)
        assert output.shape == image.shape, f"{height}x{width}: shape {tuple(output.shape)}"
        assert torch.isfinite(output).all(), f"{height}x{width}: output is not finite"


def restorer_dtypes(subject: Subject) -> None:
    """The output has the image's dtype."""
    for dtype in (torch.float32, torch.float64):
        output = subject.make().to(dtype)(noisy(1, 16, 16).to(dtype))
        assert output.dtype == dtype, f"{dtype} images gave {output.dtype}"


def restorer_batch_independence(subject: Subject) -> None:
    """A batch of two is two batches of one."""
    model, image = subject.make(), noisy(2, 24, 40)
    with torch.no_grad():
        both, each = model(image), torch.cat([model(image[:1]), model(image[1:])])
    assert_close(both, each, 1e-4 * max(1.0, float(both.abs().max())), "batch independence")


def restorer_determinism(subject: Subject) -> None:
    """Two calls in eval mode are bit-equal and change neither the image, parameters nor buffers."""
    model, image = subject.make(), noisy(1, 16, 24)
    kept, state = image.clone(), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        first, second = model(image), model(image)
    assert torch.equal(first, second), "two calls in eval mode differ"
    assert torch.equal(image, kept), "the image was modified"
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in state.items()), "a parameter or buffer was modified"


def restorer_gradients(subject: Subject) -> None:
    """Gradients reach the image and, in a trainable restorer, its parameters."""
    model, image = subject.make(), noisy(1, 16, 16).requires_grad_()
    model.requires_grad_(subject.record.trainable)(image).square().mean().backward()
    assert image.grad is not None, "no gradient at the image"
    assert torch.isfinite(image.grad).all(), "gradient at the image is not finite"
    assert image.grad.abs().sum() > 0, "gradient at the image is zero"
    if subject.record.trainable:
        used = [p.grad for p in model.parameters() if p.grad is not None]
        assert used, "no parameter received a gradient"
        assert all(torch.isfinite(g).all() for g in used), "a parameter's gradient is not finite"


def restorer_copies(subject: Subject) -> None:
    """deepcopy, pickling and a state_dict round trip give the same model."""
    model, image = subject.make(), noisy(1, 16, 16)
    with torch.no_grad():
        expected = model(image)
        for how, other in copies_of(model, subject.make()):
            assert torch.equal(other(image), expected), f"{how} computes something else"


def restorer_finite(subject: Subject) -> None:
    """A black and a white image, in which nothing deviates, give finite outputs."""
    model = subject.make()
    with torch.no_grad():
        for what, image in (("black", torch.zeros(1, 3, 16, 24)), ("white", torch.ones(1, 3, 16, 24))):
            assert torch.isfinite(model(image)).all(), f"{what}: output is not finite"


def restorer_acts(subject: Subject) -> None:
    """A noisy image does not come back unchanged, where no weights have to be learned for that.

    How much better it gets is for the plugin's own tests: the suite has neither photos nor trained weights.
    """
    model, image = subject.make(), noisy(1, 16, 24)
    if subject.record.learned:
        return  # many a network is made to give back the image until it is trained
    with torch.no_grad():
        assert not torch.allclose(model(image), image, atol=1e-4), "the image comes back unchanged"


def restorer_threads(subject: Subject) -> None:
    """The number of CPU threads changes nothing but rounding."""
    model, image = subject.make(), noisy(1, 96, 128)
    assert_threads_agree(lambda: model(image))


def restorer_export(subject: Subject) -> None:
    """torch.export captures the model and the captured program agrees."""
    model, image = subject.make(), noisy(1, 16, 24)
    with torch.no_grad():
        expected = model(image)
        found = torch.export.export(model, (image,), strict=False).module()(image)
    assert_close(found, expected, 1e-4 * max(1.0, float(expected.abs().max())), "torch.export")


def restorer_bad_input(subject: Subject) -> None:
    """Wrong input raises ValueError or TypeError with a message."""
    model, image = subject.make(), noisy(1, 16, 16)
    for what, wrong in (
        ("grey", image[:, :1]),
        ("an empty", image[..., :0]),
        ("a 32-bit integer", (image * 255).int()),
        ("NaN", image * float("nan")),
    ):
        try:
            model(wrong)
        except (ValueError, TypeError) as error:
            assert str(error), f"{what}: error without a message"
        else:
            raise AssertionError(f"{what} image was accepted")


RESTORER_CHECKS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        restorer_shapes, restorer_dtypes, restorer_finite, restorer_acts, restorer_batch_independence,
        restorer_determinism, restorer_threads, restorer_gradients, restorer_copies, restorer_export,
        restorer_bad_input,
    )
}  # fmt: skip


def check_restorer(name: str, *, checks: Iterable[str] | None = None, **options: Any) -> None:
    """Run the conformance suite on a registered restorer (random weights).

    Args:
        name: registered name.
        checks: names out of ``RESTORER_CHECKS``; default all.
        options: constructor options, for example a small width.

    Raises:
        AssertionError: says which promise is broken.
    """

    def make() -> Restorer:
        torch.manual_seed(0)
        return load_restorer(name, weights=None, **options)

    subject = Subject(make, registry().find(name, RestorerRecord))
    for check in checks or RESTORER_CHECKS:
        RESTORER_CHECKS[check](subject)
