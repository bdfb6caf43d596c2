"""Weights, configs and indexes from anywhere: refused in one line, or loaded as they are; never slow or large."""

from __future__ import annotations

import contextlib
import inspect
import json
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import naf_hub
from naf_hub import Weights
from naf_hub.registry import registry
from naf_hub.weights import hub
from naf_hub.weights.checksums import LocalFile
from naf_hub.weights.files import save_weights
from naf_hub.weights.hub import CONFIG, FILE, INDEX, parse_hub
from naf_hub.weights.json_objects import DEEPEST, LARGEST

# Models of every kind with the same inside, which note on which devices they were built.
PLUGIN = """
import torch
from torch import nn
from naf_hub import (Backbone, BackboneRecord, ForeignWeights, Restorer, RestorerRecord, Upsampler, UpsamplerRecord,
                     hookimpl)

built_on = []


def inside(model, width, blocks, scale):
    built_on.append(torch.empty(0).device.type)
    model.blocks = nn.Sequential(*(nn.Linear(width, width) for _ in range(blocks)))
    model.register_buffer("ramp", torch.arange(width) * float(scale), persistent=False)


class Tiny(Upsampler):
    def __init__(self, width: int = 3, blocks: int = 2, scale: float = 1.0, memory: "int | str | None" = None):
        super().__init__()
        inside(self, width, blocks, scale)

    def upsample(self, image, features, output_size):
        moved = self.blocks(features.movedim(1, -1)) + self.ramp
        return nn.functional.interpolate(moved.movedim(-1, 1), output_size)


class TinyRestorer(Restorer):
    def __init__(self, width: int = 3, blocks: int = 2, scale: float = 1.0):
        super().__init__()
        inside(self, width, blocks, scale)

    def restore(self, image):
        return image


class TinyBackbone(Backbone):
    def __init__(self, width: int = 3, blocks: int = 2, scale: float = 1.0):
        super().__init__(embed_dim=3, patch_size=4)
        inside(self, width, blocks, scale)

    def extract(self, image):
        return image[:, :, ::4, ::4]


class TinyForeign(TinyBackbone, ForeignWeights):
    def plan_weights(self, shapes):
        return {key: (key, None) for key in self.state_dict()} if shapes["blocks.0.weight"][1] else None


@hookimpl
def register_upsamplers(register):
    register(UpsamplerRecord(name="tiny", summary="Tiny.", target="tiny_naf:Tiny"))

@hookimpl
def register_restorers(register):
    register(RestorerRecord(name="tiny_restorer", summary="Tiny.", target="tiny_naf:TinyRestorer"))

@hookimpl
def register_backbones(register):
    for name, target in (("tiny_backbone", "TinyBackbone"), ("tiny_foreign", "TinyForeign")):
        register(BackboneRecord(name=name, summary="Tiny.", target=f"tiny_naf:{target}", embed_dim=3, patch_size=4))
"""
OPTIONS = {"width": 3, "blocks": 2, "scale": 0.5}
KINDS = {
    "tiny": naf_hub.load,
    "tiny_restorer": naf_hub.load_restorer,
    "tiny_backbone": naf_hub.load_backbone,
    "tiny_foreign": naf_hub.load_backbone,
}
IMAGE, FEATURES = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 2, 2)


@pytest.fixture
def tiny(install_plugin, tmp_path: Path) -> Path:
    """The folder of weights of ``tiny``, with the plugin installed."""
    install_plugin("tiny-naf", PLUGIN)
    torch.manual_seed(0)
    return save_weights(
        tmp_path / "w", naf_hub.load("tiny", weights=None, **OPTIONS), name="tiny", options=OPTIONS,
        provenance={"a": [1, {"b": "c"}]},
    )  # fmt: skip


@pytest.fixture
def indexed(tiny: Path, tmp_path: Path) -> Path:
    """The same weights in two shards and an index, as others publish them: without a config."""
    folder = tmp_path / "shards"
    folder.mkdir()
    state = naf_hub.load("tiny", weights=tiny).state_dict()
    names = {key: f"model-0000{1 + ('1' in key)}-of-00002.safetensors" for key in state}
    for name in set(names.values()):
        save_file({key: value for key, value in state.items() if names[key] == name}, folder / name)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": names}))
    return folder


