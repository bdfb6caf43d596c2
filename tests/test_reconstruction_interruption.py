"""A run killed at any moment, in a process of its own: what is left is whole."""

from __future__ import annotations

import json
import resource
import shutil
import signal

import pytest
import torch
from ready_python import run_python
from reconstruction_world import (
    BACKBONE,
    draw_pictures,
    finish,
    has_trained,
    same_state,
    training,
    wait_for,
)

from naf_hub.training.checkpoints import CheckpointError, clean, newest, save_checkpoint


@pytest.fixture
def pictures(tmp_path, install_plugin):
    install_plugin("tiny-plugin", BACKBONE)
    return draw_pictures(tmp_path / "pictures", 5)


@pytest.fixture
def start(pictures, tmp_path):
    with training(pictures, tmp_path / "tiny-plugin") as start:
        yield start


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_equals_straight(start, tmp_path, workers):
    options = ["--set", "steps=6", "--set", "checkpoint_every=3", "--set", "keep=9"]
    options += ["--set", f"workers={workers}"]
    straight = start(tmp_path / "a", *options)
    killed = start(tmp_path / "b", *options)
    wait_for(lambda: newest(tmp_path / "b" / "checkpoints"), killed)
    killed.kill()
    killed.wait()
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "step-00000006", ignore_errors=True)  # had it got that far
    finish(start(tmp_path / "b", *options, "--resume"))
    finish(straight)
    one, other = (newest(tmp_path / run / "checkpoints") for run in "ab")
    assert one.step == other.step == 6
    assert same_state(one.model(), other.model())
    assert same_state(one.training(), other.training())
    logs = [[json.loads(line) for line in (tmp_path / run / "log.jsonl").open()] for run in "ab"]
    losses = [[(line["step"], line["loss"]) for line in log if line["event"] == "train"] for log in logs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def save(folder, step, keep=2, values=1000):
    model = {"weight": torch.full((values,), float(step))}
    return save_checkpoint(folder, step, model, {"step": step}, {"seconds": 0.0}, keep)


KILLED_TWENTY_TIMES = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from naf_hub.training.checkpoints import clean, newest, save_checkpoint

torch.set_num_threads(1)  # a forked child of a process that has used torch's thread pool may hang in it
folder, draw, reached = Path(sys.argv[1]), random.Random(0), 0

def save(step):
    model = {"weight": torch.full((200_000,), float(step))}
    save_checkpoint(folder, step, model, {"step": step}, {"seconds": 0.0}, 1)

save(0)
for _ in range(20):
    child = os.fork()
    if child == 0:
        while True:
            reached += 1
            save(reached)
    while not any(int(p.name[5:]) > reached for p in folder.glob("step-*")):
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    half = len(list(folder.glob(".step-*")))
    clean(folder)
    left = newest(folder)
    whole = left and left.training() == {"step": left.step} and bool((left.model()["weight"] == left.step).all())
    print(json.dumps({"before": reached, "after": left and left.step, "whole": whole, "half": half}), flush=True)
    reached = left.step
"""


def test_killed_at_twenty_random_moments_a_valid_checkpoint_remains(tmp_path):
    """A process that does nothing but save, one checkpoint kept: a kill nearly always hits a write."""
    done = run_python("-c", KILLED_TWENTY_TIMES, str(tmp_path))
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == 20
    assert all(kill["whole"] and kill["after"] > kill["before"] for kill in kills), kills
    assert sum(kill["half"] for kill in kills) > 0, "no kill hit a write: the test shows nothing"


def test_ctrl_c_saves_once_and_exits_130(start, tmp_path):
    out = tmp_path / "run"
    process = start(out, "--set", "steps=100000", "--set", "checkpoint_every=100000")
    wait_for(lambda: has_trained(out), process)
    process.send_signal(signal.SIGINT)
    _, errors = finish(process, 130)
    assert "Traceback" not in errors
    assert len(list((out / "checkpoints").iterdir())) == 1
    left = newest(out / "checkpoints")
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert left.step == last["step"]


def test_what_a_kill_left_of_unfinished_weights_goes(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / ".step-00000002.0123abcd-1-xyz"
    half.mkdir()
    (half / ".tmpSNTKqc").write_bytes(b"half of a file")
    clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_older_checkpoints_go_only_after_the_new_one_is_there(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert newest(tmp_path).training() == {"step": 3}


@pytest.mark.parametrize("file", ["model.safetensors", "training.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_checkpoint_is_passed_over(tmp_path, file, damage, caplog):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / file
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 255
        path.write_bytes(data)
    assert newest(tmp_path).step == 1
    assert "step-00000002" in caplog.text


def test_full_disk_keeps_the_old_checkpoint(tmp_path):
    save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"newest is still .*step-00000001"):
            save(tmp_path, 2, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert newest(tmp_path).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_checkpoint_caught_between_two_renames_is_put_back(tmp_path):
    path = save(tmp_path, 4)
    aside = tmp_path / ".step-00000004.old.abc"
    aside.mkdir()
    path.rename(aside / "old")
    (tmp_path / ".step-00000005.xyz").mkdir()
    assert newest(tmp_path) is None
    clean(tmp_path)
    assert newest(tmp_path).step == 4
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000004"]


def test_no_checkpoint_at_all(tmp_path):
    assert newest(tmp_path) is None
