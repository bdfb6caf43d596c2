"""Names of folders, weights and machines stay text in cards, whatever is in them."""

from __future__ import annotations

import ast
import re

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import naf_hub
from naf_hub.escapes import code, link, one_line, plain, quoted, toml_table
from naf_hub.publishing.cards import complete_card
from naf_hub.reports import Report, Row
from naf_hub.training.settings import tomllib
from naf_hub_reconstruction.card import model_card
from naf_hub_reconstruction.config import TrainConfig

HARDWARE = {"cpu": "", "cores": 2, "threads": 2, "memory_gib": 1.0, "system": "", "python": "3", "torch": "2"}

NASTY = [
    "a\nb: c", "---\nlicense: other\n---", "<script>alert(1)</script>", "[x](javascript:alert(1))", "`` ` ```", "a|b",
    '"""', "a\\", "\\`<b>`", "\r\n# heading", "\x00\x1b[31m\x7f\x85\u2028\u202e", "photo\udce9s", "😀", "", " ",
    "&lt;b&gt;", "${x}", "{{x}}", "~~x~~", "*x* _y_", "![x](//e.x/y)",
]  # fmt: skip


def nasty(test):
    test = given(st.text(st.characters(codec=None, exclude_categories=()), max_size=30))(test)
    for text in NASTY:
        test = example(text)(test)
    return test


@nasty
def test_code_is_one_span_that_shows_the_text(text: str):
    shown = code(text)
    fence, inner = re.fullmatch(r"(`+)([^`].*[^`]|[^`])\1", shown).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert fence not in re.findall("`+", inner)
    assert shown.isprintable()
    assert inner.strip() == (one_line(text).strip() or inner.strip())


@nasty
def test_plain_text_means_nothing_to_markdown(text: str):
    shown = plain(text)
    assert shown.isprintable()
    assert not set(re.sub(r"\\.", "", shown)) & set("\\`*_[]<>|~")
    assert not re.search(r"(?<!\\)&#?\w+;", shown)
    assert re.sub(r"\\(.)", r"\1", shown) == one_line(text)


@nasty
def test_quoted_text_is_read_back_by_toml_yaml_and_python(text: str):
    line, kept = quoted(text), re.sub("[\ud800-\udfff]", "\ufffd", text)
    assert "\n" not in line
    assert tomllib.loads(f"a = {line}") == yaml.safe_load(f"a: {line}") == {"a": kept}
    assert ast.literal_eval(line) == kept


@nasty
def test_settings_are_read_back(text: str):
    text = re.sub("[\ud800-\udfff]", "", text)
    settings = {text: text, "list": [text, 1, True], "table": {text: 0.5, "none": None}, "none": None}
    found = tomllib.loads(toml_table(settings))
    assert found == {text: text, "list": [text, 1, True], "table": {text: 0.5}}


def test_only_addresses_of_the_web_are_links():
    assert link("https://arxiv.org/abs/2511.18452", "the [paper]") == (
        "[the \\[paper\\]](https://arxiv.org/abs/2511.18452)"
    )
    assert link("http://a.b/c?d=e#f") == "<http://a.b/c?d=e#f>"
    for address in (
        None,
        "",
        "javascript:alert(1)",
        "https://a.b/c) <b>",
        "https://a.b/\n# c",
        "https://a b",
    ):
        assert link(address, "paper") == ""


@given(st.sampled_from(NASTY), st.sampled_from(NASTY))
def test_names_add_nothing_to_the_cards_of_training(name: str, folder: str):
    def structure(name: str, folder: str) -> list[str]:
        figures = {"images": 7, "mse": 0.6, "bilinear_mse": 0.8, "ratio_to_bilinear": 0.75, "cosine": 0.91}
        config = TrainConfig(backbone=(name,), images=(folder,), held_out=(folder,), upsampler=name)
        summary = {
            "steps": 2, "images": 9, "skipped": [], "seconds": 9.0, "device": name, "processes": 1,
            "held_out": {name: figures}, "hardware": HARDWARE | {"cpu": name, "system": folder},
        }  # fmt: skip
        card = model_card(config, summary)
        assert card.encode()
        table = tomllib.loads(card.partition("```toml\n")[2].partition("\n```")[0])
        assert len(table) == len([value for value in config.to_dict().values() if value is not None])
        front = yaml.safe_load(card.split("\n---\n")[0])
        assert list(front) == ["library_name", "pipeline_tag", "tags"]
        assert len(front["tags"]) == 2
        return [re.match(r"#+ .*|\||```\w*|[*-] |", line)[0] for line in card.splitlines()]  # pyright: ignore

    found, expected = structure(name, folder), structure("naf", "photos")
    assert found[7].startswith("# ")
    assert found[8:] == expected[8:]


def test_strings_of_a_config_add_nothing_to_a_published_card():
    record = naf_hub.info("naf")
    config = {
        "size": 1,
        "sha256": "0" * 64,
        "naf_hub_version": "1\n# <b>x</b>",
        "provenance": {"a": "```\n# b"},
    }
    card = complete_card("", config, record, "hf://a/b")
    assert re.findall("^# .*", card, re.MULTILINE) == ["# naf"]
    assert "<b>" not in card
    assert r"1\\n# \<b\>x\</b\>" in card


def test_a_report_stays_one_table():
    report = Report("toy", 1, {}, (), tuple(Row(text, {}, note=text) for text in NASTY))
    assert len(report.markdown().splitlines()) == len(NASTY) + 2
    assert len(report.latex().splitlines()) == len(NASTY) + 6
    for row in report.markdown().splitlines():
        assert len(re.findall(r"(?<!\\)\|", re.sub(r"\\\\", "", row))) == 3
