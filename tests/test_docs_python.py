"""Python blocks of the docs run as printed, page by page, or are named here with the reason."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from docs_blocks import PAGES, blocks
from docs_world import make_world

import naf_hub
from naf_hub.commands.main import cli

FETCHES = "weights from the Hub"
PLUGIN = "a plugin, or parts of one; tests/test_docs.py installs and checks those that are whole"
# What is not run, by page and by how the block begins, and why. "" is every block.
NOT_RUN = {
    "add-a-learned-upsampler": {"": PLUGIN},
    "add-a-task": {"": PLUGIN},
    "boundaries": {"import numpy": "the MATLAB files of BSDS500"},
    "export": {"import numpy": "ten seconds of export; tests/test_export.py runs such a file"},
    "migrate": {"": "tests/test_migration_page.py runs them"},
    "naf": {
        'import naf_hub\n\nnaf_hub.load("naf")  # the weights trained here': FETCHES,
        "import torch\nimport naf_hub\nfrom naf_hub.streaming": "gigabytes; tests/test_rows.py does it on less",
    },
    "open-vocabulary": {"import naf_hub\nfrom naf_hub.images": FETCHES},
    "train": {'upsampler = naf_hub.load("naf", weights="hf://': FETCHES},
    "weights": {"": FETCHES},
    "write-a-plugin": {"": PLUGIN},
}


class Patches(torch.nn.Module):
    """What torch.hub and transformers would fetch: tokens of patches of 14 pixels, under the names they give."""

    def forward_features(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x_norm_patchtokens": torch.nn.functional.avg_pool2d(image, 14).flatten(2).transpose(1, 2)}

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.forward_features(image)["x_norm_patchtokens"]
        return {"last_hidden_state": torch.cat([tokens[:, :1], tokens], dim=1)}


def run_commands_before(page: str) -> None:
    """What a command on a page has written for its Python."""
    if page == "quickstart":
        result = CliRunner().invoke(
            cli, ["upsample", "photos", "-o", "out", "--upsampler", "nearest", "--size", "168"]
        )
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem
)
def test_python_of_the_docs_runs_as_printed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make_world(page)
    if page.stem == "export":
        # Half of the seconds are for what a smaller network does not need.
        load = naf_hub.load
        monkeypatch.setattr(
            naf_hub, "load", lambda name: load(name, weights=None, dim=16, num_blocks=1, kernel_size=3)
        )
    monkeypatch.setattr(torch.hub, "load", lambda *names: Patches())
    transformers = types.ModuleType("transformers")
    transformers.AutoModel = types.SimpleNamespace(from_pretrained=lambda name: Patches())  # pyright: ignore
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    run_commands_before(page.stem)
    scope: dict[str, object] = {}  # a page's blocks follow each other in one session
    left_out = NOT_RUN.get(page.stem, {})
    used: set[str] = set()
    with torch.no_grad():
        for block in blocks(page, "python"):
            if starts := {start for start in left_out if block.code.startswith(start)}:
                used |= starts
            else:
                exec(compile(block.code, str(block), "exec"), scope)
    assert used == left_out.keys(), "no such block"
