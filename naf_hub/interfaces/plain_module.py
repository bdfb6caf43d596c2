"""Any ``nn.Module`` with dense features as a backbone: from torch.hub, timm, transformers or your own code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MapError
from ..plugins import one_line
from ..records import IMAGENET_MEAN, IMAGENET_STD
from .backbone import Backbone

# Methods by which timm and the hub models of torch give features rather than a classification, and the keys under
# which such features are given in a mapping.
FEATURE_CALLS = ("forward_features", "get_intermediate_layers")
FEATURE_KEYS = ("x_norm_patchtokens", "last_hidden_state")
# No published transformer has more class and register tokens; a message says how many would leave a grid.
MOST_PREFIX_TOKENS = 17


class PlainModule(Backbone):
    """A module that :func:`wrap` made a backbone.

    Attributes:
        module: the module.
        call: its method that is called.
        output: where in its answer the features are.
        prefix_tokens: how many tokens before those of the patches are dropped.
        channels_last: whether its maps are (B, h, w, C).
        arguments: further keyword arguments of the call.
        trial_size: side of a square picture that the module is known to take; 0 while none is.
    """

    def __init__(
        self,
        module: nn.Module,
        embed_dim: int,
        patch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        call: str,
        output: str | int | None,
        prefix_tokens: int,
        channels_last: bool,
        arguments: Mapping[str, Any],
    ) -> None:
        super().__init__(embed_dim, patch_size, mean, std)
        self.module = module
        self.call = call
        self.output = output
        self.prefix_tokens = prefix_tokens
        self.channels_last = channels_last
        self.arguments = dict(arguments)
        self.trial_size = 0

    def features(self, image: Tensor) -> Tensor:
        """What the module gives of a normalised image: a map (B, C, h, w) or the tokens of the patches (B, N, C).

        Raises:
            MapError: it is neither; says what was got and what to write.
        """
        answer = self._called(image)
        found = self._chosen(answer)
        if not isinstance(found, Tensor) or found.ndim not in (3, 4):
            raise MapError(f"{self.label} gave {described(found)}, which is no map; {self._advice(found)}")
        if found.ndim == 3:
            return found[:, self.prefix_tokens :]
        return found.movedim(-1, 1) if self.channels_last else found

    def _called(self, image: Tensor) -> Any:
        """What the module answers.

        Raises:
            MapError: it is of one size alone, and this is another.
        """
        try:
            return getattr(self.module, self.call)(image, **self.arguments)
        except AssertionError as error:  # by which timm's models of one size refuse others
            side = self.trial_size
            if not side or tuple(image.shape[-2:]) == (side, side):
                raise
            raise MapError(
                f"{self.label} takes no picture of {image.shape[-2]}x{image.shape[-1]} pixels ({one_line(error)}); "
                f"call the model with image_size=({side}, {side}), or make a timm model with dynamic_img_size=True"
            ) from error

    def extract(self, image: Tensor) -> Tensor:
        found = self.features(image)
        grid = self.grid(*image.shape[-2:])
        if found.ndim == 3 and found.shape[1] == grid[0] * grid[1]:
            found = found.transpose(1, 2).unflatten(2, grid)
        if tuple(found.shape[1:]) != (self.embed_dim, *grid):
            raise MapError(
                f"{self.label} gave {tuple(found.shape)} of {image.shape[-2]}x{image.shape[-1]} pixels, expected "
                f"(B, {self.embed_dim}, {grid[0]}, {grid[1]}): its cells are not {self.patch_size} pixels at this size"
            )
        return found

    @property
    def label(self) -> str:
        """What is called, for messages: ``"ResNet"``, ``"VisionTransformer.forward_features"``."""
        suffix = "" if self.call == "forward" else f".{self.call}"
        return f"{type(self.module).__name__}{suffix}"

    def _chosen(self, answer: Any) -> Any:
        if self.output is None:
            return answer[0] if isinstance(answer, (list, tuple)) and len(answer) == 1 else answer
        try:
            return answer[self.output]
        except (KeyError, IndexError, TypeError) as error:
            raise MapError(f"{self.label} gave {described(answer)}, which has no {self.output!r}") from error

    def _advice(self, found: Any) -> str:
        if isinstance(found, Mapping):
            key = next((key for key in FEATURE_KEYS if key in found), next(iter(found), "..."))
            return f"write naf_hub.wrap(module, output={key!r})"
        if isinstance(found, (list, tuple)):
            return "write naf_hub.wrap(module, output=-1) for the last of them"
        others = [name for name in FEATURE_CALLS if name != self.call and hasattr(self.module, name)]
        if others:
            return f"write naf_hub.wrap(module, call={others[0]!r})"
        return "wrap the part of it before pooling and classification"


def wrap(
    module: nn.Module,
    *,
    patch_size: int | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    call: str = "forward",
    output: str | int | None = None,
    prefix_tokens: int = 0,
    channels_last: bool = False,
    trial_size: int = 224,
    **arguments: Any,
) -> Backbone:
    """A backbone of any module: ``naf_hub.load("naf", backbone=naf_hub.wrap(module))``.

    The module runs once, on a grey picture, to learn how many channels it has and how many pixels a cell.

    Args:
        module: maps normalised images (B, 3, H, W) to a map (B, C, h, w) or to tokens (B, N, C), row by row. It is put
            into eval mode and frozen, as loaded backbones are.
        patch_size: image pixels per feature cell; default what the trial shows.
        mean: of RGB values in [0, 1], per channel, subtracted before the module sees them; default ImageNet's. For a
            module that normalises inside, ``mean=(0, 0, 0), std=(1, 1, 1)``.
        std: what is then divided by; default ImageNet's.
        call: the method to call, such as ``"forward_features"``.
        output: where in a mapping, list or tuple that it returns the features are: a key or a place.
        prefix_tokens: class and register tokens before those of the patches.
        channels_last: its maps are (B, h, w, C).
        trial_size: side of the square picture of the trial, in pixels; a size the module takes.
        arguments: further keyword arguments of the call, such as ``interpolate_pos_encoding=True``.

    Raises:
        TypeError: it is no ``nn.Module``, or has no such method.
        MapError: its output is no map, or it fails; says what was got and what to write.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"naf_hub.wrap takes a torch.nn.Module, got {type(module).__name__}")
    if not callable(getattr(module, call, None)):
        raise TypeError(f"{type(module).__name__} has no method {call!r} for naf_hub.wrap to call")
    backbone = PlainModule(
        module, 0, patch_size or 1, mean, std, call=call, output=output, prefix_tokens=prefix_tokens,
        channels_last=channels_last, arguments=arguments,
    )  # fmt: skip
    backbone.eval().requires_grad_(False)
    weight = next(module.parameters(), torch.empty(0))
    with torch.no_grad():
        grey = torch.full((1, 3, trial_size, trial_size), 0.5).to(weight.device)
        try:
            found = backbone.features(backbone.normalize(grey).to(weight.dtype))
        except MapError:
            raise
        except Exception as error:  # whatever a module of anyone's raises
            raise MapError(
                f"{backbone.label} fails on a picture {tuple(grey.shape)}: {one_line(error)}; if it takes another "
                "size, write naf_hub.wrap(module, trial_size=...)"
            ) from error
    backbone.trial_size = trial_size
    backbone.embed_dim, cells = _channels_and_side(found, backbone, trial_size)
    if patch_size is None and trial_size % cells:
        raise MapError(
            f"{backbone.label} gave {cells}x{cells} cells of {trial_size}x{trial_size} pixels, no whole number of "
            "pixels a cell; write naf_hub.wrap(module, patch_size=...), or a trial_size= that its cells divide"
        )
    backbone.patch_size = patch_size or trial_size // cells
    if backbone.grid(trial_size, trial_size) != (cells, cells):
        raise MapError(
            f"{backbone.label} gave {cells}x{cells} cells of {trial_size}x{trial_size} pixels, which are not "
            f"{patch_size} pixels each; leave patch_size= out"
        )
    return backbone


