"""Weights of ONNX files as int8 with a scale for each output channel; all arithmetic stays float32."""

from __future__ import annotations

from typing import Any

import numpy as np

# Which inputs of operators are weights, what only shapes them before, and the smallest that is worth a scale and two
# nodes.
WEIGHED = {"Conv": (1,), "Gemm": (1,), "MatMul": (0, 1)}
SHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
SMALLEST = 1024


def store_as_int8(model: Any) -> int:
    """Replace the weights of convolutions and products in an ``onnx.ModelProto`` by int8 numbers and their scales.

    A cast and a product make the float32 weights of them, which onnxruntime computes once, as it loads the file.
    (``DequantizeLinear`` it keeps for every call, and takes no fast convolutions behind it.)

    Returns:
        How many weights were replaced.
    """
    from onnx import TensorProto, helper, numpy_helper  # pyright: ignore[reportMissingImports]

    graph = model.graph
    used = _weights(graph)
    kept, nodes = [], []
    for tensor in graph.initializer:
        name, size = tensor.name, int(np.prod(tensor.dims))
        if name not in used or tensor.data_type != TensorProto.FLOAT or size < SMALLEST:
            kept.append(tensor)
            continue
        whole, scale = _rounded(numpy_helper.to_array(tensor))
        stored = {f"{name}.int8": whole, f"{name}.scale": scale}
        kept += [numpy_helper.from_array(part, key) for key, part in stored.items()]
        nodes.append(helper.make_node("Cast", [f"{name}.int8"], [f"{name}.whole"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}.whole", f"{name}.scale"], [name]))
    rest = list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend([*nodes, *rest])
    return len(nodes) // 2


def _weights(graph: Any) -> set[str]:
    """Names of what convolutions and products take as it is or in another shape."""
    shaped = {node.output[0]: node.input[0] for node in graph.node if node.op_type in SHAPING}
    used = set()
    for node in graph.node:
        for place in WEIGHED.get(node.op_type, ()):
            name = node.input[place]
            while name in shaped:
                name = shaped[name]
            used.add(name)
    return used


def _rounded(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 numbers of a weight's shape, and the scale of each entry of its first axis."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    return np.round(weight / scale).astype(np.int8), scale
