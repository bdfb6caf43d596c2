"""What the card of trained weights says of their run, whatever was learned: settings, time, hardware."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..escapes import code, plain, portable, toml_table
from ..reports import amount
from .hardware import describe_hardware


def training_section(settings: Mapping[str, Any], summary: Mapping[str, Any], examples: str) -> str:
    """Markdown: steps, their size, time, every setting as TOML, of paths the last name alone.

    Args:
        settings: as plain data, see :meth:`naf_hub.training.settings.RunSettings.to_dict`.
        summary: what :meth:`naf_hub.training.run.Run.run` returns.
        examples: word for what is counted by ``batch``, in the plural.
    """
    size = settings["batch"] * settings["accumulate"] * summary["processes"]
    return f"""## Training

{summary["steps"]} steps of {size} {examples} in {duration(summary["seconds"])}. Every setting:

```toml
{toml_table(portable(settings))}
```"""


def hardware_section(summary: Mapping[str, Any]) -> str:
    """Markdown: what computed, on what versions, in how much memory; asked of this machine where missing."""
    facts = summary.get("hardware") or describe_hardware(summary["device"])
    several = f"{facts['processes']} processes, each on " if facts.get("processes", 1) > 1 else ""
    threads = amount(facts["threads"], "thread")
    facts = {key: plain(str(value)) for key, value in facts.items()}
    lines = []
    if "gpu" in facts:
        lines.append(
            f"* GPU: {several}one {facts['gpu']}, {facts['gpu_memory_gib']} GiB, CUDA {facts['cuda']}"
        )
        several = ""
    lines += [
        f"* CPU: {several}{facts['cpu']}, {facts['cores']} cores, {threads}, "
        f"{facts['memory_gib']} GiB of memory",
        f"* Software: torch {facts['torch']}, Python {facts['python']}, {facts['system']}",
    ]
    if "peak_memory_bytes" in summary:
        lines.append(f"* Peak memory: {summary['peak_memory_bytes'] / 2**30:.1f} GiB")
    return f"## Hardware\n\nTrained on {code(str(summary['device']))}.\n\n" + "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds, and minutes or hours beside them where they say more."""
    text = f"{seconds:,.0f} seconds"
    if seconds >= 7200:
        return f"{text} ({seconds / 3600:.1f} hours)"
    return f"{text} ({seconds / 60:.0f} minutes)" if seconds >= 120 else text
