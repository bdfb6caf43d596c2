"""What is kept of an evaluation, and what is not."""

from __future__ import annotations

import os

import pytest
import torch
from interrupted_evaluation import counted
from torch import nn

from naf_hub.controls import OtherGuidance
from naf_hub.kept_results import KeptResults


@pytest.fixture
def photo(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"1234")
    return tmp_path / "photo.jpg"


def test_only_what_all_is_alike_for_is_recalled(photo, tmp_path):
    behind, models = nn.Linear(2, 2), {"a": counted([]), "b (grey)": None}
    kept = KeptResults(tmp_path / "out", "task", {"size": 1}, [behind], models)
    assert kept.recall("a", [photo]) is None
    kept.keep("a", [photo], {"right": [1, 0.1]})
    kept.keep("b (grey)", [photo], [3])
    assert kept.recall("a", [photo]) == {"right": [1, 0.1]}
    again = KeptResults(tmp_path / "out", "task", {"size": 1}, [behind], models)
    assert again.recall("a", [photo]) == {"right": [1, 0.1]}
    assert again.recall("b (grey)", [photo]) == [3]
    assert again.recall("a", [photo, photo]) is None
    other = KeptResults(tmp_path / "out", "task", {"size": 2}, [behind], models)
    assert other.recall("a", [photo]) is None
    with torch.no_grad():
        behind.weight += 1
    assert KeptResults(tmp_path / "out", "task", {"size": 1}, [behind], models).recall("a", [photo]) is None
    os.utime(photo, (0, 0))
    assert again.recall("a", [photo]) is None, "another file of the same name"


def test_a_line_that_was_cut_short_costs_itself_alone(photo, tmp_path):
    for result in (1, 2):
        kept = KeptResults(tmp_path / "out", "task", {"n": result}, [], {"a": None})
        kept.keep("a", [photo], result)
        with (tmp_path / "out" / "a.jsonl").open("a") as file:
            file.write('{"key": "x", "resu')
    for result in (1, 2):
        kept = KeptResults(tmp_path / "out", "task", {"n": result}, [], {"a": None})
        assert kept.recall("a", [photo]) == result


def test_nothing_is_written_without_a_folder_or_into_that_of_others(photo, tmp_path):
    kept = KeptResults(None, "task", {}, [], {"a": None})
    kept.keep("a", [photo], 1)
    assert kept.recall("a", [photo]) is None
    with pytest.raises(FileExistsError, match=r"photo\.jpg.* holds no results of task"):
        KeptResults(tmp_path, "task", {}, [], {"a": None})
    KeptResults(tmp_path / "out", "task", {}, [], {"a": None})
    with pytest.raises(FileExistsError, match="holds results of task, not of another"):
        KeptResults(tmp_path / "out", "another", {}, [], {"a": None})


def test_what_the_picture_before_guided_is_measured_anew(photo, tmp_path):
    kept = KeptResults(tmp_path / "out", "task", {}, [], {"a (other)": OtherGuidance(counted([]))})
    kept.keep("a (other)", [photo], 1)
    assert kept.recall("a (other)", [photo]) is None
