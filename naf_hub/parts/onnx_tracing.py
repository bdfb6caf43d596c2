"""Whether a graph is traced for ONNX: onnxruntime has other fast operators than PyTorch and its compilers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_traced: ContextVar[bool] = ContextVar("traced_for_onnx", default=False)


@contextmanager
def tracing_for_onnx() -> Iterator[None]:
    """Within it, :func:`is_for_onnx` is true in this thread."""
    token = _traced.set(True)
    try:
        yield
    finally:
        _traced.reset(token)


def is_for_onnx() -> bool:
    """Whether the graph being traced will run in onnxruntime; ``False`` outside tracing."""
    # Dynamo of PyTorch 2.8 cannot trace a ContextVar; it makes graphs for torch.compile, the exporter does without it.
    return not torch.compiler.is_dynamo_compiling() and _traced.get()
