"""How many bytes a computation holds at a time."""

from __future__ import annotations

import weakref

import torch


class LiveTensors(torch.utils._python_dispatch.TorchDispatchMode):
    """Most bytes that all tensors together hold which operations made and Python has at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.holders, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                self.now += 0 if self.holders.get(key) else size
                self.peak = max(self.peak, self.now)
                self.holders[key] = self.holders.get(key, 0) + 1
                weakref.finalize(tensor, self.drop, key, size)
        return result

    def drop(self, key, size):
        self.holders[key] -= 1
        self.now -= 0 if self.holders[key] else size
