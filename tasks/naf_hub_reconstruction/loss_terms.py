"""What training minimises: a sum of weighted terms, written as ``"cosine+scaled_mse+0.1*input"``.

Distances compare the output with the target. Terms beside them look at more, or at the output alone. Instead of
distances there may be ``multiview``, which has no target for the output; see :mod:`~naf_hub_reconstruction.multiview`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.interfaces import Features
from naf_hub.training.settings import ConfigError

from .changed_guidance import blurred_guidance, recoloured

Upsample = Callable[[Tensor, Features, "tuple[int, int]"], Tensor]
# Keeps a division by the spread of a vector finite.
SMALLEST_SPREAD = 1e-6
VARIANCE_FLOOR = 1e-5
TEMPERATURE = 0.5


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of maps (B, C, H, W), as of NAF (arXiv 2511.18452) and UPLiFT (arXiv 2601.17950)."""
    return F.mse_loss(output, target)


def absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of maps (B, C, H, W); a choice of UPLiFT's code."""
    return F.l1_loss(output, target)


def cosine_distance(output: Tensor, target: Tensor) -> Tensor:
    """1 minus the mean cosine of the vectors of maps (B, C, H, W), as of LiFT (arXiv 2403.14625) and JAFAR."""
    return 1 - F.cosine_similarity(output, target, dim=1).mean()


def scaled_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of maps (B, C, H, W) after the scaling, pixel by pixel, that takes the target's vector to
    [0, 1]; as of JAFAR (arXiv 2506.11136) and AnyUp (arXiv 2510.12764)."""
    low, high = target.aminmax(dim=1, keepdim=True)
    return ((output - target) / (high - low).clamp_min(SMALLEST_SPREAD)).square().mean()


def standardised_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of maps (B, C, H, W) in units of the target's deviation, vector by vector; as of ViT-Up
    (arXiv 2606.14024)."""
    variance = target.var(dim=1, keepdim=True, correction=0) + VARIANCE_FLOOR
    return ((output - target).square() / variance).mean()


def affinity_divergence(output: Tensor, target: Tensor) -> Tensor:
    """How far the positions of a map (B, C, H, W) resemble each other otherwise than in the target.

    The Kullback-Leibler divergence of each position's resemblance to all others, softmax of cosines over 0.5, over
    the logarithm of their number; as of ViT-Up (arXiv 2606.14024). Makes matrices of (B, H W, H W).
    """
    wanted, found = (_log_affinities(maps) for maps in (target, output))
    count = found.shape[-1]
    total = F.kl_div(found, wanted, reduction="sum", log_target=True)
    return total / (len(output) * count * max(math.log(count), 1))


def _log_affinities(maps: Tensor) -> Tensor:
    vectors = F.normalize(maps.flatten(2), dim=1)
    cosines = vectors.mT @ vectors / TEMPERATURE
    itself = torch.eye(cosines.shape[-1], dtype=torch.bool, device=maps.device)
    return cosines.masked_fill(itself, -1e4).log_softmax(-1)


def total_variation(output: Tensor) -> Tensor:
    """Squared differences of neighbours in maps (B, C, H, W), as of LoftUp's first stage (arXiv 2504.14032)."""
    down, across = (output.diff(dim=dim).square().sum() for dim in (-2, -1))
    return (down + across) / output.numel()


DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": squared_error,
    "l1": absolute_error,
    "cosine": cosine_distance,
    "scaled_mse": scaled_squared_error,
    "standardised_mse": standardised_squared_error,
    "affinity": affinity_divergence,
}
"""Between output and target."""

CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {"blurred": blurred_guidance, "recoloured": recoloured}
"""Of guidance that must not change the result: the target upsampled to the guidance's size, with it and without."""

INPUT, VARIATION = "input", "tv"
VIEWS, FIELD, DISTILLED = "multiview", "crf", "distilled"
TERMS = (*DISTANCES, INPUT, VARIATION, *CHANGES, VIEWS, FIELD, DISTILLED)


class Term(NamedTuple):
    """One summand of a loss."""

    name: str
    weight: float


