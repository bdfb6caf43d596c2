"""A run by itself, on a course that takes no time: resume, signals, NaN, accumulation, averages, best weights."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ready_python import Process, start_python
from reconstruction_world import finish, same_state, wait_for
from safetensors.torch import load_file
from training_world import Line, line, logged, stop_after

from naf_hub.errors import MissingExtraError
from naf_hub.training import processes
from naf_hub.training.checkpoints import newest
from naf_hub.training.course import Examination
from naf_hub.training.interrupts import SIGNALS, StopRequest, leave_signals_to_parent
from naf_hub.training.processes import Processes, seed_step
from naf_hub.training.run import Run, TrainingError
from naf_hub.training.settings import ConfigError


def run(course, out=None, **options):
    return Run(course, out, device="cpu", progress=False, **options)


def left(out: Path):
    found = newest(out / "checkpoints")
    assert found is not None
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.5, "schedule": "cosine"},
        {"accumulate": 2, "schedule": "plateau", "decay_vectors": False},
    ],
)
def test_interrupted_and_resumed_equals_straight(tmp_path, changes):
    courses = [line(eval_every=2, **changes) for _ in range(3)]
    for course in courses:
        course.dropout = 0.5  # whose draws must come back
    run(courses[0], tmp_path / "a").run()
    with pytest.raises(KeyboardInterrupt):
        stop_after(run(courses[1], tmp_path / "b"), 3).run()
    assert left(tmp_path / "b").step == 3
    run(courses[2], tmp_path / "b", resume=True).run()
    one, other = left(tmp_path / "a"), left(tmp_path / "b")
    assert same_state(one.model(), other.model())
    assert same_state(one.training(), other.training())
    losses = [[(e["step"], e["loss"], e["lr"]) for e in logged(tmp_path / x, "train")] for x in "ab"]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_signals_save_and_exit_with_their_number(tmp_path, name):
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip("not on this system")
    before = signal.signal(
        number, signal.SIG_DFL
    )  # under nohup the tests themselves inherit that SIGHUP is ignored
    try:
        with pytest.raises(SystemExit) as stopped:
            stop_after(run(line(), tmp_path / "a"), 2, number).run()
    finally:
        signal.signal(number, before)
    assert stopped.value.code == 128 + number
    assert left(tmp_path / "a").step == 2


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="not on this system")
def test_under_nohup_the_end_of_the_terminal_stops_nothing(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stop_after(run(line(), tmp_path / "a"), 2, signal.SIGHUP).run()["steps"] == 8
    finally:
        signal.signal(signal.SIGHUP, before)


def test_workers_leave_every_signal_to_their_parent():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        leave_signals_to_parent(0)
        assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_of_several_processes_each_learns_of_the_signal_of_any():
    for number in SIGNALS:
        stop = StopRequest()
        stop.signal = number
        assert StopRequest.signal_of([flag / 4 for flag in stop.flags()]) == number
    assert StopRequest.signal_of(StopRequest().flags()) == 0


def test_killed_and_resumed_equals_straight(tmp_path):
    def start(out: str) -> Process:
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), *(p for p in sys.path if p)])
        variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return start_python(str(here / "training_world.py"), str(tmp_path / out), "30", environment=variables)

    straight, killed = start("a"), start("b")
    wait_for(lambda: newest(tmp_path / "b" / "checkpoints"), killed)
    killed.kill()
    killed.communicate()
    assert left(tmp_path / "b").step < 30
    finish(start("b"))
    finish(straight)
    assert same_state(left(tmp_path / "a").model(), left(tmp_path / "b").model())
    assert same_state(left(tmp_path / "a").training(), left(tmp_path / "b").training())
    losses = [[e["loss"] for e in logged(tmp_path / x, "train")] for x in "ab"]
    assert losses[0] == losses[1]


def test_resuming_under_other_settings_or_facts_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stop_after(run(line(), tmp_path / "a"), 2).run()
    with pytest.raises(TrainingError, match="--resume"):
        run(line(), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"lr: 0\.05 -> 0\.1"):
        run(line(lr=0.1), tmp_path / "a", resume=True)
    other = line()
    other.facts = {"points": 5}
    with pytest.raises(ConfigError, match=r"points \(64 -> 5\)"):
        run(other, tmp_path / "a", resume=True)
    run(line(keep=1, log_every=3), tmp_path / "a", resume=True).run()


class Poisoned(Line):
    def loss(self, net, batch, step):
        loss = super().loss(net, batch, step)
        assert loss is not None
        return loss * (math.nan if step == 3 else 1)


@pytest.mark.parametrize("writes", [True, False])
def test_nan_stops_with_the_step_and_keeps_good_weights(tmp_path, writes):
    out = tmp_path / "a" if writes else None
    saved = r"; the weights before it are in .*step-00000003" if writes else ""
    with pytest.raises(
        TrainingError, match=rf"nan at step 4 \(images points of 3\){saved}; take a smaller lr"
    ):
        run(Poisoned(line().settings), out).run()
    if writes:
        assert all(torch.isfinite(tensor).all() for tensor in left(tmp_path / "a").model().values())
        assert logged(tmp_path / "a", "diverged")[0]["step"] == 4


def test_accumulation_equals_the_larger_batch():
    whole, pieces = run(line(batch=4)), run(line(batch=1, accumulate=4))
    whole.run()
    pieces.run()
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(pieces.model.state_dict()[key], value, atol=1e-5, rtol=1e-5)


def test_average_is_what_is_examined_and_written(tmp_path):
    trained = run(line(ema=0.5, steps=3), tmp_path / "a")
    seen = []
    work = trained._train_step

    def recorded(*arguments):
        result = work(*arguments)
        seen.append({key: value.clone() for key, value in trained.model.state_dict().items()})
        return result

    trained._train_step = recorded  # pyright: ignore[reportAttributeAccessIssue]
    trained.run()
    expected = seen[0]
    for state in seen[1:]:
        expected = {key: 0.5 * expected[key] + 0.5 * state[key] for key in state}
    written = load_file(tmp_path / "a" / "weights" / "model.safetensors")
    for key, value in expected.items():
        torch.testing.assert_close(written[key], value)
    error = float((written["weight"] - 1).square().sum())
    assert logged(tmp_path / "a", "eval")[-1]["error"] == pytest.approx(error)


def test_best_is_remembered_in_the_checkpoint_not_in_the_log(tmp_path):
    scores = {2: 0.5, 4: 0.1, 6: 0.3, 8: math.nan}

    def course():
        made = line(eval_every=2, checkpoint_every=2)
        made.scores = scores
        return made

    with pytest.raises(KeyboardInterrupt):
        stop_after(run(course(), tmp_path / "a"), 5).run()
    (tmp_path / "a" / "log.jsonl").write_text("")
    summary = run(course(), tmp_path / "a", resume=True).run()
    assert summary["best"] == {"step": 4, "error": 0.1}
    assert json.loads((tmp_path / "a" / "best" / "config.json").read_text())["provenance"]["steps"] == 4
    assert logged(tmp_path / "a", "best") == []
    assert set(summary["held_out"]) == {"line"}
    (tmp_path / "a" / "log.jsonl").write_text("")
    again = run(course(), tmp_path / "a", resume=True).run()
    assert {k: again[k] for k in ("loss", "best", "held_out")} == {
        k: summary[k] for k in ("loss", "best", "held_out")
    }


def test_a_higher_score_may_be_the_better_one():
    course = line(eval_every=2)
    scores = {2: 0.5, 4: 0.9, 6: 0.3, 8: 0.4}
    course.examine = lambda model, step: Examination(score=scores[step], lower_is_better=False)
    assert run(course).run()["best"] == {"step": 4, "score": 0.9}


def test_kept_tensors_and_mean_losses_survive_a_stop(tmp_path):
    def course():
        made = line(eval_every=4)
        made.examine = lambda model, step: Examination(kept=dict(model.state_dict()))
        return made

    with pytest.raises(KeyboardInterrupt):
        stop_after(run(course(), tmp_path / "a"), 6).run()
    resumed = run(course(), tmp_path / "a", resume=True)
    resumed.run()
    losses = [entry["loss"] for entry in logged(tmp_path / "a", "train")]
    assert [one.step for one in resumed.results.examined] == [4, 8]
    assert [one.loss for one in resumed.results.examined] == [sum(losses[:4]) / 4, sum(losses[4:]) / 4]
    first, last = (one.kept["weight"] for one in resumed.results.examined)
    assert torch.equal(last, resumed.model.state_dict()["weight"])
    assert not torch.equal(first, last)


class Gappy(Line):
    def loss(self, net, batch, step):
        return None if step == 1 else super().loss(net, batch, step)


def test_a_step_without_a_loss_moves_the_schedule_alone(tmp_path):
    course = Gappy(line(steps=2, schedule="cosine").settings)
    trained = run(course, tmp_path / "a")
    trained.run()
    once = run(line(steps=2, schedule="cosine"))
    stopped = stop_after(once, 1)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert same_state(dict(trained.model.state_dict()), dict(once.model.state_dict()))
    entries = logged(tmp_path / "a", "train")
    assert [entry["loss"] is None for entry in entries] == [False, True]
    assert entries[1]["lr"] == 0.05 / 2


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    course = line(eval_every=2, preview_every=2)
    course.examine = lambda model, step: Examination(score=1.0, preview=lambda: Image.new("RGB", (2, 2)))
    straight = run(line())
    summary = straight.run()
    quiet = run(course)
    assert quiet.run()["loss"] == summary["loss"]
    assert same_state(dict(straight.model.state_dict()), dict(quiet.model.state_dict()))
    with pytest.raises(KeyboardInterrupt):
        stop_after(run(line()), 3).run()
    assert list(tmp_path.iterdir()) == []


def test_a_failing_preview_stops_nothing(tmp_path):
    def fail():
        raise ValueError("fixed ratio")

    course = line(preview_every=4, eval_every=8)
    course.examine = lambda model, step: Examination(preview=fail)
    run(course, tmp_path / "a").run()
    assert [(e["step"], e["reason"]) for e in logged(tmp_path / "a", "no_preview")] == [
        (4, "fixed ratio"),
        (8, "fixed ratio"),
    ]


def test_one_process_needs_no_accelerate(monkeypatch):
    with_accelerate = run(line())
    with_accelerate.run()
    monkeypatch.setitem(sys.modules, "accelerate", None)
    alone = run(line())
    assert alone.processes.accelerator is None
    alone.run()
    assert same_state(dict(alone.model.state_dict()), dict(with_accelerate.model.state_dict()))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MissingExtraError, match="several processes"):
        processes.start("cpu")
    assert Run(line(), processes=Processes("cpu"), progress=False).run()["processes"] == 1


def test_there_is_no_second_training_loop():
    root = Path(__file__).parent.parent
    files = [
        path
        for folder in ("tasks", "backbones", "naf_hub/training")
        for path in (root / folder).rglob("*.py")
    ]
    loops = [
        path.name
        for path in files
        if "optimizer.step(" in path.read_text() or ".backward(" in path.read_text()
    ]
    assert loops == ["run.py"]


def test_the_course_in_the_docs_learns(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs" / "write-a-plugin.md").read_text()
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "LineCourse" in block
    ]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    errors = [entry["error"] for entry in logged(tmp_path / "run", "eval")]
    assert errors
    assert load_file(tmp_path / "run" / "weights" / "model.safetensors")["weight"].shape == (1, 3)
    losses = [entry["loss"] for entry in logged(tmp_path / "run", "train")]
    assert losses[-1] < losses[0]


def test_draws_of_a_step_follow_from_seed_and_step():
    def draws(seed: int, step: int) -> tuple[float, float, float]:
        seed_step(seed, step)
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    first = draws(3, 7)
    assert all(a != b for a, b in zip(first, draws(3, 8), strict=True))
    assert all(a != b for a, b in zip(first, draws(4, 7), strict=True))
    assert draws(3, 7) == first


def test_an_unwritable_place_fails_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    course = line()
    course.prepare = lambda device, share: pytest.fail("prepared")
    with pytest.raises(OSError, match="file"):
        run(course, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("precision", "able", "told"), [("bf16", False, 1), ("bf16", True, 0), ("fp32", False, 0)]
)
def test_an_emulated_precision_is_told_once(monkeypatch, caplog, precision, able, told):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: able)
    run(line(precision=precision)).run()
    assert sum("without bfloat16 instructions" in record.message for record in caplog.records) == told
