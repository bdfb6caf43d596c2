"""The folder of a run: whose it is, who uses it, what stays in it, and names that every system takes."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_world import line, logged, stop_after

from naf_hub.atomic import _prefix
from naf_hub.image_files import RUN_MARKER, find_images, find_training_images
from naf_hub.training import exclusive
from naf_hub.training.checkpoints import CheckpointError, forget
from naf_hub.training.course import Examination
from naf_hub.training.exclusive import LOCK, Exclusive, InUse
from naf_hub.training.folder import FolderError
from naf_hub.training.run import Run
from naf_hub.weights.lock import Entry, Lock, write_lock
from naf_hub_probing.report import heads_file, save_heads
from naf_hub_reconstruction.cache import CropFeatures
from naf_hub_reconstruction.plan import Item, Sizes


def run(course, out=None, **options):
    return Run(course, out, device="cpu", progress=False, **options)


def interrupted(out: Path, step: int = 2, **changes) -> Path:
    with pytest.raises(KeyboardInterrupt):
        stop_after(run(line(**changes), out), step).run()
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_a_user_keeps_in_the_folder_of_a_run_survives(tmp_path, caplog):
    changes = {"eval_every": 1, "checkpoint_every": 1, "keep": 1}
    out = interrupted(tmp_path / "a", **changes)
    names = ["x", "weights/x", "best/x", "best/sub/x", "checkpoints/x", "checkpoints/step-00000002/x"]
    for name in names:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(name)
    (out / "best" / "README.md").write_text("my card")
    run(line(**changes), out, resume=True).run()
    assert [(out / name).read_text() for name in names] == names
    assert (out / "best" / "README.yours.md").read_text() == "my card"
    assert "README.yours.md" in caplog.text
    assert (out / "best" / "README.md").read_text() == "# A line after 8 steps\n"
    assert [p.name for p in (out / "best").glob("*.yours*")] == ["README.yours.md"]
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-00000002", "step-00000008", "x"]
    forget(out / "checkpoints")
    assert sorted(contents(out / "checkpoints")) == ["step-00000002/x", "x"]


def test_a_card_completed_after_the_end_stays_when_the_run_is_resumed_once_more(tmp_path):
    out = tmp_path / "a"
    run(line(), out).run()
    (out / "weights" / "README.md").write_text("completed")
    run(line(), out, resume=True).run()
    assert (out / "weights" / "README.md").read_text() == "completed"
    assert len(list((out / "weights").iterdir())) == 3


@pytest.mark.parametrize(
    "names", [["photo.png"], ["log.jsonl", "checkpoints/x"], ["weights/model.safetensors"]]
)
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    for resume in (False, True):
        with pytest.raises(FolderError, match=r"is not empty .* give --out a new or an empty folder"):
            run(line(), tmp_path, resume=resume)
    assert contents(tmp_path) == dict.fromkeys(names, b"mine")


def test_a_folder_with_hidden_files_alone_is_empty(tmp_path):
    (tmp_path / ".DS_Store").write_text("x")
    run(line(steps=1), tmp_path).run()


def test_runs_of_earlier_versions_are_recognised(tmp_path):
    out = interrupted(tmp_path / "a", eval_every=1)
    (out / RUN_MARKER).unlink()
    (out / LOCK).unlink()
    before = (out / "best" / "README.md").read_text()
    run(line(eval_every=1), out, resume=True).run()
    assert (out / RUN_MARKER).is_file()
    assert (out / "best" / "README.md").read_text() != before
    assert not list((out / "best").glob("*.yours*")), (
        "what the earlier version wrote was taken for the user's"
    )


def test_a_marker_that_cannot_be_read_is_told(tmp_path):
    out = interrupted(tmp_path / "a")
    (out / RUN_MARKER).write_text("{")
    with pytest.raises(FolderError, match=f"{RUN_MARKER} is damaged"):
        run(line(), out, resume=True)
    (out / RUN_MARKER).write_text(json.dumps({"format": 99, "naf_hub_version": "9.0", "written": {}}))
    with pytest.raises(FolderError, match=r"naf-hub 9\.0; upgrade"):
        run(line(), out, resume=True)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    out = tmp_path / "a"
    first = run(line(), out)
    for resume in (False, True):
        with pytest.raises(FolderError, match=rf"process {os.getpid()} on .* trains in .*a at this moment"):
            run(line(), out, resume=resume)
    first.run()
    run(line(), out, resume=True).run()


def test_a_run_that_could_not_begin_lets_go_of_its_folder(tmp_path):
    course = line()
    course.prepare = lambda device, share: (_ for _ in ()).throw(ValueError("no data"))
    with pytest.raises(ValueError, match="no data"):
        run(course, tmp_path / "a")
    run(line(), tmp_path / "a").run()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only Unix forks")
def test_the_lock_dies_with_its_process_though_a_worker_lives_on(tmp_path):
    code = f"""
