"""The model card of trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from naf_hub import __version__
from naf_hub.errors import UnknownNameError
from naf_hub.records import UpsamplerRecord
from naf_hub.registry import registry
from naf_hub.training.hardware import describe_hardware

from .config import TrainConfig


def model_card(config: TrainConfig, summary: Mapping[str, Any]) -> str:
    """Markdown that says how the weights were made, how good they are and how to load them.

    Args:
        config: of the run.
        summary: what :meth:`Trainer.run` returns, without the folder. Its ``hardware`` is that of
            :func:`describe_hardware`; asked of this machine where it is missing.
    """
    settings = config.to_dict()
    name = settings["upsampler"]
    return f"""---
library_name: naf-hub
pipeline_tag: image-feature-extraction
tags:
- feature-upsampling
- {name}
---
# {name}

Weights of the naf-hub upsampler `{name}`{_paper(name)}, trained by feature reconstruction on the frozen
features of {_words(settings["backbone"])} with naf-hub {__version__}.

## Use

```python
import naf_hub

upsampler = naf_hub.load("{name}", weights="path/of/this/folder")
features = upsampler(image, low_resolution_features, (448, 448))  # image: RGB in [0, 1]
```

## Data

{_data(settings, summary)}

## Training

{summary["steps"]} steps of {_crops(settings, summary)} crops in {_duration(summary["seconds"])}. Every setting:

```toml
{_toml_table(settings)}
```

## Hardware

{_hardware(summary)}

## Held-out reconstruction

{_figures(settings, summary.get("held_out"))}
"""


def _paper(name: str) -> str:
    try:
        paper = registry().find(name, UpsamplerRecord).paper
    except UnknownNameError:
        return ""
    return f" ([paper]({paper}))" if paper else ""


def _words(value: Any) -> str:
    """One name or a list of them, as code."""
    return ", ".join(f"`{v}`" for v in ([value] if isinstance(value, str) else value))


def _data(settings: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    skipped = (
        f", {len(summary['skipped'])} of which were skipped as unreadable or too small"
        if summary["skipped"]
        else ""
    )
    text = f"{summary['images']} images of {_words(settings['images'])}{skipped}. No labels."
    if settings.get("held_out"):
        text += f" Held out, never trained on: {_words(settings['held_out'])}."
    return text


def _crops(settings: Mapping[str, Any], summary: Mapping[str, Any]) -> int:
    return settings["batch"] * settings["accumulate"] * summary["processes"]


def _duration(seconds: float) -> str:
    text = f"{seconds:,.0f} seconds"
    if seconds >= 7200:
        return f"{text} ({seconds / 3600:.1f} hours)"
    return f"{text} ({seconds / 60:.0f} minutes)" if seconds >= 120 else text


def _hardware(summary: Mapping[str, Any]) -> str:
    facts = summary.get("hardware") or describe_hardware(summary["device"])
    several = f"{facts['processes']} processes, each on " if facts.get("processes", 1) > 1 else ""
    lines = [f"Trained on `{summary['device']}`."]
    if "gpu" in facts:
        lines.append(
            f"* GPU: {several}one {facts['gpu']}, {facts['gpu_memory_gib']} GiB, CUDA {facts['cuda']}"
        )
        several = ""
    lines += [
        f"* CPU: {several}{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, "
        f"{facts['memory_gib']} GiB of memory",
        f"* Software: torch {facts['torch']}, Python {facts['python']}, {facts['system']}",
    ]
    if "peak_memory_bytes" in summary:
        lines.append(f"* Peak memory: {summary['peak_memory_bytes'] / 2**30:.1f} GiB")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _figures(settings: Mapping[str, Any], held_out: Mapping[str, Any] | None) -> str:
    if not held_out:
        return "No held-out images were given: nothing is known of how good these weights are."
    images = max(figures["images"] for figures in held_out.values())
    rows = [
        f"| `{backbone}` | {f['bilinear_mse']:.5f} | {f['mse']:.5f} | **{f['ratio_to_bilinear']:.3f}** | "
        f"{f['cosine']:.4f} |"
        for backbone, f in held_out.items()
    ]
    return "\n".join(
        [
            f"On {images} held-out images (centre crops), features of an image {settings['down'][0]:g} times the",
            "side upsampled to those of the image itself. Mean squared error of bilinear interpolation and of",
            "these weights, their ratio (lower is better), and cosine similarity:",
            "",
            f"| backbone | bilinear | {settings['upsampler']} | ratio | cosine |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def _toml_table(settings: Mapping[str, Any]) -> str:
    # TOML has no null: a setting that is not set is left out.
    return "\n".join(f"{key} = {_toml(value)}" for key, value in settings.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _toml(key)
