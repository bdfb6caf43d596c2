"""What every backbone must do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import MapError
from ..interfaces import Backbone
from ..loading import load_backbone
from ..records import BackboneRecord
from ..registry import registry
from ..wants import Want
from .subject import Subject, assert_close, assert_threads_agree, copies_of


def _image(batch: int, height: int, width: int) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def _sides(model: Backbone) -> tuple[int, int]:
    return 6 * model.patch_size, 4 * model.patch_size


def backbone_shapes(subject: Subject) -> None:
    """(B, embed_dim, h, w) on the stated grid, also for sides that are no multiple of the patch."""
    model = subject.make()
    height, width = _sides(model)
    record = subject.record
    if record.embed_dim:
        assert model.embed_dim == record.embed_dim, (
            f"record says dim {record.embed_dim}, model {model.embed_dim}"
        )
    if record.patch_size:
        assert model.patch_size == record.patch_size, "record and model differ in patch_size"
    with torch.no_grad():
        assert tuple(model(_image(2, height, width)).shape) == (2, model.embed_dim, 6, 4)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            odd = model(_image(1, height + 1, width - 1))
    assert tuple(odd.shape[-2:]) == model.grid(height + 1, width - 1), "odd sizes miss the stated grid"
    if model.patch_size > 1:
        assert any("resized" in str(w.message) for w in caught), "an image was resized without saying so"


def backbone_frozen(subject: Subject) -> None:
    """In eval mode, without trainable parameters, deterministic, inputs unmodified; gradients reach the image."""
    model = subject.make()
    assert not model.training, "not in eval mode"
    assert not any(p.requires_grad for p in model.parameters()), "parameters require gradients"
    image = _image(1, *_sides(model))
    kept = image.clone()
    with torch.no_grad():
        assert torch.equal(model(image), model(image)), "two calls differ"
    assert torch.equal(image, kept), "the image was modified"
    image.requires_grad_()
    model(image).square().mean().backward()
    assert image.grad is not None, "no gradient at the image"
    assert torch.isfinite(image.grad).all(), "gradient at the image is not finite"


def backbone_batch_independence(subject: Subject) -> None:
    """A batch of two is two batches of one."""
    model = subject.make()
    image = _image(2, *_sides(model))
    with torch.no_grad():
        both, each = model(image), torch.cat([model(image[:1]), model(image[1:])])
    assert_close(both, each, 1e-4 * max(1.0, float(both.abs().max())), "batch independence")


def backbone_copies(subject: Subject) -> None:
    """deepcopy, pickling and a state_dict round trip give the same model."""
    model = subject.make()
    image = _image(1, *_sides(model))
    with torch.no_grad():
        expected = model(image)
        for how, other in copies_of(model, subject.make()):
            assert torch.equal(other(image), expected), f"{how} computes something else"


def backbone_finite(subject: Subject) -> None:
    """Noise, a black and a white image give finite features."""
    model = subject.make()
    image = _image(1, *_sides(model))
    with torch.no_grad():
        for what, given in (("noise", image), ("black", image * 0), ("white", image * 0 + 1)):
            assert torch.isfinite(model(given)).all(), f"{what}: features are not finite"


def backbone_threads(subject: Subject) -> None:
    """The number of CPU threads changes nothing but rounding."""
    model = subject.make()
    image = _image(1, *_sides(model))
    assert_threads_agree(lambda: model(image))


def backbone_export(subject: Subject) -> None:
    """torch.export captures the model and the captured program agrees."""
    model = subject.make()
    image = _image(1, *_sides(model))
    with torch.no_grad():
        expected = model(image)
        found = torch.export.export(model, (image,), strict=False).module()(image)
    assert_close(found, expected, 1e-4 * max(1.0, float(expected.abs().max())), "torch.export")


def backbone_bad_input(subject: Subject) -> None:
    """Wrong input raises; values outside [0, 1] warn."""
    model = subject.make()
    image = _image(1, *_sides(model))
    for what, wrong in (
        ("grey", image[:, :1]),
        ("32-bit integer", (image * 255).int()),
        ("NaN", image * float("nan")),
    ):
        try:
            model(wrong)
        except (ValueError, TypeError) as error:
            assert str(error), f"{what}: error without a message"
        else:
            raise AssertionError(f"a {what} image was accepted")
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        model(image * 255)
    assert any("[0, 1]" in str(w.message) for w in caught), "0-255 images pass silently"


def backbone_maps(subject: Subject) -> None:
    """``Want()`` is what forward gives; maps are sound, the same asked together or alone; a lack raises MapError."""
    model = subject.make()
    image = _image(2, *_sides(model))
    tries = (
        Want(0),
        Want(-1, norm=False),
        Want(-1, "query"),
        Want(0, "key"),
        Want(-1, "value"),
        Want(-1, "class"),
    )
    given: dict[Want, Tensor] = {}
    with torch.no_grad():
        expected = model(image)
        assert torch.equal(model.maps(image, Want())[0], expected), "Want() differs from forward"
        for want in (*tries, Want(10**6)):
            try:
                (given[want],) = model.maps(image, want)
            except MapError as error:
                assert str(error), f"{want.name}: MapError without a message"
        together = model.maps(image, *given, Want())
    assert Want(10**6) not in given, "layer 1000000 was given"
    network = getattr(subject.record, "network", "")
    has_keys = Want(0, "key") in given
    if network:
        assert has_keys == (network != "stages"), (
            f"network={network!r}, but key[0] was {'' if has_keys else 'not '}given"
        )
    if depth := getattr(subject.record, "depth", 0):
        for layer, there in ((depth - 1, True), (depth, False)):
            assert _gives(model, image, Want(layer, norm=False)) == there, (
                f"depth={depth}, but layer {layer} was {'not ' * there}given"
            )
    assert torch.equal(together[-1], expected), "Want() among others differs from forward"
    for (want, alone), found in zip(given.items(), together, strict=False):
        assert alone.ndim == 4, f"{want.name} has {alone.ndim} dimensions, not 4"
        assert len(alone) == 2, f"{want.name} has a batch of {len(alone)}, not 2"
        assert alone.dtype == image.dtype, f"{want.name} is {alone.dtype}"
        assert torch.isfinite(alone).all(), f"{want.name} is not finite"
        if want.kind == "class":
            assert tuple(alone.shape[-2:]) == (1, 1), f"{want.name} is no map of one cell"
        assert_close(found, alone, 1e-4 * max(1.0, float(alone.abs().max())), f"{want.name} among others")


def _gives(model: Backbone, image: Tensor, want: Want) -> bool:
    try:
        with torch.no_grad():
            model.maps(image, want)
    except MapError:
        return False
    return True


BACKBONE_CHECKS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        backbone_shapes, backbone_finite, backbone_frozen, backbone_batch_independence, backbone_threads,
        backbone_copies, backbone_export, backbone_bad_input, backbone_maps,
    )
}  # fmt: skip


def check_backbone(name: str, *, checks: Iterable[str] | None = None, **options: Any) -> None:
    """Run the conformance suite on a registered backbone (random weights).

    Args:
        name: registered name or ``"timm:<model>"``.
        checks: names out of ``BACKBONE_CHECKS``; default all.
        options: constructor options.

    Raises:
        AssertionError: says which promise is broken.
    """

    def make() -> Backbone:
        torch.manual_seed(0)
        return load_backbone(name, weights=None, **options)

    subject = Subject(make, registry().find(name, BackboneRecord))
    for check in checks or BACKBONE_CHECKS:
        BACKBONE_CHECKS[check](subject)
