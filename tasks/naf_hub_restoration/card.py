"""The model card of trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from naf_hub import __version__
from naf_hub.escapes import code, portable
from naf_hub.reports import Metric, amount
from naf_hub.training.card import hardware_section, training_section

from .denoising_config import TrainConfig

SSIM = Metric("ssim", digits=4)


def model_card(config: TrainConfig, summary: Mapping[str, Any]) -> str:
    """Markdown that says how the weights were made, how good they are and how to load them.

    Args:
        config: of the run.
        summary: what :meth:`naf_hub.training.run.Run.run` returns, without the folder.
    """
    settings = portable(config.to_dict())
    name = settings["restorer"]
    return f"""---
library_name: naf-hub
pipeline_tag: image-to-image
tags:
- image-restoration
- {name}
---
# {name}

Weights of the naf-hub restorer `{name}`, trained to take away noise ({config.added_noise.words}) with naf-hub
{__version__}.

## Use

```python
import naf_hub

restorer = naf_hub.load_restorer("{name}", weights="path/of/this/folder")
restored = restorer(image)  # RGB in [0, 1], noise may leave it
```

## Data

{_data(settings, summary)}

{training_section(settings, summary, "crops")}

{hardware_section(summary)}

## Held-out images

{_figures(settings, summary.get("held_out"))}
"""


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


def _words(values: list[str]) -> str:
    return ", ".join(map(code, values))


def _figures(settings: Mapping[str, Any], held_out: Mapping[str, Any] | None) -> str:
    if not held_out:
        return "No held-out images were given: nothing is known of how good these weights are."
    images = max(figures["images"] for figures in held_out.values())
    rows = [
        f"| {noise} | {f['noisy_psnr']:.2f} | **{f['psnr']:.2f}** | {SSIM.text(f['ssim'])} |"
        for noise, f in held_out.items()
    ]
    return "\n".join(
        [
            f"On {amount(images, 'held-out image')}, centre crops of {settings['crop']} pixels, PSNR in decibels and",
            "SSIM as scikit-image defines them, mean over images:",
            "",
            f"| noise | PSNR of the noisy images | PSNR of {settings['restorer']} | SSIM |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )
