"""Several processes compute what one does: gloo on the CPU, once started as users start them."""

from __future__ import annotations

import json
import signal
import socket

import pytest
from reconstruction_world import (
    BACKBONE,
    draw_pictures,
    finish,
    has_trained,
    same_state,
    training,
    wait_for,
)

from naf_hub.training.checkpoints import newest
from naf_hub.training.course import Share
from naf_hub.training.settings import build
from naf_hub_reconstruction.config import TrainConfig
from naf_hub_reconstruction.plan import Plan

# `accelerate launch` starts several processes on GPUs only; torchrun does on CPUs, and accelerate finds them.
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture
def pictures(tmp_path, install_plugin):
    install_plugin("tiny-plugin", BACKBONE)
    return draw_pictures(tmp_path / "pictures", 5)


@pytest.fixture
def start(pictures, tmp_path):
    with training(pictures, tmp_path / "tiny-plugin") as start:
        yield start


def finish_two(start, out, *more):
    """Two processes that find each other as those of a launcher do; what the first and the second print."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    both = [start(out, *more, RANK=rank, LOCAL_RANK=rank, **place) for rank in "01"]
    return [finish(process)[0] for process in both]


def logged(out, key="loss"):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if line["event"] == "train"]


def assert_equal_runs(one, other, steps):
    """Losses to 1e-5, gradients too: Adam divides by their size and would hide a wrong factor."""
    assert len(logged(one)) == steps
    assert logged(other) == pytest.approx(logged(one), rel=1e-5)
    assert logged(other, "gradient_norm") == pytest.approx(logged(one, "gradient_norm"), rel=1e-3)


# Adam turns rounding of gradients near zero into whole steps of either sign: small steps keep that small.
GENTLE = {"lr": 3e-5}


def options(**settings):
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def test_two_processes_equal_one_with_the_double_batch(start, tmp_path):
    finish(start(tmp_path / "one", *options(steps=6, batch=4, **GENTLE)))
    printed = finish_two(start, tmp_path / "two", *options(steps=6, batch=2, **GENTLE))
    assert ["6 steps in" in output for output in printed] == [True, False], "both processes report"
    assert newest(tmp_path / "two" / "checkpoints").manifest["processes"] == 2
    assert_equal_runs(tmp_path / "one", tmp_path / "two", 6)


def test_two_processes_resume_and_name_what_each_skipped(start, pictures, tmp_path):
    (pictures / "002.png").write_bytes(b"no picture")
    finish_two(start, tmp_path / "a", *options(steps=6, batch=1))
    finish_two(start, tmp_path / "b", *options(steps=6, batch=1, checkpoint_every=3, keep=9))
    for folder in (tmp_path / "b" / "checkpoints").glob("step-00000006"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    finish_two(start, tmp_path / "b", *options(steps=6, batch=1), "--resume")
    assert logged(tmp_path / "a") == pytest.approx(logged(tmp_path / "b"), abs=1e-6)
    left = newest(tmp_path / "a" / "checkpoints")
    assert list(left.manifest["skipped"]) == [str(pictures / "002.png")]
    _, errors = finish(start(tmp_path / "a", *options(steps=6, batch=1), "--resume"), 1)
    assert "number of processes (2 -> 1)" in errors


def test_one_signal_stops_both_with_one_checkpoint(start, tmp_path):
    out = tmp_path / "run"
    process = start(out, *options(steps=100000, checkpoint_every=100000), launcher=LAUNCH)
    wait_for(lambda: has_trained(out), process)
    process.send_signal(signal.SIGTERM)  # the launcher passes it on to its processes
    process.communicate(timeout=120)
    assert process.returncode != 0
    left = newest(out / "checkpoints")
    assert left is not None
    assert left.step == json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"]


@pytest.mark.parametrize(("batch", "accumulate", "processes"), [(4, 1, 1), (2, 1, 2), (1, 2, 2), (1, 4, 1)])
def test_every_split_of_a_step_sees_the_same_crops(batch, accumulate, processes):
    plan = Plan(build(TrainConfig, {"batch": batch, "accumulate": accumulate, "views": 2}), 7, [16])
    whole = Plan(build(TrainConfig, {"batch": 4, "views": 2}), 7, [16])
    shares = [Share(rank, processes) for rank in range(processes)]
    for step in range(5):
        assert [item for share in shares for item in plan.items(step, share)] == whole.items(step)


def test_accumulation_equals_the_large_batch(start, tmp_path):
    finish(start(tmp_path / "one", *options(steps=4, batch=4, **GENTLE)))
    finish(start(tmp_path / "four", *options(steps=4, batch=1, accumulate=4, **GENTLE)))
    assert_equal_runs(tmp_path / "one", tmp_path / "four", 4)
    one, four = (newest(tmp_path / name / "checkpoints").model() for name in ("one", "four"))
    assert not same_state(one, four), "rounding differs unless nothing was accumulated"
