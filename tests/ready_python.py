"""Python processes that have torch already: forked from one that imported it, which saves its seconds each time.

For tests of what a process of its own does: its exit status, signals, kills, environment and files. Started anew
remain those whose subject is the start: what is imported when, how much memory it takes.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

# Nothing that reads its environment at import, as huggingface_hub does (and timm, which imports that).
PRELOADED = ["torch", "torch._dynamo", "torchvision", "safetensors.torch", "PIL.Image"]


class ReadyPython:
    """What tests use of :class:`subprocess.Popen`, in text mode, with both streams captured."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._streams = tempfile.TemporaryDirectory()
        self._paths = [Path(self._streams.name, name) for name in ("stdout", "stderr")]
        for path in self._paths:
            path.touch()
        self._process = context.Process(
            target=_run, args=(arguments, dict(environment), folder, self._paths), daemon=False
        )
        self._process.start()
        assert self._process.pid is not None
        self.args, self.pid = arguments, self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        output, errors = (path.read_text() for path in self._paths)
        return output, errors

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        if self.poll() is None:
            self._process.kill()


def _run(arguments: list[str], environment: dict[str, str], folder: Path, streams: list[Path]) -> None:
    """As ``python *arguments`` would: ``-c code``, ``-m module`` or a file, each with arguments of its own."""
    import torch

    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    importlib.invalidate_caches()
    how, *rest = arguments
    if how == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif how == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(how).parent))
        runpy.run_path(how, run_name="__main__")


Process = ReadyPython | subprocess.Popen[str]


def start_python(
    *arguments: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Process:
    """``python *arguments`` in ``folder`` (default here) with the whole ``environment`` (default ours), not awaited."""
    environment, folder = environment or os.environ, folder or Path.cwd()
    if sys.platform == "linux":  # elsewhere a fork of a process that holds torch is not safe
        return ReadyPython(list(arguments), environment, folder)
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def run_python(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """:func:`start_python` to its end."""
    process = start_python(*arguments, environment=environment, folder=folder)
    output, errors = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)