def edited(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def refused(weights: Path, message: str, name: str = "tiny") -> None:
    with pytest.raises(naf_hub.WeightsError, match=message) as told:
        KINDS[name](name, weights=weights)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 1000


# --- what switched the checks off ------------------------------------------------------------------------


def test_an_index_laid_beside_the_weights_switches_no_check_off(tiny: Path, indexed: Path):
    for file in indexed.iterdir():
        shutil.copy(file, tiny)
    assert naf_hub.load("tiny", weights=tiny).state_dict().keys()  # the whole file, as its config says
    content = (tiny / FILE).read_bytes()
    (tiny / FILE).write_bytes(content[:-1] + b"\x01")
    refused(tiny, "has sha256")
    refused(tiny / INDEX, f"is that of {FILE}")
    (tiny / FILE).unlink()
    refused(tiny, f"is that of {FILE}")


@pytest.mark.parametrize(
    "changes",
    [{"sha256": value} for value in (None, "", "0" * 63, "G" * 64, 5, ["0" * 64])]
    + [{"size": value} for value in (None, True, "96", 1.0)]
    + [{"name": None}, {"options": []}, {"format": None}, {"format": True}, {"provenance": 3}],
)
def test_what_the_format_promises_is_there(tiny: Path, changes: dict[str, Any]):
    edited(tiny, **changes)
    refused(tiny, f"{CONFIG}: {next(iter(changes))} = .* is nothing that naf-hub writes")


@pytest.mark.parametrize("key", ["sha256", "size", "name", "options", "format", "naf_hub_version"])
def test_no_key_of_a_config_can_be_left_out(tiny: Path, key: str):
    config = json.loads((tiny / CONFIG).read_text())
    del config[key]
    (tiny / CONFIG).write_text(json.dumps(config))
    refused(tiny, f"{CONFIG}: {key} = None")


def test_a_config_that_does_not_arrive_is_not_taken_for_none(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for error, taken in ((hub.Absent("there is none"), True), (naf_hub.WeightsError("HTTP 500"), False)):

        def one(repo: str, file: str, *_: Any, error: Exception = error) -> LocalFile:
            if file == CONFIG:
                raise error
            return LocalFile(tiny / file, name=file)

        monkeypatch.setattr(hub, "hub_file", one)
        with contextlib.nullcontext() if taken else pytest.raises(naf_hub.WeightsError, match="HTTP 500"):
            assert hub.fetch(Weights("hf://a/b"), "tiny").beside == []


def test_the_config_of_another_project_promises_nothing(tiny: Path):
    (tiny / CONFIG).write_text(json.dumps({"architecture": "resnet", "num_classes": 0}))
    assert naf_hub.load("tiny", weights=tiny)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "no object, but list"),
        ("[" * 100_000 + "]" * 100_000, "not a readable JSON"),
        ('{"a": ' * (DEEPEST + 1) + "1" + "}" * (DEEPEST + 1), "nested deeper"),
        ('{"sha256": NaN}', "no finite number"),
        ('{"sha256": 1e999}', "no finite number"),
        ('{"sha256": ' + "9" * 5000 + "}", "not a readable JSON"),
        ('{"name": 1, "name": 2}', "'name' is there twice"),
        ('{"name": "\\ud800"}', "not a readable JSON"),
        ('{"name": "' + "x" * LARGEST + '"}', "larger than 1,000,000 bytes"),
        ("\xff", "not a readable JSON"),
    ],
)
@pytest.mark.parametrize("name", [CONFIG, INDEX])
def test_json_that_is_none_is_told_by_its_file(tiny: Path, indexed: Path, name: str, text: str, message: str):
    folder = tiny if name == CONFIG else indexed
    (folder / name).write_bytes(text.encode("latin-1"))
    refused(folder, f"{name}: .*{message}")


# --- what decided memory and time ------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "options",
    [{"blocks": 10**30}, {"blocks": 60_000}, {"blocks": -(10**30)}, {"width": 131_072}, {"width": 60_000},
     {"width": [10**6]}, {"width": "x"}, {"width": None}, {"scale": []}, {"nonsense": 1}],
    ids=str,
)  # fmt: skip
def test_a_config_decides_neither_memory_nor_time(tiny: Path, name: str, options: dict[str, Any]):
    import tiny_naf  # pyright: ignore[reportMissingImports]

    edited(tiny, name=name, options={**OPTIONS, **options})
    tiny_naf.built_on.clear()
    refused(tiny, str(tiny), name)
    assert set(tiny_naf.built_on) <= {"meta"}


