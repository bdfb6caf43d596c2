"""What a continued run may change: more steps on request, pictures on request."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from reconstruction_world import same_state
from training_world import line, logged, stop_after

from naf_hub.commands.main import cli
from naf_hub.training.checkpoints import newest
from naf_hub.training.facts import changed_files, compare_facts, describe_files
from naf_hub.training.run import Run, TrainingError
from naf_hub.training.schedule import rate_factor
from naf_hub.training.settings import ConfigError


def run(course, out, **options):
    return Run(course, out, device="cpu", progress=False, **options)


def course(steps: int, **changes):
    made = line(steps=steps, schedule="one_cycle", eval_every=2, ema=0.5, **changes)
    made.dropout = 0.5
    return made


def steps_of(out: Path) -> list[tuple[int, float, float]]:
    return [(entry["step"], entry["loss"], entry["lr"]) for entry in logged(out, "train")]


def test_more_steps_are_refused_with_the_two_ways_to_go_on(tmp_path):
    run(course(4), tmp_path / "a").run()
    with pytest.raises(ConfigError, match=r"steps: 4 -> 8; .*--extend goes on from step 4 .*init=.*weights"):
        run(course(8), tmp_path / "a", resume=True)
    with pytest.raises(ConfigError) as told:
        run(course(8, lr=0.1), tmp_path / "a", resume=True)
    assert "lr: 0.05 -> 0.1" in str(told.value)
    with pytest.raises(ConfigError) as told:
        run(course(2), tmp_path / "a", extend=True)
    assert "steps: 4 -> 2" in str(told.value)
    assert "--extend" not in str(told.value)
    with pytest.raises(TrainingError, match="no checkpoint that --extend"):
        run(course(8), tmp_path / "b", extend=True)


def test_an_extended_run_keeps_its_steps_and_then_has_the_rates_of_the_longer_one(tmp_path):
    for out in (tmp_path / "a", tmp_path / "b"):
        run(course(4), out).run()
    first = steps_of(tmp_path / "a")
    summary = run(course(8), tmp_path / "a", extend=True).run()
    assert summary["steps"] == 8
    assert summary["extended"] == [{"step": 4, "steps_before": 4, "steps": 8}]
    after = steps_of(tmp_path / "a")
    assert after[:4] == first
    longer = course(8).settings
    assert [rate for _, _, rate in after[4:]] == [
        longer.lr * rate_factor(longer, step) for step in range(4, 8)
    ]
    # The same command, interrupted and given again, goes on, and to the same weights.
    with pytest.raises(KeyboardInterrupt):
        stop_after(run(course(8), tmp_path / "b", extend=True), 6).run()
    again = run(course(8), tmp_path / "b", extend=True).run()
    assert again["extended"] == summary["extended"]
    assert steps_of(tmp_path / "b") == after
    one, other = (newest(tmp_path / name / "checkpoints") for name in "ab")
    assert one is not None
    assert other is not None
    assert same_state(one.model(), other.model())
    assert same_state(one.training(), other.training())


def test_extended_while_rates_do_not_depend_on_the_number_of_steps_it_is_the_longer_run(tmp_path):
    run(line(steps=4), tmp_path / "a").run()
    run(line(steps=8), tmp_path / "a", extend=True).run()
    run(line(steps=8), tmp_path / "b").run()
    one, other = (newest(tmp_path / name / "checkpoints") for name in "ab")
    assert one is not None
    assert other is not None
    assert same_state(one.model(), other.model())
    assert steps_of(tmp_path / "a") == steps_of(tmp_path / "b")


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path in paths:
        path.write_bytes(b"12345")
        os.utime(path, ns=(10**18, 10**18))
    return paths


def replace_content(path: Path) -> None:
    path.write_bytes(b"1234567")
    os.utime(path, ns=(10**18, 10**18))


def replace_in_the_same_size(path: Path) -> None:
    path.write_bytes(b"54321")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (replace_content, r"list of images: 3 files of the same names.*\(15 -> 17 bytes\)"),
        (replace_in_the_same_size, r"\(newest now .*b\.png of 20"),
        (Path.unlink, r"15 -> 10 bytes"),
    ],
)
def test_pictures_replaced_under_their_names_are_told(tmp_path, pictures, change, told):
    def made():
        found = line()
        found.facts = {"list of images": describe_files(pictures)}
        return found

    with pytest.raises(KeyboardInterrupt):
        stop_after(run(made(), tmp_path / "run"), 2).run()
    run(made(), tmp_path / "run", resume=True)
    change(pictures[1])
    with pytest.raises(ConfigError, match=told) as refused:
        run(made(), tmp_path / "run", resume=True)
    assert "\n" not in str(refused.value)
    assert "--allow-changed-images" in str(refused.value)
    run(made(), tmp_path / "run", resume=True, allow_changed_images=True).run()
    (entry,) = logged(tmp_path / "run", "changed_images")
    assert entry["step"] == 2
    run(made(), tmp_path / "run", resume=True).run()


def test_other_names_and_checkpoints_of_earlier_versions(pictures):
    found = {"list": describe_files(pictures), "other": {"a": "1"}}
    names = {"list": {key: found["list"][key] for key in ("files", "sha256")}, "other": {"a": "1"}}
    assert compare_facts(names, found) == changed_files(names, found) == []
    fewer = {**found, "list": describe_files(pictures[:2])}
    assert compare_facts(found, fewer) == ["list (3 -> 2 files)"]
    assert changed_files(found, fewer) == []
    assert compare_facts(found, {**found, "other": {"a": "2"}}) == ["other"]


@pytest.mark.parametrize("task", ["reconstruction", "denoising"])
def test_the_command_hands_its_options_on(tmp_path, monkeypatch, task):
    seen = {}

    class Recorded:
        main = False

        def __init__(self, course, out, **options):
            seen.update(options, out=out)

        def run(self):
            return {}

    monkeypatch.setattr("naf_hub.training.run.Run", Recorded)
    arguments = ["train", task, "--images", str(tmp_path), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(cli, [*arguments, "--extend", "--allow-changed-images", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert seen["out"] == str(tmp_path / "run")
    assert seen["extend"]
    assert seen["allow_changed_images"]
    assert not seen["resume"]
