"""The page served on this machine, from a private folder that is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from .kept_models import KeptModels
from .viewer import Viewer
from .visits import Visits
from .words import find_word_maps

LOOPBACK = "127.0.0.1"
FOLDER_SWITCH = "GRADIO_TEMP_DIR"


def require_gradio() -> None:
    """
    Raises:
        MissingExtraError: gradio is not installed.
    """
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the app needs gradio: pip install 'naf-hub[app]'") from error


def require_host(host: str) -> None:
    """Know that this machine can listen at ``host``, which gradio would try with port after port for minutes.

    Raises:
        OSError: it is no address of this machine, or no such name is known.
    """
    try:
        problem: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host.strip("[]") or LOOPBACK, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                with socket.socket(family, kind, protocol) as probe:
                    probe.bind(address)
                return
            except OSError as error:  # a name may also have an address of a family that is switched off
                problem = error
        if problem:
            raise problem
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no name of a host"
        raise OSError(
            f"cannot listen at host {host} ({reason}); give --host an address of this machine: {LOOPBACK} for itself "
            "alone, 0.0.0.0 for all of its network"
        ) from error


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder of this user's alone, where gradio puts all its files; removed with them."""
    before, folder = os.environ.get(FOLDER_SWITCH), Path(tempfile.mkdtemp(prefix="naf-hub-app-"))
    os.environ[FOLDER_SWITCH] = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            del os.environ[FOLDER_SWITCH]
        else:
            os.environ[FOLDER_SWITCH] = before


@contextlib.contextmanager
def served(
    backbone: str, upsampler: str, size: Any, *, clip: str | None = None, device: Any = "cpu", host: str = LOOPBACK,
    port: int | None = None, megabytes: int = 32,
) -> Iterator[str]:  # fmt: skip
    """The address of the page, which is served as long as the context lasts.

    Args:
        backbone, upsampler: ``NAME[=WEIGHTS]`` that are chosen at first.
        size: of photos at first, see :func:`naf_hub.image_sizes.fit_size`.
        clip: see :func:`naf_hub.app.words.find_word_maps`.
        device: where to compute.
        host: address to listen at; the loopback lets nobody in but this machine.
        port: to listen at; by default the first free one from 7860 on.
        megabytes: of an upload at most.

    Raises:
        MissingExtraError: gradio is not installed.
        OSError: the port is taken, or ``host`` is not of this machine.
    """
    require_host(host)  # before gradio, whose import takes seconds
    with private_folder() as folder:
        require_gradio()
        from .layout import launch, lay_out

        viewer = Viewer(KeptModels(device), Visits(folder), find_word_maps(clip, device))
        page = lay_out(viewer, backbone, upsampler, size)
        try:
            yield launch(page, host, port, megabytes)
        finally:
            page.close(verbose=False)
