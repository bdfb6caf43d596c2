"""Franca as a backbone: conformance, sizes, precision, key layouts, errors, published files."""

from __future__ import annotations

import functools
import io
import tarfile
from pathlib import Path

import huggingface_hub
import pytest
import torch
from test_franca_goldens import GOLDEN, TINY, group, model, released
from torch import Tensor

from naf_hub import BackboneRecord, Weights, WeightsError
from naf_hub.testing import BACKBONE_CHECKS
from naf_hub.testing.subject import Subject
from naf_hub.weights.files import load_into, read_state_dict, safetensors_of, save_weights
from naf_hub.weights.web import web_cache
from naf_hub_franca.backbone import Franca
from naf_hub_franca.releases import records

RECORDS = {record.name: record for record in records()}
IMAGE = GOLDEN["input.small_56x84"]


def features(franca: Franca) -> Tensor:
    with torch.no_grad():
        return franca.extract(IMAGE)


@pytest.mark.parametrize("check", BACKBONE_CHECKS)
def test_conformance(check: str):
    def make() -> Franca:
        torch.manual_seed(0)
        return Franca(32, 2, 2, img_size=56).eval().requires_grad_(False)

    record = BackboneRecord(name="tiny", summary="tiny", target="a:B", embed_dim=32, patch_size=14, depth=2)
    BACKBONE_CHECKS[check](Subject(make, record))


@pytest.mark.parametrize("depth", [1, 3])
def test_a_false_depth_of_the_record_is_noticed(depth: int):
    record = BackboneRecord(name="tiny", summary="tiny", target="a:B", depth=depth)
    subject = Subject(lambda: Franca(32, 2, 2, img_size=56).eval(), record)
    with pytest.raises(AssertionError, match=f"depth={depth}, but layer"):
        BACKBONE_CHECKS["backbone_maps"](subject)


