"""Shell blocks of the docs run: each command of naf-hub as printed, on less; the rest is named here with the reason."""

from __future__ import annotations

import gc
import glob
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from docs_blocks import PAGES, READMES, Block, blocks, shell_lines, words_of
from docs_world import install_from_docs, make_world

from naf_hub.commands.main import cli

# Added to each call of a command; of an option given twice the last counts. The same job on less.
SMALLER = {
    "upsample": ["--size", "32"],
    "extract": ["--size", "32"],
    "compare": ["--size", "32"],
    "attention": ["--size", "32", "--view", "window"],
    "bench": ["--features", "8,2,2", "--size", "8", "--repeats", "1", "--no-floor", "--threads", "1"],
    "publish": ["--dry-run"],
    "train reconstruction": ["--set=steps=1", "--set=crop=32", "--set=resize=0", "--set=min_side=0", "--set=batch=1"],
    "train denoising": ["--set=steps=1", "--set=crop=16", "--set=resize=0", "--set=batch=1"],
    "eval reconstruction": ["--crop", "32"],
    "eval homography": ["--size", "32", "--output-size", "8"],
    "eval segmentation": ["--size", "32x48", "--epochs", "1"],
    "eval depth": ["--size", "32x48", "--epochs", "1"],
    "eval denoising": ["--crop", "16", "--resize", "0"],
}  # fmt: skip

PIP = "the wheel is built and installed by .ci/run"
FETCHES = "weights from the Hub, or of other trainings"
HOURS = "whole data sets, minutes to hours"
GPU = "a GPU"
SECONDS = "ten seconds and more even at the least; tests/test_export.py and tests/test_efficiency.py do it in pieces"
PROCESSES = "several processes; tests/test_reconstruction_processes.py starts them"
# What is not run, by page and by how the line begins, and what it would need. "": on every page, or every line.
NOT_RUN = {
    "": {"pip install ": PIP},
    "add-a-learned-upsampler": {
        "naf-hub new-plugin ": "the page's plugin is installed here; tests/test_new_plugin.py writes it"
    },
    "add-a-task": {"naf-hub eval flatness ": "its command, which tests/test_docs.py runs"},
    "app": {"naf-hub app": "a server; tests/test_app.py starts it"},
    "correspondence": {"naf-hub eval correspondence ": FETCHES, "naf-hub eval geometric ": FETCHES},
    "denoise": {
        "naf-hub eval denoising --restorer naf_denoiser --": HOURS,
        "naf-hub eval denoising --restorer naf_denoiser=salt_and_pepper_0_0.5 ": HOURS,
        "naf-hub eval denoising --restorer naf_denoiser=full/best ": HOURS,
        "naf-hub train denoising imagenet": HOURS,
    },
    "board": {"OMP_NUM_THREADS=1 naf-hub leaderboard results ": HOURS},
    "depth": {
        "naf-hub eval depth --upsampler nearest ": HOURS,
        "OMP_NUM_THREADS=1 naf-hub leaderboard results ": HOURS,
    },
    "devices": {
        "naf-hub upsample photo.jpg -o out/ --device cuda:1": GPU,
        "naf-hub upsample photo.jpg -o out/ --device mps": GPU,
    },
    "export": {"naf-hub export ": SECONDS},
    "extract": {"accelerate launch ": PROCESSES},
    "gallery": {"naf-hub compare ": FETCHES},
    "growth": {"": HOURS},
    "leaderboard": {"": HOURS},
    "naf": {"naf-hub export ": SECONDS},
    "open-vocabulary": {"naf-hub ": FETCHES},
    "reproduce": {
        "scripts/train-naf-full.sh ": "days on GPUs; tests/test_full_recipe_script.py runs it on less"
    },
    "results": {"": HOURS},
    "speed": {
        "naf-hub bench naf --onnx ": SECONDS,
        "naf-hub bench naf --largest-ratio ": SECONDS,
        "naf-hub bench naf anyup jafar ": GPU,
        "naf-hub bench naf --device cuda ": GPU,
        "export MALLOC_MMAP_THRESHOLD_=": "a setting of the process; tests/test_kept_memory.py does the same",
    },
    "train": {
        "accelerate launch ": PROCESSES,
        "torchrun ": PROCESSES,
        "#SBATCH ": "Slurm",
        "srun ": "Slurm",
        "[ $? ": "Slurm",
        "naf-hub train reconstruction --recipe NAME ": "a name for NAME",
        "naf-hub train reconstruction --recipe naf-cpu --backbone pico --backbone timm:resnet18": FETCHES,
    },
    "training-notes": {"": HOURS},
    "video": {"naf-hub eval video ": FETCHES},
    "views": {"naf-hub compare chelsea.png -o upsamplers.jpg ": FETCHES},
    "weights": {
        "naf-hub convert ": "checkpoints of others; tests/test_foreign_weights.py makes some",
        "naf-hub pin ": FETCHES,
        "export NAF_HUB_LOCK=": "no command; tests/test_lock.py sets it",
    },
}
# Pages whose commands stand for one another: each begins anew.
CHOICES = {"extract", "devices"}
# Pages that write a plugin, and use it.
PLUGINS = {
    "write-a-plugin": ("naf_hub_example", "example"),
    "add-a-learned-upsampler": ("naf_hub_mine", "mine"),
}


