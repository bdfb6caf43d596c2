"""The model card of trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from naf_hub import __version__
from naf_hub.errors import UnknownNameError
from naf_hub.escapes import code, link, plain, portable, quoted
from naf_hub.records import UpsamplerRecord
from naf_hub.registry import registry
from naf_hub.reports import amount
from naf_hub.training.card import hardware_section, training_section

from .config import TrainConfig


def model_card(config: TrainConfig, summary: Mapping[str, Any]) -> str:
    """Markdown that says how the weights were made, how good they are and how to load them.

    Args:
        config: of the run.
        summary: what :meth:`naf_hub.training.run.Run.run` returns, without the folder. Its ``hardware`` is asked
            of this machine where it is missing.
    """
    settings = portable(config.to_dict())
    name = settings["upsampler"]
    return f"""---
library_name: naf-hub
pipeline_tag: image-feature-extraction
tags:
- feature-upsampling
- {quoted(name)}
---
# {plain(name)}

Weights of the naf-hub upsampler {code(name)}{_paper(name)}, trained by feature reconstruction on the frozen
features of {_words(settings["backbone"])} with naf-hub {__version__}.

## Use

```python
import naf_hub

upsampler = naf_hub.load({quoted(name)}, weights="path/of/this/folder")
features = upsampler(image, low_resolution_features, (448, 448))  # image: RGB in [0, 1]
```

## Data

{_data(settings, summary)}

The loss is {code(settings["loss"])}{_levels(settings)}.

{training_section(settings, summary, "crops")}

{hardware_section(summary)}

## Held-out reconstruction

{_figures(settings, summary.get("held_out"))}
"""


def _levels(settings: Mapping[str, Any]) -> str:
    count = settings["levels"]
    return f", added up over inputs of {count} sizes" if count else ""


def _paper(name: str) -> str:
    try:
        paper = registry().find(name, UpsamplerRecord).paper
    except UnknownNameError:
        return ""
    return f" ({shown})" if (shown := link(paper, "paper")) else ""


def _words(value: Any) -> str:
    """One name or a list of them, as code."""
    return ", ".join(map(code, [value] if isinstance(value, str) else value))


def _data(settings: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    skipped = (
        f", {len(summary['skipped'])} of which were skipped as unreadable or too small"
        if summary["skipped"]
        else ""
    )
    text = f"{amount(summary['images'], 'image')} of {_words(settings['images'])}{skipped}. No labels."
    if settings.get("held_out"):
        text += f" Held out, never trained on: {_words(settings['held_out'])}."
    return text


def _figures(settings: Mapping[str, Any], held_out: Mapping[str, Any] | None) -> str:
    if not held_out:
        return "No held-out images were given: nothing is known of how good these weights are."
    images = max(figures["images"] for figures in held_out.values())
    rows = [
        f"| {_cell(portable(backbone))} | {f['bilinear_mse']:.5f} | {f['mse']:.5f} | "
        f"**{f['ratio_to_bilinear']:.3f}** | {f['cosine']:.4f} |"
        for backbone, f in held_out.items()
    ]
    return "\n".join(
        [
            f"On {images} held-out images (centre crops), features of an image {settings['down'][0]:g} times the",
            "side upsampled to those of the image itself. Mean squared error of bilinear interpolation and of",
            "these weights, their ratio (lower is better), and cosine similarity:",
            "",
            f"| backbone | bilinear | {_cell(settings['upsampler'])} | ratio | cosine |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def _cell(text: str) -> str:
    return code(text).replace("|", "\\|")
