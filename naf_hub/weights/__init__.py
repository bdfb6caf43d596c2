"""Weight files: found, fetched, checked, read, written, converted. What plugin authors need is named here."""

from .files import load_into, read_state_dict, save_weights

__all__ = ["load_into", "read_state_dict", "save_weights"]