@pytest.mark.parametrize(
    "options",
    [{"checkpoint_path": "w.pth"}, {"pretrained": True}, {"model": "hf-hub:a/b"}, {"model": "local-dir:w"}],
)
def test_a_config_has_timm_read_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
):
    asked, real = [], timm.create_model
    monkeypatch.setattr("timm.create_model", lambda *a, **k: asked.append((a, k)) or real(*a, **k))
    folder = save_weights(tmp_path / "w", {"a": torch.ones(1)}, name="timm:test_vit", options=options)
    with pytest.raises(naf_hub.WeightsError, match=f"{CONFIG}: .*would have timm fetch or read files"):
        naf_hub.load_backbone("timm:test_vit", weights=folder)
    assert all(a == ("test_vit",) and not k["pretrained"] and "checkpoint_path" not in k for a, k in asked)


def test_what_is_no_count_may_be_large(tiny: Path):
    edited(tiny, options={**OPTIONS, "scale": 1_000_000, "memory": 1 << 40})
    assert naf_hub.load("tiny", weights=tiny).ramp.tolist() == [0, 1e6, 2e6]  # pyright: ignore


def test_buffers_of_the_constructor_have_their_values(tiny: Path):
    assert naf_hub.load("tiny", weights=tiny).ramp.tolist() == [0, 0.5, 1]  # pyright: ignore


def test_the_users_own_options_are_answered_as_such(tiny: Path):
    with pytest.raises(TypeError, match="'nonsense'"):
        naf_hub.load("tiny", weights=tiny, nonsense=1)
    with pytest.raises(TypeError, match="option scale = 'x': must be a number"):
        naf_hub.load("tiny", weights=tiny, scale="x")


def test_every_shipped_model_is_built_without_storage_first():
    """Else its weights could not be compared with it: a constructor must not read values of tensors."""
    one_of_each = {record.target: record for record in registry().records.values() if record.learned}
    assert len(one_of_each) > 5
    for record in one_of_each.values():
        with torch.device("meta"):
            constructor = record.resolve()
            known = {"channels": 384} if "channels" in inspect.signature(constructor).parameters else {}
            constructor(**record.options, **known)


# --- mutants ---------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 4, 2**31, 2**63, 10**30, -(10**30), 1.5, 1e308, float("nan"), float("inf"), "", "x",
    "../x.safetensors", "/etc/passwd", "C:\\x.safetensors", "a\0b", "\ud800", "é\n", "a" * 300 + ".safetensors",
    "@deep", "@digits", "@overflow", [], {}, [[[]]], {"a": None}, ["model.safetensors"], FILE, CONFIG, INDEX, "sha256",
    "0" * 64, "model-00001-of-00002.safetensors", "tiny", "naf",
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in plain data."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def mutated_json(draw: random.Random, text: str) -> str:
    data = json.loads(text)
    for _ in range(draw.choice([1, 1, 2])):
        container, key = draw.choice([*places(data)])
        kind = draw.randrange(4) if isinstance(container, dict) else 3
        if kind == 0:
            del container[key]
        elif kind == 1:
            container[draw.choice(["x", "sha256", "", "blocks", "\ud800", "../y"])] = container.pop(key)
        elif kind == 2:
            container[draw.choice([*container, "x", "blocks", "nonsense"])] = draw.choice(VALUES)
        else:
            container[key] = draw.choice(VALUES)
    new = json.dumps(data)
    new = new.replace('"@deep"', "[" * 5000 + "]" * 5000).replace('"@digits"', "9" * 5000)
    new = new.replace('"@overflow"', "1e999")
    if draw.random() < 0.05 and new.startswith("{") and len(new) > 2:
        new = '{"size": 1, "weight_map": {}, ' + new[1:]
    return new


def mutated_bytes(draw: random.Random, whole: bytes) -> bytes:
    data = bytearray(whole)
    kind = draw.randrange(4)
    if kind == 0:
        return bytes(data[: draw.randrange(len(data))])
    if kind == 1:
        return bytes(data + draw.randbytes(draw.randrange(1, 64)))
    for _ in range(draw.choice([1, 1, 3])):
        at = draw.randrange(len(data))
        data[at] = draw.randrange(256) if kind == 2 else data[at] ^ 1 << draw.randrange(8)
    return bytes(data)


