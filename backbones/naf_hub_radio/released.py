"""From the key names of NVIDIA's ``model.safetensors`` to those of :class:`naf_hub_radio.backbone.Radio`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from naf_hub import WeightsError

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


def source_key(key: str, state: Mapping[str, Tensor], *, swiglu: bool) -> str:
    """Name in a released ``state`` of what ``Radio`` calls ``key``."""
    if key in FIXED:
        return ROOT + FIXED[key]
    inner = "inner." if any(name.startswith(f"{ROOT}model.inner.") for name in state) else ""
    name = key.removeprefix("network.")
    for own, theirs in (*RENAMED, *(SWIGLU if swiglu else ())):
        name = name.replace(own, theirs)
    name = f"{ROOT}model.{inner}{name}"
    plain = name.replace(".grandma", ".gamma")
    return plain if name not in state and plain in state else name


def released_shape(key: str, own: tuple[int, ...], prefix_tokens: int) -> tuple[int, ...]:
    """Shape in a released file of the tensor that has shape ``own`` under ``key`` here."""
    if key == "network.embeds.pos_embed":
        return (1, own[1] * own[2], own[3])
    if key in ("network.embeds.cls_token", "network.embeds.reg_token"):
        return (prefix_tokens, own[2])
    return own


def rearrange(key: str, value: Tensor, own: tuple[int, ...]) -> Tensor:
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


def prefix_and_scale(state: Mapping[str, Tensor]) -> tuple[int | None, bool]:
    """(class and register tokens, whether blocks have LayerScale), in either layout; tokens ``None`` if missing."""
    scale = any(".ls1." in key for key in state)
    for key, value in state.items():
        if key.endswith(TOKENS) and value.ndim == 2:
            return len(value), scale
        if key == "network.embeds.reg_token" and value.ndim == 3:
            return 1 + value.shape[1], scale
    return None, scale


def convert(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, prefix_tokens: int, swiglu: bool
) -> dict[str, Tensor]:
    """``state`` under the names, and in the shapes, of ``expected``.

    Args:
        state: NVIDIA's names, or those of ``expected``.
        expected: state dict of the model to fill.
        prefix_tokens: class and register tokens of that model.
        swiglu: whether its MLPs are gated.

    Raises:
        WeightsError: names missing, unexpected and misshapen keys, as ``state`` calls them.
    """
    released = is_released(state)
    sources = {key: source_key(key, state, swiglu=swiglu) if released else key for key in expected}
    used = set(sources.values())
    missing = dict.fromkeys(f"missing {source}" for source in sources.values() if source not in state)
    unexpected = [
        f"unexpected {key}"
        for key in state
        if key not in used and not UNUSED.fullmatch(key.removeprefix(ROOT))
    ]
    misshapen: dict[str, None] = {}
    for key, source in sources.items():
        own = tuple(expected[key].shape)
        wanted = released_shape(key, own, prefix_tokens) if released else own
        if source in state and tuple(state[source].shape) != wanted:
            misshapen[f"{source} has shape {tuple(state[source].shape)}, expected {wanted}"] = None
    problems = (list(missing), unexpected, list(misshapen))
    if any(problems):
        named = [problem for kind in problems for problem in kind[:2]]
        more = sum(map(len, problems)) - len(named)
        raise WeightsError(
            f"weights do not fit this RADIO model: {'; '.join(named)}"
            f"{f' and {more} more' if more else ''}; "
            "check the model name, or the options they were made with"
        )
    if not released:
        return {key: state[key] for key in expected}
    return {key: rearrange(key, state[sources[key]], tuple(value.shape)) for key, value in expected.items()}
