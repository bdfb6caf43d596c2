"""Kinds are rows of a table; restorers, the youngest kind, through every door."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

import naf_hub
from naf_hub import hookspecs
from naf_hub.commands.main import cli
from naf_hub.kinds import KINDS, kind_of
from naf_hub.publishing.cards import complete_card
from naf_hub.publishing.publishable import check_weights
from naf_hub.testing import RESTORER_CHECKS, Subject, check_restorer
from naf_hub.weights import save_weights

PLUGIN = """
import torch
from naf_hub import Restorer, RestorerRecord, hookimpl

class Gain(Restorer):
    def __init__(self, bias=0.0):
        super().__init__()
        self.bias = bias
        self.gain = torch.nn.Parameter(torch.ones(()))

    def restore(self, image):
        return image * self.gain + self.bias

@hookimpl
def register_restorers(register):
    register(RestorerRecord(name="gain", summary="Multiplies.", target="gain_naf:Gain", trainable=True,
                            degradations="darkness"))
"""


@pytest.fixture
def gain(install_plugin):
    install_plugin("gain-naf", PLUGIN)


def run(*arguments: object):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
def test_each_row_is_complete(kind):
    assert hasattr(hookspecs, kind.hook)
    assert callable(getattr(naf_hub, kind.loader))
    assert callable(getattr(naf_hub, f"list_{kind.plural}"))
    assert kind.record.kind == kind.word
    assert kind_of(kind.record) is kind
    assert kind.usage is None or "{load}" in kind.usage
    if kind.checker:
        module, _, function = kind.checker.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))
    else:
        with pytest.raises(TypeError, match="no conformance suite"):
            kind.check("anything")


@pytest.mark.usefixtures("gain")
def test_a_restorer_is_listed_shown_loaded_and_checked(tmp_path):
    assert naf_hub.list_restorers("gain") == ["gain"]
    assert "gain" in [record["name"] for record in json.loads(run("list", "--json").output)["restorers"]]
    assert "restorers:" in run("list").output
    assert "darkness" in run("info", "gain").output
    model = naf_hub.load_restorer("gain", weights=None, bias=0.5)
    assert not model.training
    assert model.origin.label == "gain=none"  # pyright: ignore
    assert torch.equal(model(torch.zeros(1, 3, 4, 5)), torch.full((1, 3, 4, 5), 0.5))
    check_restorer("gain")
    kind_of(naf_hub.info("gain")).check("gain", bias=0.25)
    with pytest.raises(naf_hub.WeightsError, match="restorer 'gain' has no default weights"):
        naf_hub.load_restorer("gain")
    with pytest.raises(naf_hub.UnknownNameError, match="'naf' names a registered upsampler, no restorer"):
        naf_hub.load_restorer("naf")


@pytest.mark.usefixtures("gain")
def test_weights_of_a_restorer_load_and_have_a_card_of_their_kind(tmp_path):
    folder = save_weights(tmp_path / "w", {"gain": torch.tensor(2.0)}, name="gain", options={"bias": 1.0})
    assert naf_hub.load_restorer("gain", weights=folder)(torch.ones(1, 3, 2, 2)).mean() == 3
    config, record = check_weights(folder)
    card = complete_card("", config, record, "hf://you/gain")
    assert 'restorer = naf_hub.load_restorer("gain", weights="hf://you/gain")' in card
    assert "pipeline_tag: image-to-image" in card
    assert "image-restoration" in card
    assert "Restorer `gain`" in card


def test_weights_of_a_backbone_can_be_published_too(tmp_path):
    state = naf_hub.load_backbone("pico").state_dict()
    folder = save_weights(tmp_path / "w", state, name="pico")
    config, record = check_weights(folder)
    card = complete_card("", config, record, "hf://you/pico")
    assert 'backbone = naf_hub.load_backbone("pico", weights="hf://you/pico")' in card


def test_what_has_no_weights_is_not_published(tmp_path):
    for name in ("bilinear", "segmentation"):
        folder = save_weights(tmp_path / name, {"a": torch.zeros(1)}, name=name)
        with pytest.raises(naf_hub.WeightsError, match="without weights"):
            check_weights(folder)


def test_a_name_served_by_prefix_is_found_again():
    record = naf_hub.info("timm:resnet10t")
    assert record.name == "timm:resnet10t"
    assert naf_hub.info(record.name) == record
    assert naf_hub.load_backbone(record.name, weights=None).origin.record == record  # pyright: ignore


@pytest.mark.parametrize(
    "code",
    [
        "register.prefix('Bad Name', 'a:b')",
        "register.prefix('zoo', 'no target')",
        "register(BackboneRecord(name='zoo:lion', summary='s', target='a:B'))",
    ],
)
def test_a_wrong_prefix_refuses_the_plugin(code, install_plugin, caplog):
    install_plugin(
        "zoo-naf",
        f"from naf_hub import BackboneRecord, hookimpl\n@hookimpl\ndef register_backbones(register):\n    {code}",
    )
    assert "naf" in naf_hub.list_upsamplers()
    assert "zoo-naf" in caplog.text


def test_only_kinds_with_prefixes_take_one(install_plugin, caplog):
    install_plugin(
        "zoo-naf",
        "from naf_hub import hookimpl\n@hookimpl\ndef register_upsamplers(register): register.prefix('zoo', 'a:b')",
    )
    naf_hub.list_upsamplers()
    assert "only backbones can be registered by prefix" in caplog.text


# --- the suite of restorers must notice: one broken restorer a check --------------------------------------


class Good(naf_hub.Restorer):
    def restore(self, image):
        return F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)


class Crops(Good):
    def forward(self, image):
        return super().forward(image)[..., : 8 * max(1, image.shape[-1] // 8)]


class Narrows(Good):
    def forward(self, image):
        return super().forward(image).float()


class MixesBatch(Good):
    def restore(self, image):
        return super().restore(image) + image.mean(0, keepdim=True)


class Draws(Good):
    def restore(self, image):
        return super().restore(image) + 1e-3 * torch.randn_like(image)


class Detaches(Good):
    def restore(self, image):
        return super().restore(image.detach()).requires_grad_()


class OwnState(Good):
    def restore(self, image):
        return super().restore(image) + id(self) % 1000


class NotExportable(Good):
    def restore(self, image):
        return super().restore(image) * float(image.mean() > -1)


class Unchecked(Good):
    def forward(self, image):
        return self.restore(image)


class DividesByDeviation(Good):
    def restore(self, image):
        return super().restore(image) * (1 + 0 / image.std())


class GivesItBack(Good):
    def restore(self, image):
        return image.clone()


class FollowsThreads(Good):
    def restore(self, image):
        return super().restore(image) * torch.get_num_threads()


BROKEN = {
    "restorer_finite": DividesByDeviation,
    "restorer_acts": GivesItBack,
    "restorer_threads": FollowsThreads,
    "restorer_shapes": Crops,
    "restorer_dtypes": Narrows,
    "restorer_batch_independence": MixesBatch,
    "restorer_determinism": Draws,
    "restorer_gradients": Detaches,
    "restorer_copies": OwnState,
    "restorer_export": NotExportable,
    "restorer_bad_input": Unchecked,
}


def subject(cls: type[naf_hub.Restorer]) -> Subject:
    record = naf_hub.RestorerRecord(name="t", summary="t", target="a:B", learned=False)
    return Subject(lambda: cls().eval(), record)


def test_every_check_has_a_restorer_it_must_refuse():
    assert set(BROKEN) == set(RESTORER_CHECKS)


@pytest.mark.parametrize("check", RESTORER_CHECKS)
def test_each_check_notices(check: str):
    RESTORER_CHECKS[check](subject(Good))
    with pytest.raises(Exception, match=r".+"):
        RESTORER_CHECKS[check](subject(BROKEN[check]))


def test_a_further_kind_is_a_row(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class DanceRecord(naf_hub.UpsamplerRecord.__mro__[1]):  # pyright: ignore
        kind = "dance"

    from naf_hub import registry
    from naf_hub.kinds import Kind

    row = Kind(DanceRecord, "dance", "dances", "register_tasks", "load_task")
    monkeypatch.setattr("naf_hub.kinds.KINDS", (row, *KINDS))
    collector = registry.Collector(row, "somebody")
    collector(DanceRecord(name="waltz", summary="s", target="a:B"))
    assert [r.name for r in collector.records] == ["waltz"]
    with pytest.raises(TypeError, match="takes a DanceRecord"):
        collector(naf_hub.TaskRecord(name="t", summary="s", target="a:B"))
    assert kind_of(DanceRecord) is row