@pytest.mark.parametrize(("name", "tensors"), [("franca_b", 175), ("franca_l", 343), ("franca_g", None)])
def test_real_sizes(name: str, tensors: int | None):
    record = RECORDS[name]
    with torch.device("meta"):
        franca = Franca(**record.options)
        for height, width in ((448, 448), (336, 448)):
            found = franca(torch.empty(1, 3, height, width))
            assert tuple(found.shape) == (1, record.embed_dim, height // 14, width // 14)
    assert franca.patch_size == record.patch_size
    assert len(franca.model.blocks) == record.depth
    pos_embed = franca.model.pos_embed
    assert pos_embed is not None
    assert pos_embed.shape[1] == 1 + (record.native_size // 14) ** 2
    if tensors is not None:  # in the released file, with the mask token, which stays out
        assert len(franca.model.state_dict()) == tensors - 1


def test_reduced_precision():
    exact = features(model(8))
    for dtype, bound in ((torch.float64, 1e-5), (torch.bfloat16, 0.05)):
        with torch.no_grad():
            found = model(8).to(dtype).extract(IMAGE.to(dtype))
        assert found.dtype == dtype
        assert (found.double() - exact.double()).norm() < bound * exact.norm()
    with torch.autocast("cpu", torch.bfloat16):
        found = features(model(8))
    assert (found.float() - exact).norm() < 0.05 * exact.norm()


LAYOUTS = {
    "wrapped": lambda k: k if k.startswith("rasa_head.") else f"module.backbone.{k}",
    "chunks dropped": lambda k: "blocks." + k.split(".", 2)[2] if k.startswith("blocks.") else k,
    "flat RASA keys": lambda k: k.removeprefix("rasa_head."),
    "wrapped RASA keys": lambda k: k.replace("rasa_head.", "module.rasa_head."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_key_layouts(layout: str):
    franca = Franca(**TINY)
    state = {LAYOUTS[layout](key): value for key, value in released(8).items()}
    franca.load_weights(
        {**state, "dino_head.mlp.0.weight": torch.zeros(2), "ibot_head.mlp.0.bias": torch.zeros(2)}
    )
    assert torch.equal(features(franca.eval()), features(model(8)))


def test_a_rasa_head_beside_the_backbone_wins_over_one_inside_it():
    inside = {f"backbone.rasa_head.{k}": v for k, v in group("rasa8").items()}
    franca = Franca(**TINY)
    franca.load_weights(released(9) | inside)
    assert torch.equal(features(franca.eval()), features(model(9)))
    franca.load_weights(released(None) | inside)
    assert torch.equal(features(franca), features(model(8)))


def test_own_weights_round_trip(tmp_path: Path):
    save_weights(tmp_path / "w", model(9), name="franca_b", options={})
    franca = Franca(**TINY)
    franca.load_weights(read_state_dict(tmp_path / "w" / "model.safetensors"))
    assert torch.equal(features(franca.eval()), features(model(9)))


def test_plain_features_ignore_a_rasa_head():
    franca = Franca(**TINY, rasa=False)
    franca.load_weights(released(8))
    assert torch.equal(features(franca.eval()), features(model(None)))


def drop(key: str):
    return lambda state: state.pop(key)


WRONG = {
    "missing": (drop("blocks.1.1.mlp.w12.weight"), r"missing blocks\.1\.mlp\.fc1\.weight"),
    "unexpected": (lambda s: s.update(novel=torch.zeros(1)), "unexpected novel"),
    "misshapen": (
        lambda s: s.update({"norm.weight": torch.zeros(3)}),
        r"norm\.weight has shape \(3,\), expected \(64,\)",
    ),
    "table of no square": (
        lambda s: s.update(pos_embed=torch.zeros(1, 4, 64)),
        r"pos_embed has shape \(1, 4, 64\)",
    ),
    "table of other channels": (
        lambda s: s.update(pos_embed=torch.zeros(1, 5, 32)),
        r"pos_embed has shape \(1, 5, 32\), expected \(1, 5, 64\)",
    ),
    "NaN": (lambda s: s.update({"norm.bias": torch.full((64,), float("nan"))}), r"norm\.bias contains NaN"),
    "RASA gap": (drop("rasa_head.pre_pos_layers.2.weight"), r"missing pre_pos_layers\.\d\.weight"),
    "RASA last": (drop("rasa_head.pos_pred.weight"), r"missing pos_pred\.weight"),
    "twice": (lambda s: s.update({"backbone.norm.bias": torch.zeros(64)}), "norm.bias occurs twice"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_weights(kind: str):
    spoil, message = WRONG[kind]
    state = released(8)
    spoil(state)
    franca = model(8)
    before = features(franca)
    with pytest.raises(WeightsError, match=message):
        franca.load_weights(state)
    assert torch.equal(features(franca), before), "refused weights changed the model"


def test_weights_without_a_rasa_head_say_what_to_do():
    with pytest.raises(WeightsError, match=r"no RASA head .*rasa=False"):
        Franca(**TINY).load_weights(released(None))


@pytest.mark.parametrize("options", [{"img_size": 100}, {"img_size": 0}, {"num_heads": 5}])
def test_impossible_options(options: dict[str, int]):
    with pytest.raises(ValueError, match="multiple of"):
        Franca(**{**TINY, **options})


# --- records and published files --------------------------------------------------------------------------


def test_records():
    assert {n: (r.embed_dim, r.native_size, sorted(r.weights)) for n, r in RECORDS.items()} == {
        "franca_b": (768, 518, ["default", "dinov2_in21k", "dinov2_in21k_518", "in21k_224"]),
        "franca_l": (1024, 518, ["default", "dinov2_in21k", "dinov2_in21k_518", "laion_224", "laion_518"]),
        "franca_g": (1536, 224, ["default"]),
    }
    for record in RECORDS.values():
        assert record.non_commercial
        for name, weights in record.weights.items():
            assert weights.license == "Franca Research-Only RAIL"
            assert weights.source.startswith("https://github.com/valeoai/Franca/releases/download/v1.")
            assert bool(weights.also) == weights.options.get("rasa", True), name
            assert "In21k" not in weights.source  # an old address that is gone: the files say In21K


def put(address: str, content: bytes) -> None:
    """Into the cache, as if downloaded."""
    target = web_cache(Weights(address)) / address.rsplit("/", 1)[-1]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def pickled(data: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def archive(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def load_published(weights: Weights, record: BackboneRecord) -> Franca:
    franca = Franca(**{**TINY, **weights.options}).eval()
    load_into(franca, read_state_dict(safetensors_of(weights, "test", record)), "test")
    return franca


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_folder = functools.partial(huggingface_hub.cached_assets_path, assets_dir=tmp_path / "assets")
    monkeypatch.setattr(huggingface_hub, "cached_assets_path", in_folder)


@pytest.mark.usefixtures("fresh_cache")
def test_a_backbone_and_its_rasa_file_become_one():
    weights = RECORDS["franca_b"].weights["default"]
    put(weights.source, pickled({"teacher": {f"module.backbone.{k}": v for k, v in released(None).items()}}))
    put(weights.also["rasa_head."], pickled({f"module.{k}": v for k, v in group("rasa8").items()}))
    assert torch.equal(features(load_published(weights, RECORDS["franca_b"])), features(model(8)))
    # Once converted, neither file is needed any more.
    for address in (weights.source, weights.also["rasa_head."]):
        (web_cache(Weights(address)) / address.rsplit("/", 1)[-1]).unlink()
    assert torch.equal(features(load_published(weights, RECORDS["franca_b"])), features(model(8)))


@pytest.mark.usefixtures("fresh_cache")
def test_weights_published_without_a_head_load_without_one():
    weights = RECORDS["franca_b"].weights["in21k_224"]
    put(weights.source, pickled({"teacher": released(None)}))
    assert torch.equal(features(load_published(weights, RECORDS["franca_b"])), features(model(None)))


def put_giant(content: bytes) -> Weights:
    weights = RECORDS["franca_g"].weights["default"]
    cut = len(content) // 3
    pieces = (content[:cut], content[cut : 2 * cut], content[2 * cut :])
    for part, piece in zip(weights.parts, pieces, strict=True):
        put(weights.source + part, piece)
    put(weights.also["rasa_head."], pickled(group("rasa9")))
    return weights


@pytest.mark.usefixtures("fresh_cache")
def test_an_archive_in_pieces(tmp_path: Path):
    # Where a hostile archive wants its file to go must not matter.
    content = archive("../../outside.pth", pickled({"teacher": released(None)}))
    weights = put_giant(content)
    assert torch.equal(features(load_published(weights, RECORDS["franca_g"])), features(model(9)))
    assert not list(tmp_path.rglob("outside.pth"))
    assert not list(tmp_path.rglob("unpacked-*"))


MESSAGES = {"truncated": "cannot unpack", "no archive": "cannot unpack", "empty": "holds no file"}


@pytest.mark.usefixtures("fresh_cache")
@pytest.mark.parametrize("damage", MESSAGES)
def test_a_damaged_archive(damage: str):
    content = archive("weights.pth", pickled({"teacher": released(None)}))
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w:gz").close()
    weights = put_giant(
        {"truncated": content[:-5000], "no archive": b"x" * 900, "empty": empty.getvalue()}[damage]
    )
    with pytest.raises(WeightsError, match=MESSAGES[damage]):
        load_published(weights, RECORDS["franca_g"])


@pytest.mark.usefixtures("fresh_cache")
def test_nothing_cached_and_offline_says_which_file():
    with pytest.raises(WeightsError, match=r"franca_vitl14_Laion_518\.pth .*HF_HUB_OFFLINE"):
        load_published(RECORDS["franca_l"].weights["laion_518"], RECORDS["franca_l"])
