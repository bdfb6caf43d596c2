"""Upsamplers as ONNX files, for programs without PyTorch; each is compared with the model before it is written."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from packaging.version import Version
from torch import Tensor, nn

from .atomic import atomic_file
from .errors import MissingExtraError
from .interfaces import Features, Upsampler
from .measuring import make_features
from .onnx_int8 import store_as_int8
from .parts.onnx_tracing import tracing_for_onnx
from .store import each_map, maps_in

# The oldest operator set that the exporter writes and that has all operators used.
OPSET = 18

# Largest difference from the model, as a share of the largest value of its output, and that with weights as int8.
TOLERANCE = 1e-3
INT8_TOLERANCE = 0.05

# The first onnxscript that writes files with each onnx-ir that it allows: onnx-ir 0.1.16 and later leave functions in a
# graph, which onnxscript up to 0.6.0 refuses. 0.6.2 says on stdout how often it applied rewrite rules.
ONNXSCRIPT = "0.7"


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
    int8: bool = False,
) -> dict[str, Any]:
    """Write ``model`` as an ONNX file, once onnxruntime agrees with it at two sizes.

    Batch, image and feature sizes stay free; channels are fixed. Inputs are called ``image`` and ``features`` (by
    ``Want.name`` where a model takes several maps), the output ``upsampled``.

    Args:
        model: in eval mode, on the CPU.
        path: of the file; replaced whole.
        channels: of the features.
        output_size: (H, W) of every output; default the image's size.
        int8: store weights as int8 with a scale per output channel; see :func:`.onnx_int8.store_as_int8`.

    Returns:
        What was written: ``file``, ``opset``, ``inputs``, ``output``, ``weights``, ``compared`` with the ``difference``
        at each size, as a share of the largest output.

    Raises:
        MissingExtraError: onnx, onnxruntime or onnxscript is not installed, or onnxscript is too old.
        ValueError: the model does not promise export, onnxruntime computes something else, or there are no weights to
            store as int8.
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
    with warnings.catch_warnings(), torch.no_grad(), tracing_for_onnx():
        warnings.simplefilter("ignore")  # the exporter's own, which callers can do nothing about
        program = torch.export.export(
            call,
            (image, tuple(maps_in(features))),
            dynamic_shapes=(free, (free,) * len(names)),
            strict=False,
        )
        written = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=["image", *names], output_names=["upsampled"],
        )  # fmt: skip
    assert written is not None
    # The exporter leaves some shapes out; onnxruntime works in place only where it knows that they are equal.
    proto = onnx.shape_inference.infer_shapes(written.model_proto, data_prop=True)
    if int8 and not store_as_int8(proto):
        raise ValueError(f"{name} has no weights large enough to store as int8; nothing was written")
    target = Path(path)
    with atomic_file(target) as temporary:
        onnx.save(proto, temporary)
        compared = _compare(call, temporary, name, channels, INT8_TOLERANCE if int8 else TOLERANCE)
    return {
        "file": str(target),
        "bytes": target.stat().st_size,
        "opset": OPSET,
        "inputs": ["image", *names],
        "output": "upsampled",
        "weights": "int8" if int8 else "float32",
        "channels": channels,
        "output_size": None if output_size is None else list(output_size),
        "compared": compared,
    }


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"exporting needs {', '.join(missing)}: pip install 'naf-hub[export]'")
    if Version(found := version("onnxscript")) < Version(ONNXSCRIPT):
        raise MissingExtraError(
            f"exporting needs onnxscript {ONNXSCRIPT} or newer, and {found} is installed: "
            "pip install --upgrade 'naf-hub[export]'"
        )


def _example(model: Upsampler, channels: int, sizes: Sizes) -> tuple[Tensor, Features]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(sizes.batch, 3, *sizes.image, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = make_features(model, image[:1], (channels, *sizes.grid))
    return image, each_map(lambda found: torch.cat([found * (i + 1) for i in range(sizes.batch)]), features)


def _open(file: Path, threads: int | None = None) -> Any:
    """A session of onnxruntime on the CPU, by default with its own number of threads."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _run(session: Any, image: Tensor, features: Features) -> Tensor:
    given = (image, *maps_in(features))
    inputs = {spec.name: tensor.numpy() for spec, tensor in zip(session.get_inputs(), given, strict=True)}
    return torch.from_numpy(session.run(None, inputs)[0])


def exported_call(
    model: Upsampler, image: Tensor, features: Features, channels: int, output_size: tuple[int, int]
) -> Callable[[], Tensor]:
    """``model(image, features, output_size)`` by onnxruntime, from a file with open sizes and on as many threads as
    torch has; errors as of :func:`export_onnx`."""
    fixed = None if tuple(output_size) == tuple(image.shape[-2:]) else output_size
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_onnx(model, file, channels, fixed)
        session = _open(file, torch.get_num_threads())
    return lambda: _run(session, image, features)


def _compare(call: _Call, file: Path, name: str, channels: int, tolerance: float) -> list[dict[str, Any]]:
    """Differences of onnxruntime from the model at :data:`COMPARED`."""
    session = _open(file)
    compared = []
    for sizes in COMPARED:
        image, features = _example(call.model, channels, sizes)
        found = _run(session, image, features)
        with torch.no_grad():
            expected = call(image, tuple(maps_in(features)))
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
        if not difference <= tolerance:
            raise ValueError(
                f"onnxruntime computes {name} differently (by {difference:.1g} of the largest value at image "
                f"{sizes.image}, features {sizes.grid}); nothing was written"
            )
        compared.append({**sizes._asdict(), "difference": difference})
    return compared
