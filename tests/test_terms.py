"""Weights that are not free for every use say so once."""

from __future__ import annotations

import logging

import pytest

import naf_hub
from naf_hub.registry import registry
from naf_hub.weights import terms


@pytest.mark.parametrize(
    ("license", "told"),
    [
        ("Apache-2.0", False), ("mit", False), ("CC-BY-4.0", False), (None, False), ("CC-BY-NC-4.0", True),
        ("cc-by-nc-4.0", True), ("DINOv3 License", True), ("none stated", True), ("other", True),
    ],
)  # fmt: skip
def test_terms_are_told_once(license: str | None, told: bool, caplog, monkeypatch):
    monkeypatch.setattr(terms, "_told", set())
    weights = {"default": naf_hub.Weights("https://example.org/a.safetensors", license=license)}
    record = naf_hub.UpsamplerRecord(name="x", summary="s", target="a:B", weights=weights)
    with caplog.at_level(logging.WARNING, "naf_hub"):
        for chosen in ("default", "default", "a/path", None):
            terms.tell_terms(record, chosen)
    lines = [entry.getMessage() for entry in caplog.records]
    assert len(lines) == told
    if told:
        assert f"x weights 'default': licence {license}, not free" in lines[0]


def test_every_published_set_says_what_it_allows():
    silent = [
        f"{record.name} {name}"
        for record in registry().records.values()
        for name, weights in record.weights.items()
        if record.provider == "naf-hub" and weights.license is None
    ]
    assert not silent


def test_loading_tells(caplog, monkeypatch):
    monkeypatch.setattr(terms, "_told", set())
    with caplog.at_level(logging.WARNING, "naf_hub"), pytest.raises(naf_hub.WeightsError):
        naf_hub.load_backbone("dinov3_s")  # not cached, and no Hub here
    assert "DINOv3 License" in caplog.text
