"""Maps from inside a vision transformer, taken by hooks while it runs, whatever kernel its attention uses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import MapError
from ..wants import KINDS, Want

PROJECTIONS = ("query", "key", "value")


class _Enough(Exception):
    """All that was wanted is recorded: the rest of the network need not run."""


def projected(attention: Any, tokens: Tensor, kind: str) -> Tensor:
    """Queries, keys or values (B, N, heads * head_dim) of tokens (B, N, C), as the projection puts them out.

    That is before any norm of queries and keys, scaling, or rotation by position. ``attention`` has one fused
    layer ``qkv`` (with its bias inside, or beside it as ``q_bias``, ``k_bias``, ``v_bias``) or three, ``q_proj``,
    ``k_proj`` and ``v_proj``.
    """
    part, letter = PROJECTIONS.index(kind), kind[0]
    if getattr(attention, "qkv", None) is None:
        return getattr(attention, f"{letter}_proj")(tokens)
    fused = attention.qkv
    bias = None if fused.bias is None else fused.bias.chunk(3)[part]
    if getattr(attention, "q_bias", None) is not None:
        bias = getattr(attention, f"{letter}_bias")
    return F.linear(tokens, fused.weight.chunk(3)[part], bias)


def layer_index(owner: str, want: Want, layers: int) -> int:
    """The layer of ``want`` counted from the front; :class:`MapError` if there is none or its kind is unknown."""
    if want.kind not in KINDS:
        raise MapError(f"{owner} has no {want.name}: kinds are {', '.join(KINDS)}")
    if not -layers <= want.layer < layers:
        raise MapError(f"{owner} has no {want.name}: it has layers 0 to {layers - 1}")
    return want.layer % layers


def transformer_maps(
    owner: str,
    run: Callable[[], Tensor],
    wants: Sequence[Want],
    *,
    blocks: Sequence[nn.Module],
    attentions: Sequence[nn.Module],
    final_norm: Callable[[Tensor], Tensor],
    prefix: int,
    class_token: bool,
    grid: tuple[int, int],
) -> tuple[Tensor, ...]:
    """The wanted maps of a transformer over tokens (B, prefix + h * w, C), in one pass up to the deepest needed.

    Args:
        owner: name of the backbone, for errors.
        run: runs the network and returns the map of ``Want()``.
        wants: which maps.
        blocks, attentions: of the network, in order; an attention gets its normed tokens as first argument.
        final_norm: applied to tokens of any block where ``norm`` is wanted.
        prefix: class and register tokens before the patches.
        class_token: whether the first of them is a class token.
        grid: (h, w) of the patches.

    Raises:
        MapError: no such layer, kind, or class token; nothing has run then.
    """
    layers = [layer_index(owner, want, len(blocks)) for want in wants]
    for want in wants:
        if want.kind == "class" and not class_token:
            raise MapError(f"{owner} has no {want.name}: it has token, query, key and value, no class token")
    last = len(blocks) - 1

    def is_default(want: Want, layer: int) -> bool:
        return want.kind == "token" and want.norm and layer == last

    asked = list(zip(wants, layers, strict=True))
    missing = {(w.kind in PROJECTIONS, i) for w, i in asked if not is_default(w, i)}
    needs_end = any(is_default(w, i) for w, i in asked)
    found: dict[tuple[bool, int], Tensor] = {}
    thread = threading.get_ident()

    def keep(place: tuple[bool, int], tokens: Tensor) -> None:
        if threading.get_ident() != thread:  # another call runs the same modules
            return
        found[place] = tokens
        if not needs_end and len(found) == len(missing):
            raise _Enough

    def before(place: tuple[bool, int]) -> Callable[[nn.Module, Any], None]:
        return lambda _, arguments: keep(place, arguments[0])

    def after(place: tuple[bool, int]) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, __, output: keep(place, output)

    handles = []
    end = None
    try:
        for place in missing:
            inside, i = place
            if inside:
                handles.append(attentions[i].register_forward_pre_hook(before(place)))
            else:
                handles.append(blocks[i].register_forward_hook(after(place)))
        end = run()
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()

    def finished(want: Want, layer: int) -> Tensor:
        if is_default(want, layer):
            assert end is not None
            return end
        tokens = found[want.kind in PROJECTIONS, layer]
        if want.kind in PROJECTIONS:
            tokens = projected(attentions[layer], tokens, want.kind)
        elif want.norm:
            tokens = final_norm(tokens)
        if want.kind == "class":
            return tokens[:, 0, :, None, None]
        return tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)

    return tuple(finished(want, layer) for want, layer in asked)
