"""Learning rates as pure functions of the step, so that a continued run needs no stored schedule."""

from __future__ import annotations

import math

from .settings import RunSettings

PLATEAU_WARMUP, PLATEAU_DECAY = 200, 0.35


def rate_factor(settings: RunSettings, step: int) -> float:
    """The learning rate of ``step`` (counted from 0) over ``settings.lr``.

    * ``constant``: 1.
    * ``one_cycle``: half a cosine from 1/25 up to 1 over the first ``warmup`` of the steps, half a cosine down
      to nearly 0 over the others.
    * ``plateau``: see :func:`plateau`.
    * ``cosine``: half a cosine from 1 at the first step to 0 after the last.

    Nothing but the settings and the step decides it. A run that is extended has, from the step where that happens, the
    rates of a run that had the new number of steps from the start: a ``one_cycle`` of 1,000 steps with a warm-up of
    0.1, extended to 2,000 at its end, goes on at 0.59 and falls to nearly 0 once more.
    """
    if settings.schedule == "one_cycle":
        return one_cycle(step, settings.steps, settings.warmup)
    if settings.schedule == "plateau":
        return plateau(step, settings.steps)
    if settings.schedule == "cosine":
        return (1 + math.cos(math.pi * step / settings.steps)) / 2
    return 1.0


def one_cycle(step: int, steps: int, warmup: float) -> float:
    rise = max(1.0, warmup * steps)
    if step < rise:
        return 1 - (1 - 1 / 25) * (1 + math.cos(math.pi * step / rise)) / 2
    return 1e-5 + (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, steps - rise)))) / 2


def plateau(step: int, steps: int) -> float:
    """Linear warm-up over 200 steps, a plateau at 1, linear decay to 0 over the last 35 % of the steps.

    Before the decay, rates do not depend on ``steps``: such a run can be continued to another number of steps.
    """
    return max(0.0, min((step + 1) / PLATEAU_WARMUP, 1.0, (steps - step) / (PLATEAU_DECAY * steps)))
