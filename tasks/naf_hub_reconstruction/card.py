"""The model card of trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import TrainConfig


def model_card(config: TrainConfig, summary: Mapping[str, Any]) -> str:
    """Markdown that says how the weights were made, how good they are and how to load them.

    Args:
        config: of the run.
        summary: what :meth:`Trainer.run` returns, without the folder.
    """
    settings = "\n".join(
        f"{key} = {_toml(value)}" for key, value in config.to_dict().items() if value not in ("", [], {})
    )
    held_out = summary.get("held_out")
    figures = "No held-out images were given.\n"
    if held_out:
        figures = (
            f"On {held_out['images']} held-out images (centre crops), features of an image "
            f"{config.down[0]:g} times the side upsampled to those of the image itself: mean squared error "
            f"{held_out['mse']:.5f}, which is {held_out['ratio_to_bilinear']:.3f} of that of bilinear "
            f"interpolation ({held_out['bilinear_mse']:.5f}); cosine similarity {held_out['cosine']:.4f}.\n"
        )
    skipped = (
        f" ({len(summary['skipped'])} were skipped as unreadable or too small)" if summary["skipped"] else ""
    )
    return f"""---
library_name: naf-hub
tags:
- feature-upsampling
---
# {config.upsampler}

Weights of the naf-hub upsampler `{config.upsampler}`, trained by feature reconstruction on the frozen
backbone `{config.backbone}`.

## Use

```python
import naf_hub

upsampler = naf_hub.load("{config.upsampler}", weights="path/of/this/folder")
features = upsampler(image, low_resolution_features, (448, 448))  # image: RGB in [0, 1]
```

## Training

{summary["steps"]} steps of {config.batch} crops from {summary["images"]} images{skipped},
{summary["seconds"]:.0f} seconds on `{summary["device"]}`. Every setting:

```toml
{settings}
```

## Held-out reconstruction

{figures}"""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return repr(value)
