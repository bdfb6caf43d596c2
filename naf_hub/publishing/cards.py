"""Model cards for the Hub: what training wrote, completed with address, licence, tags and checksums."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import UnknownNameError
from ..escapes import code, link, one_line, plain, portable, quoted
from ..kinds import kind_of
from ..records import BackboneRecord, Record
from ..registry import registry
from ..version import __version__

LICENSE = "apache-2.0"
# What a reader needs in order to trust weights, and words without which a card does not say it.
EXPECTED = {
    "the data": r"\b(images|pictures|datasets?|data)\b",
    "the recipe": r"\blr\b|learning rate",
    "the hardware": r"\b(CPU|GPU|cuda)",
    "the steps": r"\d steps\b|\bsteps\W+\d",
    "the wall time": r"\d (s|seconds|min|minutes|h|hours)\b|\bseconds\W+\d",
    "held-out figures": r"\bheld[-_ ]out\b",
}


def complete_card(
    text: str,
    config: Mapping[str, Any],
    record: Record,
    address: str,
    *,
    license: str | None = None,
    datasets: Iterable[str] = (),
) -> str:
    """The card as it is published; what its author wrote stays.

    Args:
        text: the card in the folder; empty where there is none (then ``config`` tells what it can).
        config: content of ``config.json``.
        record: of what the weights belong to.
        address: ``hf://owner/name[@branch]`` that the usage line loads.
        license: identifier of the Hub; ``None`` keeps the card's own, else :data:`LICENSE`.
        datasets: Hub ids of the training data.

    Returns:
        Markdown with YAML front matter.

    Raises:
        ValueError: the front matter cannot be read.
    """
    from huggingface_hub import ModelCard

    name, kind = record.name, kind_of(record)
    if not text.lstrip().startswith("---"):
        text = f"---\nlibrary_name: naf-hub\n---\n{text.strip() or _bare(config, record)}\n"
    try:
        card = ModelCard(text)
    except Exception as error:  # whatever the YAML parser or the fields' own checks raise
        line = " ".join(str(error).split())
        raise ValueError(f"the YAML at the top of README.md cannot be read: {line}") from error
    data: Any = card.data
    data.library_name = data.library_name or "naf-hub"
    data.license = license or data.license or LICENSE
    data.pipeline_tag = data.pipeline_tag or kind.hub_task
    data.tags = list(dict.fromkeys([*(data.tags or []), *([kind.hub_tag] if kind.hub_tag else []), name]))
    if not data.base_model and (bases := base_models(config)):
        data.base_model = bases[0] if len(bases) == 1 else bases
        data["base_model_relation"] = "adapter"  # else the Hub takes it for a fine-tuned copy
    named = [data.datasets] if isinstance(data.datasets, str) else list(data.datasets or [])
    data.datasets = list(dict.fromkeys([*named, *datasets])) or None
    body = _with_section(_with_usage(card.text, record, address), "Files", _files(config, record))
    return f"---\n{data.to_yaml()}\n---\n{body.strip()}\n"


def missing_facts(card: str) -> list[str]:
    """What of :data:`EXPECTED` a card does not mention."""
    return [what for what, words in EXPECTED.items() if not re.search(words, card, re.IGNORECASE)]


def base_models(config: Mapping[str, Any]) -> list[str]:
    """Hub ids of the backbones the weights were trained on, as far as ``config.json`` and the registry tell.

    Whatever trained them names these in its provenance, at any depth, as ``"backbones": ["NAME=WEIGHTS", ...]``.
    """
    found: dict[str, None] = {}
    for text in _backbones(config.get("provenance")):
        name, _, weights = text.partition("=")
        weights = weights or "default"
        try:
            sets = registry().find(name, BackboneRecord).weights
        except (UnknownNameError, ValueError, ImportError):
            continue  # a backbone of a plugin that is not installed here
        source = sets[weights].source if weights in sets else weights
        if match := re.match(r"hf://([\w.-]+/[\w.-]+)", source):
            found[match[1]] = None
    return list(found)


def local_paths(data: Any) -> list[str]:
    """Paths of this machine among the strings of plain data: they tell a stranger about the machine of the author."""
    if isinstance(data, str):
        return [data] if portable(data) != data else []
    values = data.values() if isinstance(data, Mapping) else data if isinstance(data, list) else ()
    return list(dict.fromkeys(path for value in values for path in local_paths(value)))


def _backbones(data: Any) -> Iterator[str]:
    if isinstance(data, Mapping):
        named = data.get("backbones")
        yield from (str(text) for text in (named if isinstance(named, list) else ()))
        for value in data.values():
            yield from _backbones(value)


def _with_usage(text: str, record: Record, address: str) -> str:
    """Every load call that named a folder or another repository names ``address``; one is added if none does."""

    def point(match: re.Match[str]) -> str:
        return match[0] if match["value"] in record.weights else f'{match["call"]}"{address}"'

    kind = kind_of(record)
    start = rf"""naf_hub\.{kind.loader}\(\s*["']{re.escape(record.name)}["'][^()]*?\bweights="""
    call = rf"""(?P<call>{start})["'](?P<value>[^"']*)["']"""
    text = re.sub(call, point, text)
    if f'"{address}"' in text:
        return text
    plugin = "" if record.provider == "naf-hub" else f"  # needs: pip install {one_line(record.provider)}"
    load = f"naf_hub.{kind.loader}({quoted(record.name)}, weights={quoted(address)})"
    usage = (kind.usage or "{load}").format(load=load)
    return _with_section(text, "Use from the Hub", f"```python\nimport naf_hub{plugin}\n\n{usage}\n```")


def _with_section(text: str, title: str, body: str) -> str:
    """Replace the section of that title, or append it."""
    section = f"## {title}\n\n{body.strip()}\n"
    old = re.compile(rf"^## {re.escape(title)}\n.*?(?=^##? |\Z)", re.MULTILINE | re.DOTALL)
    if old.search(text):
        return old.sub(lambda _: section + "\n", text, count=1)
    return f"{text.rstrip()}\n\n{section}"


def _files(config: Mapping[str, Any], record: Record) -> str:
    paper = f" Paper: {shown}." if (shown := link(record.paper)) else ""
    return (
        f"{kind_of(record).word.capitalize()} {code(record.name)}: {plain(record.summary.rstrip('.'))}.{paper}\n\n"
        f"`model.safetensors`: {config['size']:,} bytes, sha256 `{config['sha256']}`. `config.json` holds the "
        f"constructor options and everything recorded of the training. Written by naf-hub "
        f"{plain(config['naf_hub_version'])}, published by naf-hub {__version__}."
    )


def _bare(config: Mapping[str, Any], record: Record) -> str:
    text = f"# {plain(record.name)}\n\nWeights of the naf-hub {kind_of(record).word} {code(record.name)}.\n"
    if config.get("provenance"):
        text += f"\n## Provenance\n\n```json\n{json.dumps(config['provenance'], indent=2)}\n```\n"
    return text