def parse_loss(text: str) -> tuple[Term, ...]:
    """The terms of ``"NAME+WEIGHT*NAME+..."``.

    Raises:
        ConfigError: an unknown name, a weight that is no positive number, neither a distance nor ``multiview`` among
            them, or terms that do not go together.
    """
    terms: list[Term] = []
    for part in text.split("+"):
        weight, times, name = part.rpartition("*")
        if name.strip() not in TERMS:
            raise ConfigError(
                f"loss = {text!r}: there is no term {name.strip()!r}; terms: {', '.join(TERMS)}", "loss"
            )
        try:
            factor = float(weight) if times else 1.0
        except ValueError:
            factor = 0.0
        if not 0 < factor < math.inf:
            reason = f"{weight!r} is no positive number; write 0.1*{name.strip()}"
            raise ConfigError(f"loss = {text!r}: {reason}", "loss")
        terms.append(Term(name.strip(), factor))
    names = {term.name for term in terms}
    reason = None
    if VIEWS in names:
        if others := names - {VIEWS, FIELD, DISTILLED, VARIATION}:
            reason = f"{VIEWS} goes with {FIELD}, {DISTILLED} and {VARIATION} alone, not with {min(others)}"
    elif alone := names & {FIELD, DISTILLED}:
        reason = f"{min(alone)} needs {VIEWS} beside it"
    elif not names & DISTANCES.keys():
        reason = f"needs one of {', '.join(DISTANCES)} to compare with the target, or {VIEWS}"
    if reason:
        raise ConfigError(f"loss = {text!r}: {reason}", "loss")
    return tuple(terms)


class Loss:
    """The loss that a text describes.

    ``input`` is the distance of the output, averaged to the input's grid, from the input features. ``blurred`` and
    ``recoloured`` are the distance of two results from each other, see :data:`CHANGES`; the one with unchanged
    guidance gets no gradients. Distance there is the sum of the distances in the text, with their weights.

    Args:
        text: see :func:`parse_loss`.
    """

    def __init__(self, text: str) -> None:
        self.terms = parse_loss(text)

    @property
    def by_views(self) -> bool:
        """Whether views of the picture are compared, by :class:`~naf_hub_reconstruction.multiview.MultiView`."""
        return self.weight(VIEWS) > 0

    def weight(self, name: str) -> float:
        """Of a term; 0 where it is not in the text."""
        return sum(term.weight for term in self.terms if term.name == name)

    @property
    def upsamples_target(self) -> bool:
        """Whether the target is itself an input, so that it must be what the upsampler takes."""
        return any(term.name in CHANGES for term in self.terms)

    def distance(self, output: Tensor, target: Tensor) -> Tensor:
        """Of maps (B, C, H, W): the distances of the text, in float32."""
        output = output.float()
        return sum(
            (
                term.weight * DISTANCES[term.name](output, target)
                for term in self.terms
                if term.name in DISTANCES
            ),
            start=output.new_zeros(()),
        )

    def __call__(
        self, upsample: Upsample, guidance: Tensor, small: Features, target: Tensor, low: Tensor
    ) -> Tensor:
        """The loss of one batch.

        Args:
            upsample: the method that learns.
            guidance: (B, 3, g, g) in [0, 1].
            small: the input features as the method takes them.
            target: (B, C, H, W) features that the output should have.
            low: (B, C, h, w) those of the input, in the space of the output.
        """
        output = upsample(guidance, small, (target.shape[-2], target.shape[-1]))
        loss = self.distance(output, target)
        for name, weight in self.terms:
            if name == INPUT:
                averaged = F.adaptive_avg_pool2d(output.float(), (low.shape[-2], low.shape[-1]))
                loss = loss + weight * self.distance(averaged, low)
            elif name == VARIATION:
                loss = loss + weight * total_variation(output.float())
            elif name in CHANGES:
                size = (guidance.shape[-2], guidance.shape[-1])
                with torch.no_grad():
                    plain = upsample(guidance, target, size).float()
                changed = upsample(CHANGES[name](guidance), target, size)
                loss = loss + weight * self.distance(changed, plain)
        return loss