def mutated_header(draw: random.Random, whole: bytes) -> bytes:
    """A safetensors file with another header, of which the length is right."""
    size = int.from_bytes(whole[:8], "little")
    header = mutated_json(draw, whole[8 : 8 + size].decode()).encode()
    return len(header).to_bytes(8, "little") + header + whole[8 + size :]


class Hung(BaseException):
    """A mutant took more than its time."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End the block after so many seconds of computing (not of waiting for a busy machine)."""

    def end(*_: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def outcome(weights: Path, **options: Any) -> torch.Tensor | None:
    """What loaded weights give; ``None`` where they are refused, in one line."""
    with at_most(5):
        try:
            model = naf_hub.load("tiny", weights=weights, **options)
        except naf_hub.WeightsError as error:
            assert "\n" not in str(error)
            return None
        return model(IMAGE, FEATURES)


def same(a: torch.Tensor | None, b: torch.Tensor) -> bool:
    return a is not None and torch.equal(a.nan_to_num(), b.nan_to_num())


def test_mutants_of_weights_and_config_are_refused_or_give_the_same_numbers(tiny: Path, tmp_path: Path):
    draw = random.Random(1)
    expected = outcome(tiny)
    assert expected is not None
    lone = Path(shutil.copy(tiny / FILE, tmp_path / "lone.safetensors"))
    for name, mutate, count in (
        (FILE, mutated_bytes, 400),
        (FILE, mutated_header, 200),
        (CONFIG, mutated_bytes, 200),
        (CONFIG, lambda draw, whole: mutated_json(draw, whole.decode()).encode(), 600),
    ):
        whole = (tiny / name).read_bytes()
        taken = 0
        for i in range(count):
            (tiny / name).write_bytes(mutate(draw, whole))
            found = outcome(tiny)
            if found is None or same(found, expected):
                taken += found is not None
                continue
            # Constructor options are the one thing that a config may say otherwise, and then they are taken as said.
            said = json.loads((tiny / CONFIG).read_text())["options"]
            assert name == CONFIG, (name, i)
            assert said != OPTIONS, i
            assert same(outcome(lone, **said), found), i
        (tiny / name).write_bytes(whole)
        assert taken < count / 2, f"mutants of {name} are hardly any"


def test_mutants_of_an_index_are_refused_or_give_the_same_numbers(indexed: Path):
    draw = random.Random(2)
    expected = outcome(indexed, **OPTIONS)
    assert expected is not None
    whole = (indexed / INDEX).read_bytes()
    for i in range(400):
        bytewise = i % 4 == 0
        mutant = mutated_bytes(draw, whole) if bytewise else mutated_json(draw, whole.decode()).encode()
        (indexed / INDEX).write_bytes(mutant)
        found = outcome(indexed, **OPTIONS)
        assert found is None or same(found, expected), i


def test_mutants_without_a_checksum_are_refused_or_loaded(tiny: Path, tmp_path: Path):
    """Plain safetensors never had one: changed values are values, anything else is refused."""
    draw = random.Random(3)
    whole = (tiny / FILE).read_bytes()
    file = tmp_path / "plain.safetensors"
    taken = 0
    for i in range(200):
        file.write_bytes(mutated_header(draw, whole) if i % 2 else mutated_bytes(draw, whole))
        taken += outcome(file, **OPTIONS) is not None
    assert 0 < taken < 150


@given(st.text(max_size=30) | st.from_regex(r"[\w.-]+/[\w.@-]+(/[\w.:\\/-]+)?", fullmatch=True))
def test_addresses_are_parsed_or_refused(text: str):
    with contextlib.suppress(naf_hub.WeightsError):
        repo, _, file = parse_hub(f"hf://{text}")
        assert repo.count("/") == 1
        assert not file.startswith("/")
        assert ".." not in file
        assert "\\" not in file


@pytest.mark.parametrize(
    "text", ["a--b/c..d", "-a/b", "a/b.git", "a" * 97 + "/b", "a/b@x\n", "a/b//etc/passwd", "a/b/c\\d"]
)
def test_names_that_the_hub_has_not_are_told(text: str):
    with pytest.raises(naf_hub.WeightsError, match="is not hf://owner/repo") as told:
        naf_hub.load("naf", weights=f"hf://{text}")
    assert "\n" not in str(told.value)
