"""Training learns, resumes to the bit, and stops as it should."""

from __future__ import annotations

import json
import math
import signal

import pytest
import torch
from reconstruction_world import BACKBONE, draw_picture, draw_pictures, prepare_run, same_state, settings
from safetensors.torch import load_file
from training_world import stop_after

import naf_hub
from naf_hub.training import checkpoints
from naf_hub.training.checkpoints import CheckpointError, newest
from naf_hub.training.run import TrainingError
from naf_hub.training.schedule import rate_factor
from naf_hub.training.settings import ConfigError, build
from naf_hub_reconstruction.config import TrainConfig
from naf_hub_reconstruction.course import ReconstructionCourse


@pytest.fixture
def pictures(tmp_path, install_plugin):
    install_plugin("tiny-plugin", BACKBONE)
    return draw_pictures(tmp_path / "pictures", 5)


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out):
    return [(line["step"], line["loss"], line["lr"]) for line in log(out) if line["event"] == "train"]


def test_overfitting_one_image_halves_the_loss(pictures, tmp_path):
    one = draw_picture(tmp_path / "one" / "a.png", 7)
    prepare_run(one, tmp_path / "run", steps=60, views=1, batch=1, lr=1e-2).run()
    values = [loss for _, loss, _ in losses(tmp_path / "run")]
    assert sum(values[-5:]) / 5 <= 0.5 * values[0]


def test_fine_outputs_are_averaged_to_the_target(pictures, tmp_path, monkeypatch):
    run = prepare_run(
        pictures, None, guidance=(4.0,), guidance_max=0, fine_output=1.0, steps=1, windows=(4, 4)
    )
    asked = []

    class Flat(torch.nn.Module):
        def forward(self, guidance, features, size):
            asked.append((guidance.shape[-1], size))
            return torch.zeros(len(guidance), 8, *size)

    (batch,) = run.course.batches(0, 1, run.processes.share)
    loss = run.course.loss(Flat(), batch, 0)
    target = run.course.by_place[0].batch(batch.content).target
    assert asked == [(16, (16, 16))]
    assert torch.allclose(loss, target.square().mean())


def test_trained_on_edges_it_beats_bilinear_on_others(pictures, tmp_path):
    held_out = draw_pictures(tmp_path / "others", 8, seed=5)
    training = draw_pictures(tmp_path / "many", 24, seed=1)
    summary = prepare_run(
        training,
        tmp_path / "run",
        steps=150,
        lr=1e-2,
        schedule="one_cycle",
        held_out=[str(held_out)],
        log_every=50,
    ).run()
    held_out = summary["held_out"]["tiny_backbone"]
    assert held_out["ratio_to_bilinear"] <= 0.9
    assert held_out["images"] == 8


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_interrupted_and_resumed_equals_straight(pictures, tmp_path, workers, schedule):
    changes = {"steps": 6, "schedule": schedule, "workers": workers}
    straight = prepare_run(pictures, tmp_path / "a", **changes)
    straight.run()
    with pytest.raises(KeyboardInterrupt):
        stop_after(prepare_run(pictures, tmp_path / "b", **changes), 3).run()
    assert newest(tmp_path / "b" / "checkpoints").step == 3
    resumed = prepare_run(pictures, tmp_path / "b", resume=True, **changes)
    resumed.run()
    one, other = (newest(tmp_path / run / "checkpoints") for run in "ab")
    assert one.step == other.step == 6
    assert same_state(one.model(), other.model())
    assert same_state(one.training(), other.training())
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    weights = [load_file(tmp_path / run / "weights" / "model.safetensors") for run in "ab"]
    assert same_state(*weights)


def test_rope_rescale_is_drawn_every_step_and_restored(pictures, tmp_path):
    """Without the random state in the checkpoint, the resumed run would draw other factors."""
    run = prepare_run(pictures, tmp_path / "a", steps=2)
    samples = next(iter(run.course.load_crops(0, 2)))
    guidance, small, target = run.course.teachers["tiny_backbone"].batch(samples)
    with torch.no_grad():
        first, second = (run.model(guidance, small, target.shape[-2:]) for _ in range(2))
    assert not torch.equal(first, second)


def test_resuming_with_other_settings_is_refused_with_the_difference(pictures, tmp_path):
    prepare_run(pictures, tmp_path / "a", steps=2).run()
    with pytest.raises(ConfigError, match=r"lr: 0\.002 -> 0\.01"):
        prepare_run(pictures, tmp_path / "a", steps=2, lr=0.01, resume=True)
    draw_picture(pictures / "new.png", 99)
    with pytest.raises(ConfigError, match=r"images \(5 -> 6 files\)"):
        prepare_run(pictures, tmp_path / "a", steps=2, resume=True)


