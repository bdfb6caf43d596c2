"""Weight files: found, fetched, checked, read, written, converted. What plugin authors need is named here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .files import load_into, read_state_dict, save_weights

__all__ = ["load_into", "read_state_dict", "save_weights"]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): what only reads JSON needs nothing that fetches files.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import files

    return getattr(files, name)
