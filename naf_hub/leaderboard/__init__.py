"""One table of many reports: tasks, upsamplers and backbones from a TOML file; what is missing is run, all is kept."""

from __future__ import annotations

from .board_plan import Measure, Plan, read_plan
from .cells import Cell, Kept
from .filling import run_missing
from .ranking import Board, assemble

__all__ = ["Board", "Cell", "Kept", "Measure", "Plan", "assemble", "read_plan", "run_missing"]
