"""Where the authors' weights of other upsamplers lie, which are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[2] / "shared" / "data" / "rival-weights"
FOLDER = Path(os.environ.get("NAF_HUB_RELEASED_WEIGHTS") or BESIDE)

needed = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"no folder {FOLDER}; NAF_HUB_RELEASED_WEIGHTS may name another"
)
