"""From the key names of NVIDIA's ``model.safetensors`` to those of :class:`naf_hub_radio.backbone.Radio`."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping

from torch import Tensor

from naf_hub import WeightsError
from naf_hub.interfaces import Shape

ROOT = "radio_model."
TOKENS = "patch_generator.cls_token.token"
FIXED = {
    "normalize.norm_mean": "input_conditioner.norm_mean",
    "normalize.norm_std": "input_conditioner.norm_std",
}
RENAMED = (
    ("embeds.proj.", "patch_generator.embedder."),
    ("embeds.pos_embed", "patch_generator.pos_embed"),
    ("embeds.cls_token", TOKENS),
    ("embeds.reg_token", TOKENS),
    # Hub tooling rewrites "gamma", so NVIDIA renamed the LayerScale factors.
    (".ls1.gamma", ".ls1.grandma"),
    (".ls2.gamma", ".ls2.grandma"),
)
SWIGLU = ((".mlp.fc1.", ".mlp.w12."), (".mlp.fc2.", ".mlp.w3."))
# Leftovers of training, summary tokens, heads that imitate each teacher, and normalisers of the features that the
# published spatial features of these models do without.
UNUSED = re.compile(
    r"summary_idxs|(adaptors|feature_normalizer|inter_feature_normalizer)\..*"
    r"|model\.(inner\.)?(reg_token|mask_token|head\..*)"
)


def is_released(keys: Iterable[str]) -> bool:
    """Whether these are NVIDIA's key names."""
    return any(key.startswith(ROOT) for key in keys)


def source_key(key: str, state: Container[str], *, inner: str, swiglu: bool) -> str:
    """Name in a released ``state`` of what ``Radio`` calls ``key``."""
    if key in FIXED:
        return ROOT + FIXED[key]
    name = key.removeprefix("network.")
    for own, theirs in (*RENAMED, *(SWIGLU if swiglu else ())):
        name = name.replace(own, theirs)
    name = f"{ROOT}model.{inner}{name}"
    plain = name.replace(".grandma", ".gamma")
    return plain if name not in state and plain in state else name


def released_shape(key: str, own: Shape, prefix_tokens: int) -> Shape:
    """Shape in a released file of the tensor that has shape ``own`` under ``key`` here."""
    if key == "network.embeds.pos_embed":
        return (1, own[1] * own[2], own[3])
    if key in ("network.embeds.cls_token", "network.embeds.reg_token"):
        return (prefix_tokens, own[2])
    return own


def rearrange(key: str, own: Shape, value: Tensor) -> Tensor:
    """A released tensor as this code stores it."""
    if key == "network.embeds.proj.weight":
        # A flattened patch is (channel, row, column) there and (row, column, channel) in timm.
        side = round((own[1] / 3) ** 0.5)
        return value.reshape(-1, 3, side, side).permute(0, 2, 3, 1).flatten(1)
    if key == "network.embeds.cls_token":
        return value[None, :1]
    if key == "network.embeds.reg_token":
        return value[None, 1:]
    return value.reshape(own)


def prefix_and_scale(shapes: Mapping[str, Shape]) -> tuple[int | None, bool]:
    """(class and register tokens, whether blocks have LayerScale), in either layout; tokens ``None`` if missing."""
    scale = any(".ls1." in key for key in shapes)
    for key, shape in shapes.items():
        if key.endswith(TOKENS) and len(shape) == 2:
            return shape[0], scale
        if key == "network.embeds.reg_token" and len(shape) == 3:
            return 1 + shape[1], scale
    return None, scale


def sources(
    shapes: Mapping[str, Shape], expected: Mapping[str, Shape], *, prefix_tokens: int, swiglu: bool
) -> dict[str, str]:
    """Which tensor of a file holds each of ``expected``.

    Args:
        shapes: those in the file, under NVIDIA's names or those of ``expected``.
        expected: shapes of the state dict to fill.
        prefix_tokens: class and register tokens of that model.
        swiglu: whether its MLPs are gated.

    Raises:
        WeightsError: names missing, unexpected and misshapen keys, as the file calls them.
    """
    released = is_released(shapes)
    inner = "inner." if any(name.startswith(f"{ROOT}model.inner.") for name in shapes) else ""
    found = {
        key: source_key(key, shapes, inner=inner, swiglu=swiglu) if released else key for key in expected
    }
    used = set(found.values())
    missing = dict.fromkeys(f"missing {source}" for source in found.values() if source not in shapes)
    unexpected = [
        f"unexpected {key}"
        for key in shapes
        if key not in used and not UNUSED.fullmatch(key.removeprefix(ROOT))
    ]
    misshapen: dict[str, None] = {}
    for key, source in found.items():
        wanted = released_shape(key, expected[key], prefix_tokens) if released else expected[key]
        if source in shapes and shapes[source] != wanted:
            misshapen[f"{source} has shape {shapes[source]}, expected {wanted}"] = None
    problems = (list(missing), unexpected, list(misshapen))
    if any(problems):
        named = [problem for kind in problems for problem in kind[:2]]
        more = sum(map(len, problems)) - len(named)
        raise WeightsError(
            f"weights do not fit this RADIO model: {'; '.join(named)}"
            f"{f' and {more} more' if more else ''}; "
            "check the model name, or the options they were made with"
        )
    return found
