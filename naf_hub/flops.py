"""Floating-point operations of one call, counted from the operators that run, in two conventions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from .interfaces import Features, Upsampler

aten = torch.ops.aten
# Bias operand among the arguments, where one is given.
PRODUCTS: dict[Any, int | None] = {
    aten.mm: None,
    aten.bmm: None,
    aten.addmm: 0,
    aten.baddbmm: 0,
    aten.convolution: 2,
    aten._convolution: 2,
}


# Torch's own table of operators has that of CUDA alone.
CPU_ATTENTION = getattr(aten, "_scaled_dot_product_flash_attention_for_cpu", None)


class Flops(NamedTuple):
    """Floating-point operations, a multiplication with its addition counted as two.

    Attributes:
        paper: as the NAF paper's table 1 counts: convolutions and matrix products, a bias as one more product an
            output element; no attention kernels, norms, activations, pooling or interpolation.
        full: with the products of attention kernels.
    """

    paper: int
    full: int


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        # Not at the top: this imports triton, where that is installed.
        from torch.utils.flop_counter import flop_registry, sdpa_flop_count

        super().__init__()
        self.formulas, self.attention_formula = flop_registry, sdpa_flop_count
        self.paper = self.attention = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in PRODUCTS:
            self.paper += self.formulas[packet](*args, **(kwargs or {}), out_val=out)
            place = PRODUCTS[packet]
            if place is not None and args[place] is not None:
                self.paper += 2 * out.numel()
        elif packet is CPU_ATTENTION:
            self.attention += self.attention_formula(*(operand.shape for operand in args[:3]))
        elif packet in self.formulas:
            self.attention += self.formulas[packet](*args, **(kwargs or {}), out_val=out)
        return out


def count(call: Callable[[], Any]) -> Flops:
    """The operations of ``call``, which is run once, without gradients."""
    with torch.no_grad(), _Counter() as counter:
        call()
    return Flops(counter.paper, counter.paper + counter.attention)


def flops_of(
    model: Upsampler, image: torch.Tensor, features: Features, output_size: tuple[int, int]
) -> Flops:
    """The operations of a forward pass: what the method states (:meth:`Upsampler.flops`), else what is counted."""
    stated = model.flops(image, features, output_size)
    return stated or count(lambda: model(image, features, output_size))