def test_settings_that_change_no_number_may_change(pictures, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stop_after(prepare_run(pictures, tmp_path / "a", steps=4), 2).run()
    summary = prepare_run(pictures, tmp_path / "a", steps=4, keep=1, log_every=3, resume=True).run()
    assert summary["steps"] == 4
    assert len(list((tmp_path / "a" / "checkpoints").iterdir())) == 1


def test_a_folder_with_a_run_is_not_overwritten(pictures, tmp_path):
    prepare_run(pictures, tmp_path / "a", steps=1).run()
    with pytest.raises(TrainingError, match="--resume"):
        prepare_run(pictures, tmp_path / "a", steps=1)


def test_resume_of_a_finished_run_only_writes_the_weights(pictures, tmp_path):
    prepare_run(pictures, tmp_path / "a", steps=2).run()
    again = prepare_run(pictures, tmp_path / "a", steps=2, resume=True).run()
    assert again["steps"] == 2
    assert again["loss"] == losses(tmp_path / "a")[-1][1]


def test_log_after_the_checkpoint_is_dropped_on_resume(pictures, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stop_after(prepare_run(pictures, tmp_path / "a", steps=6), 3).run()
    with open(tmp_path / "a" / "log.jsonl", "a") as file:
        file.write('{"event": "train", "step": 4, "loss": 123.0, "lr": 1}\n{"event": "tra')
    prepare_run(pictures, tmp_path / "a", steps=6, resume=True).run()
    assert [step for step, _, _ in losses(tmp_path / "a")] == [1, 2, 3, 4, 5, 6]
    assert 123.0 not in [loss for _, loss, _ in losses(tmp_path / "a")]


def test_a_run_inside_the_images_does_not_train_on_its_previews(pictures, tmp_path):
    changes = {"steps": 3, "preview_every": 1}
    with pytest.raises(KeyboardInterrupt):
        stop_after(prepare_run(pictures, pictures / "run", **changes), 2).run()
    assert len(list((pictures / "run").rglob("*.png"))) == 2
    run = prepare_run(pictures, pictures / "run", resume=True, **changes)
    assert len(run.course.files) == 5
    # A pattern of the shell names them outright.
    given = settings(pictures) | {"images": [str(path) for path in sorted(pictures.rglob("*.png"))]}
    assert len(given["images"]) == 7
    course = ReconstructionCourse(build(TrainConfig, given), out=pictures / "run")
    course.prepare(run.device, run.processes.share)
    assert len(course.files) == 5


def test_sigterm_saves_and_exits_143(pictures, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        stop_after(prepare_run(pictures, tmp_path / "a", steps=6), 2, signal.SIGTERM).run()
    assert stopped.value.code == 143
    assert newest(tmp_path / "a" / "checkpoints").step == 2


def test_second_signal_leaves_at_once(pictures, tmp_path):
    run = prepare_run(pictures, tmp_path / "a", steps=6)
    work = run._train_step

    def twice(*arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return work(*arguments)

    run._train_step = twice
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert newest(tmp_path / "a" / "checkpoints") is None


def test_nan_stops_with_the_step_and_keeps_good_weights(pictures, tmp_path):
    run = prepare_run(pictures, tmp_path / "a", steps=9)
    batch = run.course.teachers["tiny_backbone"].batch

    def poisoned(samples):
        found = batch(samples)
        return found._replace(target=found.target * (math.nan if run.step == 3 else 1))

    run.course.teachers["tiny_backbone"].batch = poisoned
    with pytest.raises(TrainingError, match=r"nan at step 4 \(images .*png.*step-00000003"):
        run.run()
    kept = newest(tmp_path / "a" / "checkpoints")
    assert kept.step == 3
    assert all(torch.isfinite(tensor).all() for tensor in kept.model().values())
    naf_hub.load("naf", weights=kept.folder, dim=32, num_blocks=1, kernel_size=3)


def test_exploding_gradient_stops_before_the_weights_take_it(pictures, tmp_path):
    run = prepare_run(pictures, tmp_path / "a", steps=9)
    next(run.model.parameters()).register_hook(lambda grad: grad * (math.inf if run.step == 2 else 1))
    with pytest.raises(TrainingError, match="gradient is not finite at step 3"):
        run.run()
    kept = newest(tmp_path / "a" / "checkpoints")
    assert all(torch.isfinite(tensor).all() for tensor in kept.model().values())


def test_full_disk_keeps_the_old_checkpoint(pictures, tmp_path, monkeypatch):
    run = prepare_run(pictures, tmp_path / "a", steps=4, checkpoint_every=2, keep=1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    work = run._train_step

    def step(*arguments):
        if run.step == 3:
            monkeypatch.setattr(checkpoints.torch, "save", full)
        return work(*arguments)

    run._train_step = step
    with pytest.raises(CheckpointError, match=r"No space left.*newest is still .*step-00000002"):
        run.run()
    assert newest(tmp_path / "a" / "checkpoints").step == 2
    assert [p.name for p in (tmp_path / "a" / "checkpoints").iterdir()] == ["step-00000002"]


def test_broken_image_is_skipped_counted_and_named(pictures, tmp_path, caplog):
    (pictures / "002.png").write_bytes(b"no picture")
    summary = prepare_run(pictures, tmp_path / "a", steps=6).run()
    assert summary["skipped"] == [str(pictures / "002.png")]
    named = [line for line in log(tmp_path / "a") if line["event"] == "skipped"]
    assert [line["path"] for line in named] == [str(pictures / "002.png")]
    assert sum("002.png" in record.getMessage() for record in caplog.records) == 1


def test_held_out_images_must_not_be_trained_on(pictures, tmp_path):
    with pytest.raises(ConfigError, match="also trained on"):
        prepare_run(pictures, tmp_path / "a", steps=1, held_out=[str(pictures / "001.png")])


def test_held_out_error_is_logged(pictures, tmp_path):
    others = draw_pictures(tmp_path / "others", 3, seed=5)
    prepare_run(pictures, tmp_path / "a", steps=4, eval_every=2, eval_images=2, held_out=[str(others)]).run()
    lines = [line for line in log(tmp_path / "a") if line["event"] == "eval"]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(line["images"] == 2 for line in lines)
    assert all(
        line["ratio_to_bilinear"] == pytest.approx(line["mse"] / line["bilinear_mse"]) for line in lines
    )


def test_evaluating_does_not_change_the_training(pictures, tmp_path):
    others = draw_pictures(tmp_path / "others", 2, seed=5)
    one, other = prepare_run(pictures, tmp_path / "a", steps=3), prepare_run(
        pictures, tmp_path / "b", steps=3, eval_every=1, held_out=[str(others)]
    )  # fmt: skip
    one.run()
    other.run()
    assert same_state(one.model.state_dict(), other.model.state_dict())


def test_output_is_loadable_and_says_how_it_was_made(pictures, tmp_path):
    run = prepare_run(pictures, tmp_path / "a", steps=2)
    folder = run.run()["weights"]
    loaded = naf_hub.load("naf", weights=folder)  # options come with the weights
    assert same_state(dict(loaded.state_dict()), dict(run.model.state_dict()))
    config = json.loads((tmp_path / "a" / "weights" / "config.json").read_text())
    assert config["provenance"]["config"]["backbone"] == ["tiny_backbone"]
    assert config["provenance"]["steps"] == 2
    card = (tmp_path / "a" / "weights" / "README.md").read_text()
    assert "tiny_backbone" in card
    assert "lr = 0.002" in card


def test_training_starts_from_given_weights(pictures, tmp_path):
    first = prepare_run(pictures, tmp_path / "a", steps=2)
    first.run()
    second = prepare_run(pictures, tmp_path / "b", steps=2, init=str(tmp_path / "a" / "weights"))
    assert same_state(dict(first.model.state_dict()), dict(second.model.state_dict()))


def test_untrainable_upsampler_is_refused_with_the_others_named(pictures, tmp_path):
    with pytest.raises(ConfigError, match=r"bilinear cannot be trained; these can: .*naf"):
        prepare_run(pictures, tmp_path / "a", upsampler="bilinear", upsampler_options={})


def test_an_unwritable_place_fails_before_any_work(pictures, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        "naf_hub_reconstruction.course.find_training_images", lambda *_: pytest.fail("looked for images")
    )
    with pytest.raises(OSError, match="file"):
        prepare_run(pictures, tmp_path / "file" / "run")


def test_schedule():
    config = build(TrainConfig, {"steps": 100, "schedule": "one_cycle", "warmup": 0.1})
    factors = [rate_factor(config, step) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 25)
    assert factors[10] == pytest.approx(1, abs=1e-4)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 1e-3
    assert rate_factor(build(TrainConfig, {}), 77) == 1


def test_constant_is_the_published_rate(pictures, tmp_path):
    prepare_run(pictures, tmp_path / "a", steps=3, schedule="constant", lr=2e-4).run()
    assert [rate for _, _, rate in losses(tmp_path / "a")] == [2e-4] * 3
