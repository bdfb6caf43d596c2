"""Options that commands share: one grammar of values, one rule for devices."""

from __future__ import annotations

import sys

import click
import pytest
import torch
from click.testing import CliRunner

from naf_hub import options
from naf_hub.commands.main import cli
from naf_hub.devices import SPIN_ROUNDS, let_waiting_threads_sleep


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-3e-4", -3e-4),
        ("1_000", 1000),
        ("true", True),
        ("True", True),
        ("false", False),
        ("False", False),
        ("None", None),
        ("none", "none"),
        ("[1, 2.5]", [1, 2.5]),
        ("[true, false]", [True, False]),
        ("[True, False]", [True, False]),
        ("(1, 2)", (1, 2)),
        ('"1"', "1"),
        ("'a b'", "a b"),
        ("{a = 1}", {"a": 1}),
        ("{'a': 1}", {"a": 1}),
        ("512MiB", "512MiB"),
        ("a=b.png", "a=b.png"),
        ("2024-01-01", "2024-01-01"),
        ("b'x'", "b'x'"),
        ("", ""),
    ],
)
def test_values(text: str, value: object):
    found = options.parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_tables_by_dots():
    pairs = ["dim=32", "a.x=1", "a.y=two", "b.timm:m.v1.stride=8", "b.all=3", "dim=64"]
    assert options.parse_pairs(pairs) == {
        "dim": 64,
        "a": {"x": 1, "y": "two"},
        "b": {"timm:m.v1": {"stride": 8}, "all": 3},
    }


@pytest.mark.parametrize("pair", ["dim", "=3", "a b=3", "a.=3", ".a=3", ""])
def test_what_is_no_pair_is_told(pair: str):
    with pytest.raises(ValueError, match="is not key=value"):
        options.parse_pairs([pair])


def test_a_value_is_no_table():
    with pytest.raises(ValueError, match=r"'a\.b=2': a was given a value before"):
        options.parse_pairs(["a=1", "a.b=2"])


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert options.pick_device() == options.pick_device("cpu") == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert options.pick_device() == options.pick_device("mps") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert options.pick_device() == "cuda"
    assert options.pick_device("cuda:1") == "cuda:1"


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        ("cuda", 0, "torch finds no CUDA GPU; use auto or cpu"),
        ("cuda:2", 2, r"torch finds 2 CUDA GPU\(s\), counted from cuda:0"),
        ("mps", 0, "finds no Apple GPU"),
        ("gpu", 0, "give auto, cpu, cuda, cuda:1 or mps"),
    ],
)
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, message: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        options.pick_device(name)


def commands() -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}

    def walk(command: click.Command, path: str) -> None:
        if not isinstance(command, click.Group):
            found[path] = command
            return
        for name in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), name)
            assert child is not None
            walk(child, f"{path} {name}".strip())

    walk(cli, "")
    return found