def _channels_and_side(found: Tensor, backbone: PlainModule, size: int) -> tuple[int, int]:
    """Channels, and cells a side, of the answer to a square picture."""
    if found.ndim == 4:
        if found.shape[-1] != found.shape[-2]:
            advice = "channels_last=False" if backbone.channels_last else "channels_last=True"
            raise MapError(
                f"{backbone.label} gave {described(found)} of a square picture, which is no square map (B, C, h, w); "
                f"write naf_hub.wrap(module, {advice})"
            )
        return found.shape[1], found.shape[-1]
    count, dropped = found.shape[1], backbone.prefix_tokens
    side = math.isqrt(count)
    if side * side != count or not side:
        fitting = [n for n in range(1, MOST_PREFIX_TOKENS) if _squares(count - n, size)]
        advice = (
            f"prefix_tokens={dropped + fitting[0]}" if fitting else "output=..., the tokens of patches alone"
        )
        raise MapError(
            f"{backbone.label} gave {count} tokens of a square picture, which is no square grid; "
            f"write naf_hub.wrap(module, {advice})"
        )
    return found.shape[2], side


def _squares(count: int, size: int) -> bool:
    """Whether so many tokens are a square grid of cells that divide a picture of ``size``."""
    side = math.isqrt(max(0, count))
    return side > 0 and side * side == count and size % side == 0


def described(answer: Any) -> str:
    """What a module returned, for a message: shapes of tensors, keys of mappings."""
    if isinstance(answer, Tensor):
        return f"{tuple(answer.shape)}"
    if isinstance(answer, Mapping):
        return f"{type(answer).__name__} of " + ", ".join(f"{k} {described(v)}" for k, v in answer.items())
    if isinstance(answer, (list, tuple)):
        return f"{type(answer).__name__} of " + ", ".join(map(described, answer))
    return type(answer).__name__


def require_map(found: Any, module: nn.Module) -> Tensor:
    """The output of a plain module in place of a backbone, required to be a map (B, C, h, w).

    Raises:
        MapError: it is none; says what was got and what to write.
    """
    if isinstance(found, Tensor) and found.ndim == 4:
        return found
    raise MapError(
        f"{type(module).__name__} gave {described(found)}, but features must be a map (B, C, h, w); "
        "write backbone=naf_hub.wrap(module), which says how to choose tokens or a key"
    )
