"""Shared fixtures: a closed world (no network, a cache of its own) and a way to install fake plugins."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

# Read at import by huggingface_hub, so before anything imports it.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="naf-hub-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
for variable in ("HF_TOKEN", "NAF_HUB_PLUGINS", "NAF_HUB_STRICT"):
    os.environ.pop(variable, None)

# A shell that runs us in the background has SIGINT ignored, here and in every child; Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest

from naf_hub import registry

# Examples are drawn the same way every time, so that a run that passed passes again.
hypothesis.settings.register_profile("naf-hub", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("naf-hub")

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture
def goldens() -> Path:
    """Folder of tensors recorded from the published implementations."""
    return GOLDENS


Install = Callable[..., None]


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install_plugin(distribution, code, entry=..., module=...)``: a fake distribution on sys.path."""
    modules: list[str] = []

    def install(distribution: str, code: str, *, entry: str | None = None, module: str | None = None) -> None:
        module = module or distribution.replace("-", "_")
        modules.append(module)
        root = tmp_path / distribution
        info = root / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (root / f"{module}.py").write_text(textwrap.dedent(code))
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\nRequires-Dist: naf-hub>=0.1\n"
        )
        (info / "entry_points.txt").write_text(f"[naf_hub]\n{entry or module} = {module}\n")
        monkeypatch.syspath_prepend(str(root))
        registry.reload()

    yield install
    for name in modules:
        sys.modules.pop(name, None)
    monkeypatch.undo()
    registry.reload()


@pytest.fixture
def choosy(install_plugin: Install, tmp_path: Path) -> Iterator[None]:
    """An upsampler with weights for two backbones: it multiplies by 2 behind pico and by 3 behind dinov2_s."""
    import torch

    from naf_hub.weights.files import save_weights

    for name, value in (("pico", 2.0), ("dinov2_s", 3.0)):
        save_weights(tmp_path / "choosy_weights" / "w" / name, {"gain": torch.tensor(value)}, name="choosy")
    install_plugin(
        "choosy-naf",
        """
        import torch
        from naf_hub import Upsampler, UpsamplerRecord, Weights, hookimpl

        class Choosy(Upsampler):
            def __init__(self):
                super().__init__()
                self.gain = torch.nn.Parameter(torch.ones(()))

            def upsample(self, image, features, output_size):
                return self.gain * torch.nn.functional.interpolate(features, output_size)

        @hookimpl
        def register_upsamplers(register):
            weights = {n: Weights(f"package://choosy_weights/w/{n}") for n in ("pico", "dinov2_s")}
            register(UpsamplerRecord(name="choosy", summary="Made for two backbones.", target="choosy_naf:Choosy",
                                     backbone_agnostic=False, trainable=True, weights=weights))
        """,
    )
    (tmp_path / "choosy_weights" / "__init__.py").touch()
    sys.path.insert(0, str(tmp_path))
    yield
    sys.path.remove(str(tmp_path))