SHARED = (
    "--device",
    "--threads",
    "--quiet",
    "--verbose",
    "--option",
    "--backbone-option",
    "--backbone-weights",
    "--format",
    "--save",
)
# A pickle is converted by itself: no model runs, and its options are those of the weights.
# The leaderboard prints a table of several reports; compare has options for each upsampler and for all.
APART = {
    ("convert", "--option"), ("train reconstruction", "--backbone-weights"), ("leaderboard", "--format"),
    ("compare", "--option"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_an_option_is_the_same_in_every_command(name: str):
    helps: dict[str, list[str]] = {}
    for path, command in commands().items():
        for parameter in command.params:
            if name in parameter.opts and isinstance(parameter, click.Option) and (path, name) not in APART:
                helps.setdefault(f"{parameter.help} {parameter.metavar}", []).append(path)
    if name == "--format":
        helps = {text: paths for text, paths in helps.items() if paths != ["upsample"]}  # that of the files
    assert len(helps) == 1, helps
    assert len(next(iter(helps.values()))) >= 2


def test_bad_pairs_and_devices_are_bad_usage():
    for arguments, message in (
        (["bench", "naf", "--option", "nonsense"], "'nonsense' is not key=value"),
        (["demo", "--device", "cuda:x"], "give auto, cpu, cuda, cuda:1 or mps"),
        (["bench", "naf", "--weights", ""], "empty weights"),
    ):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2, result.output
        assert message in result.stderr


def test_every_command_that_computes_takes_device_and_threads():
    for path, command in commands().items():
        taken = {name for parameter in command.params for name in parameter.opts}
        if path != "export":  # on the CPU alone
            assert ("--device" in taken) == ("--threads" in taken), path
        assert {"--quiet", "--verbose"} <= taken, path
    assert any("--threads" in parameter.opts for parameter in commands()["export"].params)


# Protocols of squares, whose side is one number.
SQUARES = {"eval correspondence", "eval geometric", "eval homography", "eval video"}


def test_sizes_are_read_alike_in_every_command():
    found = 0
    for path, command in commands().items():
        if path in SQUARES:
            continue
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name in ("size", "label_size"):
                found += 1
                assert parameter.metavar in ("N|HxW", "N|HxW|native"), path
                assert "N pixels on the shorter side, HxW exactly" in (parameter.help or ""), path
                context = click.Context(command)
                assert parameter.process_value(context, "32x48") == (32, 48), path
                assert parameter.process_value(context, "32") == 32, path
                with pytest.raises(click.BadParameter, match="is not N"):
                    parameter.process_value(context, "32x")
    assert found >= 5


@pytest.mark.parametrize("path", sorted(SQUARES))
def test_protocols_of_squares_take_one_side_and_say_so(path: str):
    command = commands()[path]
    (size,) = (parameter for parameter in command.params if parameter.name == "size")
    context = click.Context(command)
    assert isinstance(size, click.Option)
    assert size.metavar == "N"
    assert "square" in (size.help or "") or "N x N" in (size.help or "")
    assert size.process_value(context, "32") == 32
    assert size.process_value(context, "32x32") == 32
    with pytest.raises(click.BadParameter, match="'32x48' is no square, which the protocol asks for; give N"):
        size.process_value(context, "32x48")
    for text in ("0", "-3", "native", "32x"):
        with pytest.raises(click.BadParameter, match="is not N"):
            size.process_value(context, text)


def test_every_evaluation_of_upsamplers_takes_weights_and_controls():
    found = 0
    for path, command in commands().items():
        options = {name for parameter in command.params for name in parameter.opts}
        if path.startswith("eval ") and "--upsampler" in options:
            found += 1
            assert {"--weights", "--control", "--option"} <= options, path
            (upsampler,) = (parameter for parameter in command.params if "--upsampler" in parameter.opts)
            assert upsampler.multiple, path  # pyright: ignore[reportAttributeAccessIssue]
    assert found >= 6


def test_threads_are_torchs_own_unless_they_are_given():
    before = torch.get_num_threads()
    options.use_threads(None)
    assert torch.get_num_threads() == before
    try:
        options.use_threads(before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_threads_of_a_command_are_its_own():
    seen: list[int] = []
    before = torch.get_num_threads()

    @click.command()
    @options.threads_option
    def counted(threads: int | None) -> None:
        options.use_threads(threads)
        seen.append(torch.get_num_threads())

    CliRunner().invoke(counted, ["--threads", str(before + 1)])
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_rounding_of_a_benchmark_is_its_own():
    from naf_hub.commands.bench import set_tf32

    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for on in (True, False):
        with click.Context(click.Command("bench")):
            set_tf32(on)
            assert [backend.allow_tf32 for backend in backends] == [on, on]
    assert [backend.allow_tf32 for backend in backends] == before


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_waiting_threads_sleep_unless_the_user_or_torch_said_how(chosen, monkeypatch):
    environment = dict(chosen)
    let_waiting_threads_sleep(environment)
    assert environment == chosen  # torch is imported, so that it is too late
    monkeypatch.delitem(sys.modules, "torch")
    let_waiting_threads_sleep(environment)
    assert environment == (chosen or {"GOMP_SPINCOUNT": SPIN_ROUNDS})
