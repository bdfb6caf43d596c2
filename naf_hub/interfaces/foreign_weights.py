"""The interface of models whose published weights have other names or shapes than their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

Shape = tuple[int, ...]
# What fills one key of a state dict: the name of a tensor in the file, and what is done to it, if anything.
Step = tuple[str, Callable[[Tensor], Tensor] | None]


class ForeignWeights(nn.Module):
    """A model whose published weights have other names or shapes than its own: it says which tensor goes where.

    A base class beside :class:`Backbone` or :class:`Upsampler`. From what a subclass states, naf-hub fills a model
    built without storage tensor by tensor from its file or shards (so that loading takes no more memory than the
    weights), and loads state dicts that are in memory.
    """

    def plan_weights(self, shapes: Mapping[str, Shape]) -> Mapping[str, Step] | None:
        """Which tensor of a file fills each key of ``self.state_dict()``.

        May change the parts of the model to suit the weights (another number of registers, say): where the weights
        turn out not to fit, they are put back. May be called on the meta device. Tensors that no step names are
        left out; a subclass raises where one of those is not known to be superfluous.

        Args:
            shapes: of the tensors in the file, by name.

        Returns:
            ``{own key: (name in the file, change)}``; ``change`` makes the model's tensor of the file's, ``None``
            takes it as it is. ``None`` instead of a mapping where that cannot be said without the values: then
            :meth:`convert_weights` is asked.

        Raises:
            WeightsError: they are not for this model; :func:`naf_hub.weights.fill.check_plan` words it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement plan_weights(shapes)")

    def convert_weights(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state dict with the model's own keys and shapes, where :meth:`plan_weights` gave ``None``.

        Raises:
            WeightsError: these weights are not for this model.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement convert_weights(state)")

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict in any layout this class knows, all of it or nothing. Not to be overridden.

        Raises:
            WeightsError: names missing, unexpected and misshapen keys, or one with NaN.
        """
        from ..weights.files import load_into

        load_into(self, state, "weights")
