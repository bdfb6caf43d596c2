"""Upsamplers as ONNX files, for programs without PyTorch; each is compared with the model before it is written."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .atomic import atomic_file
from .errors import MissingExtraError
from .interfaces import Features, Upsampler
from .measuring import make_features
from .store import each_map, maps_in

# The oldest operator set that the exporter writes and that has all operators used.
OPSET = 18

# Largest difference from the model, as a share of the largest value of its output.
TOLERANCE = 1e-3


class Sizes(NamedTuple):
    """Batch, image (H, W) and feature grid (h, w) that a file is traced or compared at."""

    batch: int
    image: tuple[int, int]
    grid: tuple[int, int]


# No two sizes alike, so that none is taken for another.
TRACED = Sizes(2, (48, 70), (6, 10))
COMPARED = (Sizes(1, (32, 48), (4, 6)), Sizes(3, (90, 75), (12, 11)))


class _Call(nn.Module):
    """An upsampler as a function of tensors alone, without a mapping among its arguments."""

    def __init__(self, model: Upsampler, names: list[str], size: tuple[int, int] | None) -> None:
        super().__init__()
        self.model, self.names, self.size = model, names, size

    def forward(self, image: Tensor, features: tuple[Tensor, ...]) -> Tensor:
        given = features[0] if len(self.names) == 1 else dict(zip(self.names, features, strict=True))
        return self.model(image, given, self.size)


def export_onnx(
    model: Upsampler,
    path: str | os.PathLike[str],
    channels: int,
    output_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Write ``model`` as an ONNX file, once onnxruntime agrees with it at two sizes.

    Batch, image and feature sizes stay free; channels are fixed. Inputs are called ``image`` and ``features`` (by
    ``Want.name`` where a model takes several maps), the output ``upsampled``.

    Args:
        model: in eval mode, on the CPU.
        path: of the file; replaced whole.
        channels: of the features.
        output_size: (H, W) of every output; default the image's size.

    Returns:
        What was written: ``file``, ``opset``, ``inputs``, ``output``, ``compared`` with the ``difference`` at each
        size, as a share of the largest output.

    Raises:
        MissingExtraError: onnx, onnxruntime or onnxscript is not installed.
        ValueError: the model does not promise export, or onnxruntime computes something else.
    """
    name = type(model).__name__ if model.origin is None else model.origin.record.name
    if not (model.promises.export and model.promises.open_sizes):
        why = model.promises.closed_sizes or "Promises.export and Promises.open_sizes are not both made"
        raise ValueError(
            f"{name} promises no graph that serves every size, so no file can be made of it: {why}"
        )
    _require_onnx()
    import onnx  # pyright: ignore[reportMissingImports]
    import onnx.shape_inference  # pyright: ignore[reportMissingImports]

    image, features = _example(model, channels, TRACED)
    names = [want.name for want in model.wants] if isinstance(features, dict) else ["features"]
    call = _Call(model, names, output_size).eval()
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own, which callers can do nothing about
        program = torch.export.export(
            call, (image, tuple(maps_in(features))), dynamic_shapes=(free, (free,) * len(names))
        )
        written = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=["image", *names], output_names=["upsampled"],
        )  # fmt: skip
    assert written is not None
    # The exporter leaves some shapes out; onnxruntime works in place only where it knows that they are equal.
    proto = onnx.shape_inference.infer_shapes(written.model_proto, data_prop=True)
    target = Path(path)
    with atomic_file(target) as temporary:
        onnx.save(proto, temporary)
        compared = _compare(call, temporary, name, channels)
    return {
        "file": str(target),
        "bytes": target.stat().st_size,
        "opset": OPSET,
        "inputs": ["image", *names],
        "output": "upsampled",
        "channels": channels,
        "output_size": None if output_size is None else list(output_size),
        "compared": compared,
    }


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"exporting needs {', '.join(missing)}: pip install 'naf-hub[export]'")


def _example(model: Upsampler, channels: int, sizes: Sizes) -> tuple[Tensor, Features]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(sizes.batch, 3, *sizes.image, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = make_features(model, image[:1], (channels, *sizes.grid))
    return image, each_map(lambda found: torch.cat([found * (i + 1) for i in range(sizes.batch)]), features)


def _compare(call: _Call, file: Path, name: str, channels: int) -> list[dict[str, Any]]:
    """Differences of onnxruntime from the model at :data:`COMPARED`."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    compared = []
    for sizes in COMPARED:
        image, features = _example(call.model, channels, sizes)
        given = (image, *maps_in(features))
        inputs = {spec.name: tensor.numpy() for spec, tensor in zip(session.get_inputs(), given, strict=True)}
        found = torch.from_numpy(session.run(None, inputs)[0])
        with torch.no_grad():
            expected = call(image, given[1:])
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"onnxruntime computes {name} differently (by {difference:.1g} of the largest value at image "
                f"{sizes.image}, features {sizes.grid}); nothing was written"
            )
        compared.append({**sizes._asdict(), "difference": difference})
    return compared
