"""Files of backbones as they are published, small and random: Hub repositories and plain addresses."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save
from timm.models import save_for_hf
from torch import Tensor

import naf_hub

GOLDENS = Path(__file__).parent / "goldens" / "backbones"
VIT = {"embed_dim": 48, "depth": 2, "num_heads": 4}
# One name of each timm family, and the options that make it small; without any it is the real model.
TIMM: dict[str, dict[str, Any]] = {
    "dino_s8": VIT,
    "dinov2_reg_s": VIT,
    "dinov3_b": VIT,
    "dinov3_7b": VIT,
    "dinov3_cnx_t": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "siglip2_b16_256": VIT,
    "pe_core_t": VIT,
    "pe_spatial_t": {},
    "mae_b": VIT,
    "clip_b32": VIT,
    "sam_b": VIT | {"global_attn_indexes": (1,)},
    "cradio_v3_b": VIT | {"pos_embed_grid_size": (16, 16)},
}
RADIO_VIT = {"embed_dim": 48, "depth": 3, "num_heads": 4, "position_grid": 16}
RADIO: dict[str, tuple[str, dict[str, Any]]] = {
    "radio_v2_5_b": ("radio_v25_tiny", RADIO_VIT),
    "radio_v2_5_g": ("radio_v25_g_tiny", RADIO_VIT | {"swiglu_width": 128}),
    "cradio_v2_g": ("radio_v25_tiny", RADIO_VIT),
}
FRANCA = {"embed_dim": 64, "depth": 4, "num_heads": 4, "img_size": 98}
CAPI = {"embed_dim": 64, "depth": 3, "num_heads": 4}


def repository(name: str) -> str:
    """The Hub repository of a name's default weights."""
    return "/".join(naf_hub.info(name).weights["default"].source.removeprefix("hf://").split("/")[:2])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def timm_repository(name: str) -> dict[str, bytes]:
    """Written by timm's own function for it: config.json and model.safetensors, classifier and all layers; the
    largest in shards."""
    torch.manual_seed(0)
    model = timm.create_model(naf_hub.info(name).options["model"], pretrained=False, **TIMM[name])
    state = {k: 1 + 0.1 * torch.randn_like(v) if v.ndim == 1 else v for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, safe_serialization=True)
        if name == "dinov3_7b":
            Path(folder, "model.safetensors").unlink()
            save_torch_state_dict(model.state_dict(), folder, max_shard_size="100KB")
        return files_of(Path(folder))


def golden(name: str, prefix: str) -> dict[str, Tensor]:
    tensors = load_file(GOLDENS / f"{name}.safetensors")
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def radio_repository(name: str, trace: Path) -> dict[str, bytes]:
    """As NVIDIA lays it out: the code that ``auto_map`` names would leave a file at ``trace``."""
    code = f"open({str(trace)!r}, 'w').close()\n".encode()
    remote = {"AutoConfig": "hf_model.RADIOConfig", "AutoModel": "hf_model.RADIOModel"}
    args = {"model": "vit_base_patch16_224", "cpe_max_size": 256, "register_multiple": 8}
    config = {"architectures": ["RADIOModel"], "auto_map": remote, "args": args, "patch_size": 16}
    state = golden(RADIO[name][0], "state_dict.")
    files = {"config.json": json.dumps(config).encode(), "hf_model.py": code, "__init__.py": code}
    if name != "cradio_v2_g":
        return files | {"model.safetensors": save(state, {"format": "pt"})}
    with tempfile.TemporaryDirectory() as folder:
        save_torch_state_dict(state, folder, max_shard_size="300KB")
        shards = files_of(Path(folder))
    assert "model.safetensors.index.json" in shards
    assert len(shards) > 2
    return files | shards


def pickled(data: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def franca_files() -> dict[str, bytes]:
    """By file name: base with its RASA head beside it, and the giant as an archive in three pieces."""
    released = {f"module.backbone.{k}": v for k, v in golden("franca_tiny", "state_dict.").items()}
    rasa = {f"module.{k}": v for k, v in golden("franca_tiny", "rasa8.").items()}
    backbone = pickled({"teacher": released})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("franca_vitg14_Laion600M.pth")
        member.size = len(backbone)
        archive.addfile(member, io.BytesIO(backbone))
    content, third = packed.getvalue(), len(packed.getvalue()) // 3
    pieces = (content[:third], content[third : 2 * third], content[2 * third :])
    return {
        "v1.0.0/franca_vitb14_In21K.pth": backbone,
        "v1.0.0/franca_vitb14_In21K_rasa.pth": pickled(rasa),
        "v1.0.0/franca_vitg14_Laion600M_rasa.pth": pickled(rasa),
    } | {
        f"v1.0.0/franca_vitg14_Laion600M_chunked.tar.gz.part_a{letter}": piece
        for letter, piece in zip("abc", pieces, strict=True)
    }


def capi_file() -> bytes:
    """The backbone's tensors flat, between training state of every kind."""
    return pickled(
        golden("capi_tiny", "state_dict.")
        | {"head.weight": torch.zeros(3), "epoch": 7, "loss": np.float64(0.5), "name": None}
        | {"args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.95))}
        | {
            "optimizer": {
                "state": {0: {"exp_avg": torch.zeros(2)}},
                "param_groups": [{"lr": np.float32(1e-3)}],
            }
        }
    )


RELEASES = {"franca_b": FRANCA, "franca_g": FRANCA, "capi_l14": CAPI}
PLUGIN = f"""
import dataclasses, os
from naf_hub import hookimpl
import naf_hub_capi, naf_hub_franca

HOSTS = ("https://github.com/valeoai", "https://dl.fbaipublicfiles.com")
OPTIONS = {RELEASES!r}


def here(address):
    for host in HOSTS:
        address = address.replace(host, os.environ["HF_ENDPOINT"])
    return address


@hookimpl
def register_backbones(register):
    records = []
    naf_hub_capi.register_backbones(records.append)
    naf_hub_franca.register_backbones(records.append)
    for record in records:
        if record.name not in OPTIONS:
            continue
        weights = {{
            title: dataclasses.replace(
                w, source=here(w.source), also={{prefix: here(address) for prefix, address in w.also.items()}}
            )
            for title, w in record.weights.items()
        }}
        weights["stamped"] = dataclasses.replace(weights["default"], sha256="0" * 64)
        options = OPTIONS[record.name]
        register(dataclasses.replace(record, name="small_" + record.name, options=options, weights=weights))
"""


def install_small_releases(folder: Path) -> Path:
    """A plugin for ``PYTHONPATH``: ``small_<name>`` is the record of ``<name>`` with few channels, and with the
    publisher's host replaced by the test's; files, address paths and everything else stay."""
    info = folder / "small_releases-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "small_releases.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-releases\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[naf_hub]\nsmall_releases = small_releases\n")
    return folder


def releases() -> dict[str, bytes]:
    """Path on the test's host -> content, of everything that ``small_*`` records name."""
    franca = {f"/Franca/releases/download/{name}": content for name, content in franca_files().items()}
    return franca | {"/capi/capi_vitl14_lvd.pth": capi_file()}
