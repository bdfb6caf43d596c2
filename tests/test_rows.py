"""Rows of an output without the whole of it: the same values, bounded memory, buffers and files."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from live_tensors import LiveTensors
from safetensors.torch import load_file

import naf_hub
from naf_hub.streaming import fill, save_rows, save_rows_resumably
from naf_hub_naf.attention import CrossScaleAttention
from naf_hub_naf.model import NAF

SHAPES = [  # image, features, output
    ((40, 37), (10, 9), (40, 37)),
    ((33, 20), (5, 6), (61, 47)),
    ((50, 46), (4, 5), (16, 20)),
    ((1, 9), (2, 3), (7, 8)),
]
OPTIONS = [
    {},
    {"residual": True, "num_blocks": 2},
    {"encoder": "pixel", "pooling": "average_conv"},
    {"num_blocks": 0},
]


def small(**options) -> NAF:
    torch.manual_seed(0)
    return NAF(**{"dim": 32, "num_blocks": 1, "memory": 100_000} | options).eval().requires_grad_(False)


@pytest.mark.parametrize(("options", "shape"), list(zip(OPTIONS, SHAPES, strict=True)), ids=str)
def test_strips_are_the_rows_of_the_whole(options, shape):
    image, grid, size = shape
    model, features = small(**options), torch.randn(2, 6, *grid)
    image = torch.rand(2, 3, *image)
    strips = list(model.stream(image, features, size))
    whole = small(**options, memory=None)(image, features, size)
    assert len(strips) > 1 or size[0] < 20
    torch.testing.assert_close(torch.cat(strips, 2), whole, atol=2e-6, rtol=0)
    middle = (size[0] // 3, size[0] // 3 + 3)
    found = torch.cat(list(model.stream(image, features, size, rows=middle)), 2)
    torch.testing.assert_close(found, whole[:, :, slice(*middle)], atol=2e-6, rtol=0)


@pytest.mark.parametrize("model", [naf_hub.load("bicubic"), small(pooling="max")], ids=["bicubic", "max"])
def test_any_other_method_gives_its_rows_too(model):
    image, features = torch.rand(1, 3, 20, 24), torch.randn(1, 4, 5, 6)
    (strip,) = model.stream(image, features, rows=(3, 9))
    assert torch.equal(strip, model(image, features)[:, :, 3:9])


def test_what_is_wrong_is_told_before_the_first_strip():
    model, image, features = small(), torch.rand(1, 3, 20, 24), torch.randn(1, 4, 5, 6)
    for rows in ((3, 3), (-1, 4), (0, 21)):
        with pytest.raises(ValueError, match="rows must be"):
            model.stream(image, features, rows=rows)
    with pytest.raises(ValueError, match="batch sizes differ"):
        model.stream(image, features.repeat(2, 1, 1, 1))


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(
    ("image_size", "grid", "size", "memory"),
    [
        ((96, 64), (6, 4), (96, 64), 400_000),  # guidance of 1.6 MB in all, by rows
        ((96, 64), (6, 4), (96, 64), 900_000),  # a branch of 0.4 MB held
        ((128, 64), (4, 2), (32, 16), 350_000),  # guidance of 0.1 MB, the map of a branch 0.5 MB
        ((128, 64), (4, 2), (32, 16), 1_000_000),  # that map once
    ],
)
def test_working_memory_keeps_to_its_budget(image_size, grid, size, memory):
    image, features = torch.rand(2, 3, *image_size), torch.randn(2, 8, *grid)

    def working(budget: int | None) -> int:
        with LiveTensors() as watch:
            output = small(memory=budget)(image, features, size)
        return watch.peak - output.nbytes - 2 * image.nbytes  # normalised, and its rows

    assert working(memory) <= memory
    assert working(None) > 1.2 * memory


def test_rows_in_training_mode_share_one_scale_of_places():
    image, features = torch.rand(1, 3, 40, 37), torch.randn(1, 6, 10, 9)
    model = small(memory=1).train()
    torch.manual_seed(1)
    strips = list(model.stream(image, features))
    torch.manual_seed(1)
    torch.testing.assert_close(torch.cat(strips, 2), model(image, features), atol=2e-6, rtol=0)


def largest(height: int, image_height: int) -> int:
    model = small(memory=400_000)
    image, features = torch.rand(1, 3, image_height, 32), torch.randn(1, 8, 8, 8)
    with LargestTensor() as watch:
        for _ in model.stream(image, features, (height, 32)):
            pass
    return watch.bytes


def test_memory_does_not_grow_with_the_height_of_output_or_image():
    low = largest(64, 64)
    assert largest(192, 64) <= 1.5 * low
    assert largest(192, 192) <= 1.5 * low + 192 * 32 * 3 * 4  # the image itself
    assert low < 64 * 32 * 32 * 4  # the guidance at once


def test_an_image_is_normalised_by_rows():
    model, heights = small(memory=400_000), []
    model.normalize.register_forward_hook(lambda module, taken, given: heights.append(given.shape[2]))
    for _ in model.stream(torch.rand(1, 3, 192, 32), torch.randn(1, 8, 8, 8)):
        pass
    assert 0 < max(heights) < 192 / 2


@pytest.mark.parametrize("way", ["fill", "save_rows", "save_rows_resumably"])
def test_nothing_of_a_strip_lies_beside_the_next(monkeypatch, tmp_path, way):
    model, shape = small(memory=1), (1, 5, 40, 36)
    image, features = torch.rand(1, 3, *shape[2:]), torch.randn(1, shape[1], 10, 9)
    queries, outputs, alive = weakref.WeakSet(), weakref.WeakSet(), []
    make, attend = CrossScaleAttention.__init__, CrossScaleAttention.output

    def begin(self, *given, **named):
        alive.append((len(queries), len(outputs)))
        make(self, *given, **named)
        queries.add(self)

    def finish(self, *given):
        outputs.add(result := attend(self, *given))
        return result

    monkeypatch.setattr(CrossScaleAttention, "__init__", begin)
    monkeypatch.setattr(CrossScaleAttention, "output", finish)
    if way == "fill":
        fill(np.empty(shape, "f4"), model.stream(image, features))
    elif way == "save_rows":
        save_rows(tmp_path / "a.npy", model.stream(image, features), shape)
    else:
        save_rows_resumably(tmp_path / "a.npy", lambda rows: model.stream(image, features, rows=rows), shape)
    assert len(alive) > 3
    assert set(alive) == {(0, 0)}


def test_buffers_and_files(tmp_path):
    model, image, features = small(), torch.rand(2, 3, 40, 36), torch.randn(2, 5, 10, 9)
    whole = small(memory=None)(image, features)

    def strips():
        return model.stream(image, features)

    for out in (
        torch.empty(whole.shape),
        np.lib.format.open_memmap(tmp_path / "m", "w+", "f4", tuple(whole.shape)),
    ):
        assert fill(out, strips()) is out
        torch.testing.assert_close(torch.as_tensor(np.asarray(out)), whole, atol=2e-6, rtol=0)
    for bad in ((2, 5, 39, 36), (2, 5, 41, 36), (2, 4, 40, 36)):
        with pytest.raises(ValueError, match="rows"):
            fill(torch.empty(bad), strips())
        with pytest.raises(ValueError, match="rows"):
            save_rows(tmp_path / "bad.npy", strips(), bad)
    assert not list(tmp_path.glob("*bad*"))
    shape = tuple(whole.shape)
    array = np.load(save_rows(tmp_path / "a.npy", strips(), shape, "float32"))
    found = load_file(save_rows(tmp_path / "a.safetensors", strips(), shape))["features"]
    torch.testing.assert_close(torch.from_numpy(array), whole, atol=2e-6, rtol=0)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), whole, atol=4e-3, rtol=0)
    with pytest.raises(ValueError, match=r"\.npy or"):
        save_rows(tmp_path / "a.pt", strips(), shape)
    with pytest.raises(ValueError, match="float16, float32"):
        save_rows(tmp_path / "a.npy", strips(), shape, "int8")


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors"])
@pytest.mark.parametrize("strips", [0, 1, 3])
def test_an_interrupted_file_goes_on(tmp_path, name, strips):
    model, image, features = small(memory=200_000), torch.rand(2, 3, 40, 36), torch.randn(2, 5, 10, 9)
    shape, asked = (2, 5, 40, 36), []

    def stream(rows, most=None):
        asked.append(rows)
        for number, strip in enumerate(model.stream(image, features, rows=rows)):
            if number == most:
                raise KeyboardInterrupt
            yield strip

    with pytest.raises(KeyboardInterrupt):
        save_rows_resumably(tmp_path / name, lambda rows: stream(rows, strips), shape, "float32")
    assert not (tmp_path / name).exists()
    save_rows_resumably(tmp_path / name, stream, shape, "float32")
    assert (asked[-1][0] > 0) == (strips > 0), "what was written is not made again"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    read = np.load(tmp_path / name) if name.endswith("npy") else load_file(tmp_path / name)["features"]
    torch.testing.assert_close(torch.as_tensor(read), small(memory=None)(image, features), atol=2e-6, rtol=0)


def test_rows_of_something_else_are_not_gone_on_with(tmp_path):
    shape, target, part = (1, 2, 6, 4), tmp_path / "a.npy", tmp_path / "a.npy.part"
    first, other = torch.randn(2, *shape)

    def begin():
        def broken(rows):
            yield first[:, :, :2]
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            save_rows_resumably(target, broken, shape)

    begin()
    with pytest.raises(ValueError, match="another image, model or set of features: move or delete it"):
        save_rows_resumably(target, lambda rows: [other[:, :, slice(*rows)]], shape)
    with pytest.raises(ValueError, match="move or delete it"):
        save_rows_resumably(target, lambda rows: [first[:, :, slice(*rows)]], shape, "float32")
    with pytest.raises(ValueError, match="more rows than the 4 that came"):
        save_rows_resumably(target, lambda rows: [first[:, :, rows[0] : 4]], shape)
    assert not target.exists()
    save_rows_resumably(target, lambda rows: [first[:, :, slice(*rows)]], shape)
    assert np.array_equal(np.load(target), first.half().numpy())
    part.write_bytes(b"a film half downloaded")
    with pytest.raises(FileExistsError, match=r"no a\.npy\.part\.json says how far it is"):
        save_rows_resumably(target, lambda rows: [first], shape)
    assert part.read_bytes() == b"a film half downloaded"
    part.rename(note := tmp_path / "a.npy.part.json")
    with pytest.raises(FileExistsError, match=r"a\.npy\.part\.json does not say how far a\.npy\.part is"):
        save_rows_resumably(target, lambda rows: [first], shape)
    assert note.read_bytes() == b"a film half downloaded"
    note.write_text('{"shape": [1, 2, 6, 4], "dtype": "float16", "rows": 6}')  # killed behind the last rename
    save_rows_resumably(target, lambda rows: [other[:, :, slice(*rows)]], shape)
    assert np.array_equal(np.load(target), other.half().numpy())
    assert not note.exists()


def test_two_hundred_pixels_a_cell():
    """Ratio 200, whole and by rows."""
    image, features = torch.rand(1, 3, 16, 16), torch.randn(1, 3, 2, 2)
    whole = small(memory=None)(image, features, 400)
    assert whole.shape == (1, 3, 400, 400)
    found = torch.cat(list(small().stream(image, features, 400)), 2)
    torch.testing.assert_close(found, whole, atol=5e-6, rtol=0)