def reasons(page: Path, line: str) -> list[tuple[str, str]]:
    """The entries of NOT_RUN that a line falls under."""
    return [(p, s) for p in ("", page.stem) for s in NOT_RUN.get(p, {}) if line.startswith(s)]


def run(block: Block, line: str) -> None:
    words = words_of(line)
    assert words, f"{block}: {line}: neither a command of naf-hub nor named in NOT_RUN"
    command = " ".join(words[:2]) if words[0] in ("train", "eval") else words[0]
    files = [part for word in words for part in (sorted(glob.glob(word)) if "*" in word else [word])]
    result = CliRunner().invoke(cli, [*files, *SMALLER.get(command, [])])
    assert result.exit_code == 0, f"{block}: {line}: {result.output}"


@pytest.fixture(autouse=True)
def few_objects() -> Iterator[None]:
    """`bench` collects garbage before each row, a fifth of a second where as much is imported as here."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=lambda page: page.stem)
def test_commands_of_the_docs_run(
    page: Path, install_plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = [(block, line) for block in blocks(page, "sh") for line in shell_lines(block)]
    to_run = [(block, line) for block, line in found if not reasons(page, line)]
    if to_run and page.stem in PLUGINS:
        install_from_docs(install_plugin, tmp_path, *PLUGINS[page.stem], page.name)
    for number, (block, line) in enumerate(to_run):
        if number == 0 or page.stem in CHOICES:
            folder = tmp_path / f"world{number}"
            folder.mkdir()
            monkeypatch.chdir(folder)
            make_world(page)
        run(block, line)


def test_what_is_not_run_is_on_its_page():
    used = {
        entry
        for page in PAGES
        for block in blocks(page, "sh")
        for line in shell_lines(block)
        for entry in reasons(page, line)
    }
    assert {(page, start) for page, lines in NOT_RUN.items() for start in lines} == used


def test_a_block_says_what_it_holds():
    """One without a language would be neither run nor coloured."""
    for page in (*PAGES, *READMES):
        for block in blocks(page):
            assert block.language in ("sh", "python", "text", "toml", "bibtex"), block
            assert block.language == "sh" or not re.search(r"^naf-hub ", block.code, re.MULTILINE), block


def test_a_new_command_is_run_or_must_be_named():
    block = Block(Path("new.md"), 1, "sh", "")
    with pytest.raises(AssertionError, match=r"new\.md:1: curl x: neither a command"):
        run(block, "curl x")
    with pytest.raises(AssertionError, match="No such option"):
        run(block, "naf-hub list --kinds task")