import os, signal, sys, time
from pathlib import Path
from naf_hub.training.exclusive import Exclusive
lock = Exclusive(Path({str(tmp_path)!r}))
lock.take()
if os.fork() == 0:
    print(os.getpid(), flush=True)  # behind what Python does in a child
    time.sleep(60)
time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(InUse, match=f"process {holder.pid} on {socket.gethostname()}"):
            Exclusive(tmp_path).take()
        holder.kill()
        holder.wait()
        os.kill(worker, 0)
        Exclusive(tmp_path).take()
    finally:
        os.kill(worker, 9)
        holder.stdout.close()


def test_on_a_disk_without_locks_the_note_keeps_out_this_machine(tmp_path, monkeypatch, caplog):
    def no_locks(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(exclusive, "_lock", no_locks)
    note = {"pid": os.getppid(), "host": socket.gethostname()}
    (tmp_path / LOCK).write_text(json.dumps(note))
    with pytest.raises(InUse, match=f"process {os.getppid()}"):
        Exclusive(tmp_path).take()
    for other in ({**note, "host": "elsewhere"}, {**note, "pid": 2**22 + 1}, {}):
        (tmp_path / LOCK).write_text(json.dumps(other))
        caplog.clear()
        lock = Exclusive(tmp_path)
        lock.take()
        lock.release()
        assert "has no locks" in caplog.text
    assert json.loads((tmp_path / LOCK).read_text()) == {}


@pytest.mark.parametrize("resume", [False, True])
def test_when_every_checkpoint_is_damaged_nothing_is_begun_anew(tmp_path, resume):
    out = interrupted(tmp_path / "a", 4, checkpoint_every=2)
    (out / "checkpoints" / "step-00000002" / "training.pt").write_bytes(b"")
    (out / "checkpoints" / "step-00000004" / "checkpoint.json").unlink()
    before = contents(out)
    with pytest.raises(CheckpointError) as told:
        run(line(checkpoint_every=2), out, resume=resume)
    message = str(told.value)
    assert "\n" not in message
    assert all(
        part in message for part in ("step-00000002", "training.pt", "step-00000004", "another folder")
    )
    assert contents(out) == before


def test_a_log_is_never_emptied(tmp_path):
    out = interrupted(tmp_path / "a")
    before = (out / "log.jsonl").read_text()
    forget(out / "checkpoints")
    run(line(steps=1), out).run()
    assert (out / "log-1.jsonl").read_text() == before
    assert [entry["step"] for entry in logged(out, "train")] == [1]


def test_a_checkpoint_caught_while_it_was_removed_counts_for_none(tmp_path):
    out = interrupted(tmp_path / "a", 4, checkpoint_every=2)
    folder = out / "checkpoints"
    (folder / "step-00000002" / "model.safetensors").unlink()
    (folder / "step-00000002" / "x").write_text("mine")
    (folder / "step-00000002").rename(folder / ".step-00000002.removed")
    resumed = run(line(checkpoint_every=2), out, resume=True)
    assert resumed.step == 4
    assert sorted(contents(folder / "step-00000002")) == ["x"]
    resumed.run()


def test_pictures_of_runs_are_not_trained_on(tmp_path):
    wanted = [tmp_path / "photos" / name for name in ("a.png", "b/c.png")]
    previews = [tmp_path / "photos" / name for name in ("run/previews/d.png", "b/other/previews/e.png")]
    for path in (*wanted, *previews):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "photos" / "b" / "other" / RUN_MARKER).write_text("{}")
    photos, out = tmp_path / "photos", tmp_path / "photos" / "run"
    for given in ([photos], [f"{photos}/**/*.png"], [*wanted, previews[0]]):
        assert find_training_images(given, out) == wanted
    assert find_images([f"{photos}/**/*.png"], without=[out]) == wanted
    assert find_images([previews[1].parent]) == [previews[1]], "asked for outright"
    with pytest.raises(FileNotFoundError, match="all images lie in"):
        find_training_images([previews[0]], out)


