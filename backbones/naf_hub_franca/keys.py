"""From the key names of the released files to those of the modules here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from naf_hub import WeightsError

# Wrappers of the authors' training code, and of this package's own state dicts ("model.").
WRAPPERS = re.compile(r"^(module\.|backbone\.|model\.)+")
TRAINING = ("dino_head.", "ibot_head.", "mask_token")
# Released files group blocks in chunks: blocks.<chunk>.<index>. with an index that counts through all chunks.
CHUNKED = re.compile(r"^blocks\.\d+\.(?=\d+\.)")
FEED_FORWARD = ((".mlp.w12.", ".mlp.fc1."), (".mlp.w3.", ".mlp.fc2."))
RASA = re.compile(r"^(rasa_head\.|module\.)*(?P<key>(pre_pos_layers|pos_pred)\..+)$")
BESIDE = ("rasa_head.", "pre_pos_layers.", "pos_pred.")
PLANE = re.compile(r"pre_pos_layers\.(\d+)\.weight")


def split(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """(transformer, RASA head): key of the modules here -> which of ``names`` holds it.

    Takes the released chunked layout, the same without chunks, timm's names, and this package's own state dicts;
    what only training needs is left out. A RASA head inside the backbone's own wrapper gives way to one beside it.

    Raises:
        WeightsError: two keys mean the same tensor.
    """
    transformer: dict[str, str] = {}
    rasa: dict[str, str] = {}
    embedded: dict[str, str] = {}
    for key in names:
        name = WRAPPERS.sub("", key)
        if name.startswith(TRAINING):
            continue
        head = RASA.match(name)
        if head:
            name, group = head["key"], rasa if key.startswith(BESIDE) else embedded
        else:
            name, group = CHUNKED.sub("blocks.", name), transformer
            for released, ours in FEED_FORWARD:
                name = name.replace(released, ours)
        if name in group:
            raise WeightsError(f"Franca weights: {key} occurs twice once prefixes are dropped")
        group[name] = key
    return transformer, rasa or embedded


def rasa_layers(rasa: Iterable[str]) -> int:
    """How many ``pre_pos_layers`` a RASA head has: the released ones differ."""
    return len({match[1] for key in rasa if (match := PLANE.fullmatch(key))})
