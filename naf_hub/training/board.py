"""TensorBoard, where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import MissingExtraError


class Board:
    """Curves and pictures of a run for TensorBoard.

    Args:
        folder: of the event files.
        step: what was logged after it is dropped, since a continued run logs it again.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("--tensorboard needs pip install 'naf-hub[train]'") from error
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self.writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()
