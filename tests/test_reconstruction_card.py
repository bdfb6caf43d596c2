"""The card of trained weights says all that decides whether to trust them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from naf_hub.publishing.cards import missing_facts
from naf_hub.training.hardware import describe_hardware
from naf_hub.training.settings import tomllib
from naf_hub_reconstruction.card import model_card
from naf_hub_reconstruction.config import TrainConfig

FIGURES = {"images": 7, "mse": 0.6, "bilinear_mse": 0.8, "ratio_to_bilinear": 0.75, "cosine": 0.91}
GPU = {
    "cpu": "Some CPU", "cores": 16, "threads": 8, "memory_gib": 128.0, "processes": 2, "system": "Linux x86_64",
    "python": "3.12.1", "torch": "2.9.0", "gpu": "NVIDIA Something", "gpu_memory_gib": 78.5, "cuda": "13.0",
}  # fmt: skip


def card(settings: dict[str, Any] | None = None, **changes: Any) -> str:
    config = TrainConfig(**{"backbone": ("pico",), "images": ("photos/train",), **(settings or {})})
    summary = {
        "steps": 25000, "images": 900, "skipped": [], "seconds": 9000.0, "device": "cpu", "processes": 1,
        "held_out": None,
    }  # fmt: skip
    return model_card(config, {**summary, **changes})


def test_every_setting_can_be_read_back():
    settings: dict[str, Any] = {
        "upsampler_options": {"dim": 32, "odd key": 'a "quote" \\'}, "down": (0.5, 0.25), "held_out": ("val",),
        "flip": True, "lr": 1e-5,
    }  # fmt: skip
    text = card(settings)
    table = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert table is not None
    config = TrainConfig(**{"backbone": ("pico",), "images": ("photos/train",), **settings})
    assert tomllib.loads(table[1]) == {k: v for k, v in config.to_dict().items() if v is not None}


def test_it_says_data_time_hardware_and_figures():
    text = card(
        {"held_out": ("photos/val",), "batch": 4}, skipped=["a", "b"], held_out={"pico": FIGURES}, processes=2,
        hardware=GPU, device="cuda", peak_memory_bytes=3 * 2**30,
    )  # fmt: skip
    for words in (
        "900 images of `photos/train`, 2 of which were skipped", "never trained on: `photos/val`",
        "25000 steps of 8 crops in 9,000 seconds (2.5 hours)", "2 processes, each on one NVIDIA Something, 78.5 GiB",
        "CUDA 13.0", "Some CPU, 16 cores", "torch 2.9.0", "Peak memory: 3.0 GiB",
        "| `pico` | 0.80000 | 0.60000 | **0.750** | 0.9100 |", "https://arxiv.org/abs/2511.18452",
    ):  # fmt: skip
        assert words in text, words
    assert missing_facts(text) == []
    assert ModelCard(text).data.library_name == "naf-hub"  # pyright: ignore[reportAttributeAccessIssue]


def test_it_does_not_say_where_things_lie():
    teacher, place = "timm:resnet18=/home/me/w/resnet18.safetensors", "/home/me"
    text = card(
        {
            "images": (f"{place}/photos/train", "~/more/*.jpg"), "held_out": ("../mine/val/",), "backbone": (teacher,),
            "init": f"{place}/run/best",
        },
        held_out={teacher: FIGURES},
    )  # fmt: skip
    assert not re.search(r"/home|\bme\b|~|\.\.", text)
    for words in ("images of `train`, `more/*.jpg`", "trained on: `val`", "`timm:resnet18=resnet18.safetensors`",
                  'init = "best"'):  # fmt: skip
        assert words in text, words


def test_without_held_out_images_it_says_that_nothing_is_known():
    assert "nothing is known of how good" in card()


def test_the_hardware_of_this_machine():
    facts = describe_hardware("cpu", 3)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["memory_gib"] > 0
    assert (facts["processes"], facts["torch"]) == (3, torch.__version__)
    assert facts["torch"] in card(), "a summary without hardware is completed"
    assert f"3 processes, each on {facts['cpu']}" in card(hardware=facts, processes=3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_of_this_machine():
    facts = describe_hardware("cuda")
    assert facts["gpu"] == torch.cuda.get_device_name()
    assert facts["cuda"] == torch.version.cuda