def test_heads_replace_heads_and_nothing_else(tmp_path):
    head = torch.zeros(2, 3), torch.zeros(2)
    save_heads(tmp_path, "naf=runs/a:b", head, head)
    save_heads(tmp_path, "naf=runs/a:b", head, head)
    assert [p.name for p in tmp_path.iterdir()] == ["naf-runs-a-b.safetensors"]
    (tmp_path / "naf.safetensors").write_bytes(b"weights of the user")
    with pytest.raises(FileExistsError, match="holds no heads"):
        heads_file(tmp_path, "naf")


def test_what_a_killed_run_left_half_written_goes_when_the_folder_is_opened(tmp_path):
    out = interrupted(tmp_path / "a", eval_every=1)
    best = contents(out / "best")
    dead = 2**22 + 1  # above every process number
    for name in ("best", "weights"):
        half = out / f"{_prefix(out / name)}{dead}-half"
        half.mkdir()
        (half / "model.safetensors").write_bytes(b"half")
    aside = out / f"{_prefix(out / 'best')}{dead}-aside"
    aside.mkdir()
    (out / "best").rename(aside / "old")  # killed between the two renames of a replacement
    run(line(eval_every=1), out, resume=True)._close_folder()
    assert not list(out.glob(".best.*"))
    assert not list(out.glob(".weights.*"))
    assert contents(out / "best") == best


RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def test_what_a_run_writes_opens_on_windows(tmp_path, monkeypatch):
    """Names that are valid there, and no flush of a file that is open for reading alone, which fails there."""
    fcntl = pytest.importorskip("fcntl")
    synced: list[bool] = []
    sync = os.fsync

    def watched(descriptor):
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            synced.append(flags & os.O_ACCMODE != os.O_RDONLY)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    seen: set[str] = set()
    replace, rename = os.replace, os.rename
    for name, real in (("replace", replace), ("rename", rename)):
        # Also the names that files have only for a while.
        monkeypatch.setattr(
            os, name, lambda a, b, real=real: (seen.update(map(os.fspath, (a, b))), real(a, b))[1]
        )
    course = line(eval_every=2, preview_every=2, checkpoint_every=1)
    course.examine = lambda model, step: Examination(score=-step, preview=lambda: Image.new("RGB", (2, 2)))
    run(course, tmp_path / "run", tensorboard=True).run()
    save_heads(tmp_path / "heads", "naf=hf://a/b@main: <c>|?*", *[(torch.zeros(2, 3), torch.zeros(2))] * 2)
    (tmp_path / "a.png").write_bytes(b"x")
    cache, item = CropFeatures(tmp_path / "cache", {"a": 1}), Item(0, 0, Sizes(64, 32, 16, 8, False, 0))
    cache.store(tmp_path / "a.png", item, {}, {32: {}})
    write_lock(Lock(tmp_path / "pins", {"hf://a/b": Entry("hf://a/b", "c", {"model.safetensors": (1, "d")})}))
    assert synced
    assert all(synced)
    seen.update(str(path) for path in tmp_path.rglob("*"))
    parts = {part for path in seen for part in Path(path).relative_to(tmp_path).parts}
    assert {"run", LOCK, RUN_MARKER, "step-00000008.png", "heads", "cache", "pins"} <= parts
    assert any(part.startswith(".step-") for part in parts)
    bad = [p for p in parts if re.search(r'[<>:"|?*\\\x00-\x1f]|[. ]$', p) or RESERVED.fullmatch(p)]
    assert not bad
