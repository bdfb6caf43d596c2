"""Whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from naf_hub.atomic import atomic_file, atomic_folder
from naf_hub.safetensors_saving import save_tensors


def test_file_replaces_only_on_success(tmp_path: Path):
    target = tmp_path / "new" / "a.txt"
    with atomic_file(target) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("two, in part")
        raise RuntimeError
    assert target.read_text() == "one"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_file_is_as_readable_as_any_other(tmp_path: Path):
    (tmp_path / "plain").write_text("x")
    with atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folder_replaces_only_on_success(tmp_path: Path):
    target = tmp_path / "run"
    for text in ("one", "two"):
        with atomic_folder(target) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "a.txt").write_text(text)
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "a.txt").write_text("three, in part")
        raise RuntimeError
    assert (target / "sub" / "a.txt").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path):
    target = tmp_path / "a.bin"
    code = textwrap.dedent(
        f"""
        from naf_hub.atomic import atomic_file
        i = 0
        while True:
            i += 1
            with atomic_file({str(target)!r}) as temporary, temporary.open("wb") as file:
                for _ in range(64):
                    file.write(bytes([i % 256]) * 4096)
            print(i, flush=True)
        """
    )
    for delay in (0.0, 0.003, 0.011, 0.02, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        data = target.read_bytes()
        assert len(data) == 64 * 4096
        assert len(set(data)) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_the_umask_is_respected_everywhere(tmp_path: Path):
    from naf_hub.weights import save_weights

    before = os.umask(0o077)
    try:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("x")
        save_weights(tmp_path / "w", {"a": torch.zeros(2)}, name="naf", card="x")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path, *tmp_path.rglob("*"))}
    assert modes["a"] == modes["model.safetensors"] == modes["config.json"] == modes["README.md"] == 0o600
    assert modes["w"] == 0o700


@pytest.mark.parametrize("writer", [atomic_file, atomic_folder])
def test_a_place_that_cannot_be_written_is_named_as_the_user_named_it(tmp_path: Path, monkeypatch, writer):
    def refuse(*_: object, dir: Path, prefix: str, **__: object) -> None:
        raise PermissionError(13, "Permission denied", f"{dir}/{prefix}x")

    for name in ("mkstemp", "mkdtemp"):
        monkeypatch.setattr(f"naf_hub.atomic.tempfile.{name}", refuse)
    with pytest.raises(PermissionError) as told, writer(tmp_path / "mine"):
        pass
    assert str(told.value) == f"[Errno 13] Permission denied: '{tmp_path / 'mine'}'"


@pytest.mark.parametrize("name", ["n" * 240 + ".txt", "\N{GRINNING FACE}" * 60, "a.b.c"])
def test_any_name_the_system_takes_can_be_written(tmp_path: Path, name: str):
    with atomic_file(tmp_path / name) as temporary:
        temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path):
    code = textwrap.dedent(
        f"""
        import os
        from naf_hub.atomic import atomic_file, atomic_folder
        with atomic_file({str(tmp_path / "a.txt")!r}), atomic_folder({str(tmp_path / "w")!r}):
            with atomic_file({str(tmp_path / "b.safetensors")!r}, apart=True) as temporary:
                (temporary.parent / ".tmpSNTKqc").write_text("half, as safetensors calls it")
                os.kill(os.getpid(), 9)
        """
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / ".a.txt.mine").write_text("a hidden file of the user's")
    with atomic_file(tmp_path / "a.txt"), atomic_file(tmp_path / "a.txt"):
        assert len(list(tmp_path.glob(".a.txt.*-*"))) == 2, "what a living process writes must stay"
    with atomic_folder(tmp_path / "w"):
        pass
    save_tensors(tmp_path / "b.safetensors", {"a": torch.zeros(2)}, {"made": "here"})
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.txt.mine", "a.txt", "b.safetensors", "w"]
    assert (tmp_path / "b.safetensors").stat().st_mode == (tmp_path / "a.txt").stat().st_mode


def test_safetensors_are_written_apart(tmp_path: Path, monkeypatch):
    """What safetensors writes beside the path it is given could not be told from a user's file."""
    beside = []

    def save(_: object, path: Path, __: object) -> None:
        (path.parent / ".tmpSNTKqc").touch()
        beside.extend(entry.is_dir() for entry in tmp_path.iterdir())
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", save)
    with pytest.raises(OSError, match=r"cannot write .*b\.safetensors: I/O error: No space left"):
        save_tensors(tmp_path / "b.safetensors", {})
    assert beside == [True]
    assert not list(tmp_path.iterdir())
