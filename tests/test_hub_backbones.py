"""Backbones by their registered names, from files in the layouts they are published in, by the real client."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from hub_layouts import (
    RADIO,
    RELEASES,
    TIMM,
    golden,
    install_small_releases,
    pickled,
    radio_repository,
    releases,
    repository,
    timm_repository,
)  # fmt: skip
from hub_server import COMMIT, run, serve, start
from safetensors.torch import load_file, save_file

import naf_hub
from naf_hub.weights.files import read_state_dict
from naf_hub.weights.hub import INDEX

OPTIONS = TIMM | {name: options for name, (_, options) in RADIO.items()}
# Any socket at all ends the process, whoever opens it.
NO_SOCKETS = (
    "import os, sys\n"
    "sys.addaudithook(lambda event, _: event.startswith('socket.') and (print('opened'), os._exit(3)))\n"
)
DINOV3 = f"/{repository('dinov3_b')}/resolve/main/model.safetensors"
CAPI, FRANCA = "/capi/capi_vitl14_lvd.pth", "/Franca/releases/download/v1.0.0/franca_vitb14_In21K.pth"
LOAD = f"print(naf_hub.load_backbone('dinov3_b', **{TIMM['dinov3_b']!r}).embed_dim)"
LOAD_CAPI = "print(naf_hub.load_backbone('small_capi_l14').embed_dim)"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    trace = tmp_path_factory.mktemp("trace") / "ran"
    found = {repository(name): timm_repository(name) for name in TIMM}
    return found | {repository(name): radio_repository(name, trace) for name in RADIO}


@pytest.fixture(scope="module")
def published() -> dict[str, bytes]:
    return releases()


@pytest.fixture
def hub(repositories, published, tmp_path):
    with serve() as server:
        server.repos = {name: dict(files) for name, files in repositories.items()}
        server.plain = dict(published)
        yield server


@pytest.fixture(autouse=True)
def small_releases(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(install_small_releases(tmp_path / "plugin")), prepend=os.pathsep)


def features(names: dict[str, dict], out: Path, images: Path) -> str:
    """A snippet that saves the features that each of ``names`` gives for its image."""
    return (
        "import warnings; warnings.simplefilter('ignore', UserWarning)\n"
        "from safetensors.torch import load_file, save_file\n"
        f"images = load_file({str(images)!r})\n"
        "found = {}\n"
        f"for name, options in {names!r}.items():\n"
        "    found[name] = naf_hub.load_backbone(name, **options)(images[name]).contiguous()\n"
        f"save_file(found, {str(out)!r})\n"
        "print('done')"
    )


def test_every_layout_of_the_hub_loads_and_then_opens_no_socket(hub, tmp_path, repositories):
    images, out, again = (tmp_path / f"{n}.safetensors" for n in ("images", "out", "again"))
    recorded = {name: golden(source, "") for name, (source, _) in RADIO.items()}
    case = {name: "wide_84x154" if name == "radio_v2_5_g" else "wide_96x160" for name in RADIO}
    picture = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    inputs = dict.fromkeys(TIMM, picture) | {n: recorded[n][f"input.{case[n]}"] for n in RADIO}
    save_file({name: image.clone() for name, image in inputs.items()}, images)
    assert run(features(OPTIONS, out, images), hub, tmp_path) == ("done", "")
    hub.log.clear()
    code = NO_SOCKETS + features(OPTIONS, again, images)
    assert run(code, hub, tmp_path, HF_HUB_OFFLINE="1") == ("done", "")
    assert hub.log == []
    shards = [path for path in hub.repos[repository("dinov3_7b")] if path.startswith("model-")]
    assert len(shards) > 3
    found, offline = load_file(out), load_file(again)
    assert all(torch.equal(found[name], offline[name]) for name in OPTIONS)
    for name in RADIO:
        torch.testing.assert_close(found[name], recorded[name][f"output.{case[name]}"], atol=1e-4, rtol=1e-4)
    for name in TIMM:
        folder = tmp_path / name
        folder.mkdir()
        for file, content in repositories[repository(name)].items():
            (folder / file).write_bytes(content)
        index = folder / INDEX
        assert index.exists() == (name == "dinov3_7b")
        state = read_state_dict(index if index.exists() else folder / "model.safetensors")
        model = naf_hub.load_backbone(name, weights=None, **TIMM[name]).float()
        model.load_weights(state)  # pyright: ignore
        with torch.no_grad():
            expected = model(picture)
        # Billions of parameters are loaded in bfloat16, as their record says.
        bound = 0.03 if name == "dinov3_7b" else 1e-5
        assert (found[name] - expected).norm() < bound * expected.norm(), name


def test_code_in_a_repository_is_neither_fetched_nor_run(hub, tmp_path):
    code = hub.repos[repository("radio_v2_5_b")]["hf_model.py"].decode()
    evidence = Path(code.split("'")[1])
    _, options = RADIO["radio_v2_5_b"]
    load = f"print(naf_hub.load_backbone('radio_v2_5_b', **{options!r}).embed_dim)"
    assert run(load, hub, tmp_path) == ("48", "")
    assert {path.rsplit("/", 1)[1] for path in hub.requests("GET")} == {"config.json", "model.safetensors"}
    # As after `hf download`: the code lies beside the weights, and in the working directory's path too.
    (config,) = (tmp_path / "home").rglob("config.json")
    for name in ("hf_model.py", "__init__.py"):
        (config.parent / name).write_text(code)
    paths = os.pathsep.join([str(config.parent), os.environ["PYTHONPATH"]])
    assert run(load, hub, tmp_path, PYTHONPATH=paths) == ("48", "")
    assert not evidence.exists()
    exec(code, {})
    assert evidence.exists(), "the trap works"
    evidence.unlink()


def test_as_typed(hub, tmp_path):
    """The smallest published model at its real size, and one from outside the Hub, behind NAF."""
    code = (
        "import torch\nimage = torch.rand(1, 3, 64, 96)\n"
        "print(*naf_hub.load('naf', backbone='pe_spatial_t')(image).shape)\n"
        "print(*naf_hub.load_backbone('pe_spatial_t')(image).shape)\n"
        "print(*naf_hub.load('naf', backbone='small_franca_b')(image[..., :56, :84]).shape)"
    )
    output, error = run(code, hub, tmp_path)
    assert output.splitlines() == ["1 192 64 96", "1 192 4 6", "1 64 56 84"], error


def test_releases_become_safetensors_in_the_cache_and_then_open_no_socket(hub, tmp_path):
    expected = {
        "small_franca_b": ("franca_tiny", "output_rasa8.wide_112x182"),
        "small_franca_g": ("franca_tiny", "output_rasa8.wide_112x182"),
        "small_capi_l14": ("capi_tiny", "output.wide_84x168"),
    }
    assert expected.keys() == {f"small_{name}" for name in RELEASES}
    out = tmp_path / "out.safetensors"
    images = tmp_path / "images.safetensors"
    save_file(
        {name: golden(source, "")[f"input.{key.split('.')[1]}"] for name, (source, key) in expected.items()},
        images,
    )
    # The recorded inputs are normalised already.
    code = features({name: {} for name in expected}, out, images).replace(")(images", ").extract(images")
    process = start(code, hub, tmp_path)
    output, errors = process.communicate(timeout=250)
    assert output.strip() == "done", errors
    assert errors.count("recorded sha256") == len(hub.plain), errors
    for name, (source, key) in expected.items():
        torch.testing.assert_close(load_file(out)[name], golden(source, "")[key], atol=2e-5, rtol=1e-4)
    assert len(list((tmp_path / "home").rglob("model.safetensors"))) == len(expected)
    out.unlink()
    hub.log.clear()
    assert run(NO_SOCKETS + code, hub, tmp_path, HF_HUB_OFFLINE="1") == ("done", "")
    assert hub.log == []
    for name, (source, key) in expected.items():
        torch.testing.assert_close(load_file(out)[name], golden(source, "")[key], atol=2e-5, rtol=1e-4)


def messages(code: list[str], hub, tmp_path: Path, **environment: str) -> list[str]:
    """What each of several statements raises, in one process."""
    tell = (
        f"import os\nfor code in {code!r}:\n"
        "    try:\n        exec(code)\n        print('nothing raised')\n"
        "    except naf_hub.WeightsError as error:\n        print(error)\n"
    )
    output, error = run(tell, hub, tmp_path, **environment)
    assert len(output.splitlines()) == len(code), error
    return output.splitlines()


def test_refusals(hub, tmp_path):
    hub.gated = {repository("dinov3_b")}
    del hub.repos[repository("mae_b")]
    hub.repos[repository("radio_v2_5_b")] = {"config.json": b"{}"}
    del hub.plain[CAPI]
    hub.failures[FRANCA] = [403]
    names = ("dinov3_b", "mae_b", "radio_v2_5_b", "small_capi_l14", "small_franca_b")
    load = [f"naf_hub.load_backbone({name!r})" for name in names]
    with_token = f"os.environ['HF_TOKEN'] = 'hf_test'; {load[0]}"
    gated, missing, empty, gone, forbidden, refused = messages([*load, with_token], hub, tmp_path)
    for message in (gated, refused):
        assert "dinov3_b weights 'default': " in message
        assert f"is gated; accept its terms at {hub.url}/{repository('dinov3_b')} and" in message
    assert f"no repository {hub.url}/{repository('mae_b')}" in missing
    assert "has no file model.safetensors" in empty
    assert f"{hub.url}{CAPI} answered HTTP 404" in gone
    assert f"{hub.url}{FRANCA} answered HTTP 403" in forbidden
    hub.accepted = {"hf_accepted"}
    assert run(LOAD, hub, tmp_path, HF_TOKEN="hf_accepted") == ("48", "")


def test_offline_and_not_cached_names_the_command(hub, tmp_path):
    code = ["naf_hub.load_backbone('radio_v2_5_b')", "naf_hub.load('naf', backbone='small_capi_l14')"]
    radio, capi = messages([NO_SOCKETS + line for line in code], hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "run: hf download nvidia/RADIO-B model.safetensors" in radio
    assert "run: curl -L -o " in capi
    assert hub.log == []
    # The command does what it says: the file is found where it would have put it.
    target = Path(capi.split("curl -L -o ")[1].split()[0])
    assert capi.endswith(hub.url + CAPI)
    target.write_bytes(hub.plain[CAPI])
    assert run(LOAD_CAPI, hub, tmp_path, HF_HUB_OFFLINE="1")[0] == "64"


def test_dropped_connections_are_resumed(hub, tmp_path):
    # The Hub's client keeps what it has in pieces of ten million bytes.
    large = f"/{repository('pe_spatial_t')}/resolve/main/model.safetensors"
    hub.drop = {large: 1, CAPI: 1}
    load = "print(naf_hub.load_backbone('pe_spatial_t').embed_dim)"
    process = start(
        f"{load}\n{LOAD_CAPI}", hub, tmp_path, HF_HUB_DISABLE_PROGRESS_BARS="0", TQDM_POSITION="-1"
    )
    output, errors = process.communicate(timeout=250)
    assert output.split() == ["192", "64"], errors
    for bar in ("model.safetensors", "capi_vitl14_lvd.pth"):
        assert re.search(rf"{re.escape(bar)}:\s+\d+%", errors), errors
    for address in (large, CAPI):
        ranges = [ranged for verb, path, ranged in hub.log if (verb, path) == ("GET", address)]
        assert ranges == [False, True]


def test_server_errors_are_retried(hub, tmp_path):
    hub.failures = {DINOV3: [503], CAPI: [503, 502]}
    output, error = run(f"{LOAD}\n{LOAD_CAPI}", hub, tmp_path)
    assert output.split() == ["48", "64"], error


def test_damaged_downloads_are_told_and_not_kept(hub, tmp_path):
    hub.damaged = {DINOV3}
    stamped = "naf_hub.load_backbone('small_capi_l14', weights='stamped')"
    damaged, wrong = messages([LOAD, stamped], hub, tmp_path)
    assert "arrived with sha256" in damaged
    assert "damaged on the way; load again" in damaged
    assert "expected 0000000000000000" in wrong
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    assert not list((tmp_path / "home").rglob("*.pth"))
    hub.damaged.clear()
    assert run(LOAD, hub, tmp_path) == ("48", "")


def test_a_converted_file_that_changed_is_told(hub, tmp_path):
    assert run(LOAD_CAPI, hub, tmp_path)[0] == "64"
    (converted,) = (tmp_path / "home").rglob("model.safetensors")
    content = bytearray(converted.read_bytes())
    content[-1] ^= 1
    converted.write_bytes(content)
    (message,) = messages([LOAD_CAPI], hub, tmp_path)
    assert "damaged or replaced" in message


def test_a_pinned_revision_of_a_backbone(hub, tmp_path):
    source = f"hf://{repository('dinov3_b')}"
    pinned = f"print(naf_hub.load_backbone('dinov3_b', weights='{source}@{COMMIT}', **{TIMM['dinov3_b']!r}).embed_dim)"
    assert run(pinned, hub, tmp_path) == ("48", "")
    assert {path.split("/")[4] for path in hub.requests("GET")} == {COMMIT}
    (message,) = messages([pinned.replace(COMMIT, "other")], hub, tmp_path)
    assert "has no revision 'other'" in message


def test_two_processes_at_once(hub, tmp_path):
    code = f"{LOAD}\n{LOAD_CAPI}\nprint(naf_hub.load_backbone('small_franca_b').embed_dim)"
    both = [start(code, hub, tmp_path) for _ in range(2)]
    for process in both:
        output, errors = process.communicate(timeout=250)
        assert output.split() == ["48", "64", "64"], errors
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    assert hub.requests("GET").count(CAPI) == hub.requests("GET").count(FRANCA) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"backbone.x": Path("anything")}, "it holds pathlib"),
        ({"args": {"lr": 0.1}, "epoch": 3}, "holds no state dict"),
        (None, "it is no file of torch.save, or a damaged one"),
    ],
)
def test_releases_that_cannot_be_read_are_told_in_a_line(hub, tmp_path, content, message):
    hub.plain[CAPI] = b"<html>moved</html>" if content is None else pickled(content)
    (told,) = messages([LOAD_CAPI], hub, tmp_path)
    assert message in told
    assert "capi_vitl14_lvd.pth" in told
