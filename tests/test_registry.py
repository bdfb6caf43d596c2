"""Names, records, and what they promise."""

from __future__ import annotations

import json

import pytest
import torch

import naf_hub
from naf_hub.records import UpsamplerRecord, Weights
from naf_hub.registry import registry


def test_lists_are_sorted_and_filtered():
    names = naf_hub.list_upsamplers()
    assert names == sorted(names)
    assert {"naf", "naf_plus_plus", "nearest", "bilinear"} <= set(names)
    assert naf_hub.list_upsamplers("naf*") == [n for n in names if n.startswith("naf")]
    assert "pico" in naf_hub.list_backbones()
    assert "segmentation" in naf_hub.list_tasks()


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: naf_hub.load("nafs"), "naf"),
        (lambda: naf_hub.load_backbone("picco"), "pico"),
        (lambda: naf_hub.load_task("segmentatoin"), "segmentation"),
        (lambda: naf_hub.info("billinear"), "bilinear"),
        (lambda: naf_hub.load("pico"), "pico' names a registered backbone, no upsampler"),
    ],
)
def test_unknown_names_say_what_is_near(call, near):
    with pytest.raises(naf_hub.UnknownNameError, match=near):
        call()
    assert issubclass(naf_hub.UnknownNameError, LookupError)


def test_records_are_frozen_and_plain_data():
    record = naf_hub.info("naf")
    with pytest.raises(AttributeError):
        record.name = "other"  # pyright: ignore
    with pytest.raises(TypeError):
        record.options["dim"] = 1  # pyright: ignore
    for name in registry().records:
        json.dumps(naf_hub.info(name).to_dict())


def test_every_target_resolves_to_what_its_kind_says():
    kinds = {
        "upsampler": naf_hub.Upsampler,
        "backbone": naf_hub.Backbone,
        "restorer": naf_hub.Restorer,
        "task": naf_hub.Task,
    }
    for record in registry().records.values():
        assert issubclass(record.resolve(), kinds[record.kind]), record.name


def test_every_named_set_of_ours_that_ships_records_size_and_sha256():
    for record in registry().records.values():
        for name, weights in record.weights.items():
            if weights.source.startswith("package://"):
                assert weights.size, (record.name, name)
                assert weights.sha256, (record.name, name)


@pytest.mark.parametrize("name", ["", "Naf", "na f", "../x", "a/b", "x\0", "a" * 300, "1x"])
def test_bad_names_are_refused(name):
    with pytest.raises(ValueError, match="lower snake case"):
        UpsamplerRecord(name=name, summary="s", target="a:B")


def test_weights_options_are_frozen():
    with pytest.raises(TypeError):
        Weights("hf://a/b", options={"dim": 1}).options["dim"] = 2  # pyright: ignore


def test_parameters_are_those_of_the_model():
    """Those of timm's models are counted where each is built anyway."""
    counted: dict[str, int] = {}
    for record in registry().records.values():
        if record.parameters is None or record.target.startswith("naf_hub_timm."):
            continue
        key = f"{record.target} {dict(record.options)}"
        if key not in counted:
            with torch.device("meta"):
                model = record.resolve()(**record.options)
            counted[key] = sum(p.numel() for p in model.parameters())
        assert counted[key] == record.parameters, record.name
    assert len(counted) >= 15


@pytest.mark.parametrize("count", [-1, 1.5, "86M"])
def test_parameters_are_a_number(count: object):
    with pytest.raises(ValueError, match="parameters must be a number"):
        naf_hub.UpsamplerRecord(name="a", summary="A.", target="a:B", parameters=count)  # pyright: ignore


def test_a_record_is_listed_under_its_family_or_its_plugin():
    assert naf_hub.info("dinov2_b").family == "DINOv2 vision transformer"
    assert naf_hub.info("bilinear").family == "filters"
