"""Writes what restates the code or the README (see PAGES), so that it cannot go stale.

``make docs`` runs it; a test fails when the committed pages differ.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import board
import charts
import click
import growth
import model_zoo
import pictures
import torch

from naf_hub import Upsampler, Want, hookspecs
from naf_hub.commands.main import cli
from naf_hub.kinds import KINDS, Kind
from naf_hub.records import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneRecord,
    Record,
    RestorerRecord,
    UpsamplerRecord,
)
from naf_hub.registry import registry

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py; edit that, not this. -->\n"
# At the head of pages of wide tables, which take the place of the contents on the right.
WIDE = "---\nhide: [toc]\n---\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines) + "\n"
    )


def sets(record: Record) -> str:
    return ", ".join(f"`{name}`" for name in record.weights) or (
        "none yet" if record.learned else "needs none"
    )


def records(kind: type[Record]) -> list[Record]:
    found = registry()
    return [r for n in found.names(kind) if (r := found.records[n]).provider == "naf-hub"]


def upsampler_rows() -> list[list[str]]:
    return [
        [f"`{r.name}`", r.summary, r.ratios, sets(r), "yes" if r.trainable else "-",
         f"[paper]({quote(r.paper, safe=':/.')})" if r.paper else "-", r.license]
        for r in records(UpsamplerRecord) if isinstance(r, UpsamplerRecord)
    ]  # fmt: skip


# Mean and standard deviation per RGB channel; what else there is, is spelled out.
NORMALIZATIONS = {
    (*IMAGENET_MEAN, *IMAGENET_STD): "ImageNet",
    (0.5, 0.5, 0.5, 0.5, 0.5, 0.5): "0.5 / 0.5",
    (0.48145466, 0.4578275, 0.40821073, 0.26862954, 0.26130258, 0.27577711): "CLIP",
}


def normalization(record: BackboneRecord) -> str:
    spelled = " / ".join(", ".join(f"{v:g}" for v in triple) for triple in (record.mean, record.std))
    return NORMALIZATIONS.get((*record.mean, *record.std), spelled)


def origin(record: Record) -> str:
    """Where the default weights come from, with the revision where it is pinned."""
    weights = record.weights.get("default")
    if weights is None:
        return "-"
    if weights.repository:
        tree = f"/tree/{weights.revision}" if weights.revision else ""
        return f"[{weights.repository}](https://huggingface.co/{weights.repository}{tree})"
    return "ships with naf-hub" if weights.source.startswith("package://") else f"[file]({weights.source})"


def backbone_rows() -> list[list[str]]:
    rows = []
    for r in records(BackboneRecord):
        assert isinstance(r, BackboneRecord)
        licenses = sorted({w.license for w in r.weights.values() if w.license})
        terms = (
            ", ".join(licenses)
            + (" (non-commercial)" if r.non_commercial else "")
            + (", gated" if r.gated else "")
        )
        rows.append(
            [
                f"`{r.name}`",
                r.summary,
                str(r.embed_dim),
                str(r.patch_size),
                str(r.native_size or "any"),
                normalization(r),
                origin(r),
                terms,
            ]
        )
    return rows


def restorer_rows() -> list[list[str]]:
    return [
        [f"`{r.name}`", r.summary, r.degradations, sets(r), "yes" if r.trainable else "-",
         f"[paper]({quote(r.paper, safe=':/.')})" if r.paper else "-", r.license]
        for r in records(RestorerRecord) if isinstance(r, RestorerRecord)
    ]  # fmt: skip


# Columns and rows of the kinds that have more to say than name and summary.
TABLES = {
    UpsamplerRecord: (
        ["name", "what it is", "ratios", "weights", "trainable", "source", "licence"],
        upsampler_rows,
    ),
    BackboneRecord: (
        [
            "name",
            "what it is",
            "channels",
            "patch",
            "native size",
            "normalisation",
            "weights from",
            "licence",
        ],
        backbone_rows,
    ),
    RestorerRecord: (
        ["name", "what it is", "restores", "weights", "trainable", "source", "licence"],
        restorer_rows,
    ),
}
INTRODUCTIONS = {
    BackboneRecord: """Besides these, any timm model with a spatial feature map works as `timm:<model name>`.
The licence is that of the weights; sizes are pixels; the normalisation (mean and standard deviation of
RGB in [0, 1]) is applied inside. Weights are those of the `main` branch of their Hub repository unless a
link leads to a revision; [how to pin one](weights.md#pinned-revisions).
""",
}


def section(kind: Kind) -> list[str]:
    """Heading, introduction and table of one kind."""
    text = [f"## {kind.plural.capitalize()}\n"]
    if not records(kind.record):
        return [
            *text,
            f"None ships with naf-hub; a plugin may [register one](write-a-plugin.md#add-a-{kind.word}).\n",
        ]
    if kind.record in INTRODUCTIONS:
        text.append(INTRODUCTIONS[kind.record])
    header, rows = TABLES.get(kind.record, (["name", "what it is"], None))
    plain = [[f"`{r.name}`", r.summary] for r in records(kind.record)]
    return [*text, table(header, rows() if rows else plain)]


def registered() -> str:
    hooks = [
        f"* `{name}{inspect.signature(function)}`: {inspect.getdoc(function)}".replace("'", "")
        for name, function in inspect.getmembers(hookspecs, inspect.isfunction)
        if name.startswith("register_")
    ]
    return "\n".join(
        [
            WIDE + NOTE,
            "# What is registered\n",
            "`naf-hub list` prints this for your installation, plugins of third parties included;",
            "`naf-hub info NAME` prints everything that is recorded of one.\n",
            *(line for kind in KINDS for line in section(kind)),
            "## Hooks\n",
            "What a plugin may implement; see [Write a plugin](write-a-plugin.md).\n",
            "\n".join(hooks) + "\n",
        ]
    )


# What parameters are counted for, where their number depends on the features'.
CHANNELS = 384


def without_storage(record: UpsamplerRecord) -> Upsampler:
    """The upsampler for features of CHANNELS, where it is made for a number of them."""
    constructor = record.resolve()
    known = inspect.signature(constructor).parameters
    with torch.device("meta"):
        return constructor(**record.options, **({"channels": CHANNELS} if "channels" in known else {}))


def counted(record: UpsamplerRecord) -> int:
    return sum(p.numel() for p in without_storage(record).parameters())


def upsampler_facts(record: UpsamplerRecord) -> list[str]:
    known = inspect.signature(record.resolve()).parameters
    model = without_storage(record)
    parameters = sum(p.numel() for p in model.parameters())
    wants = [] if model.wants == (Want(),) else [want.name for want in model.wants]
    if type(model).gather is not Upsampler.gather:
        wants.append("the image again")
    licenses = sorted({w.license for w in record.weights.values() if w.license})
    return [
        f"`{record.name}`",
        record.summary,
        f"{parameters:,}" + (f" at {CHANNELS} channels" if "channels" in known else "")
        if parameters
        else "-",
        "guides" if model.guided else "ignored",
        record.ratios,
        ", ".join(wants) or "last map",
        "`memory=`" if "memory" in known else "-",
        "any backbone" if record.backbone_agnostic else "made per backbone",
        sets(record) + (f" ({', '.join(licenses)})" if licenses else ""),
        f"[paper]({quote(record.paper, safe=':/.')})" if record.paper else "-",
    ]


def caveat(record: UpsamplerRecord) -> str:
    """Of one that takes a single map, of the shape of the backbone's output but another: nothing tells them apart."""
    wants = without_storage(record).wants
    if len(wants) != 1 or wants[0].kind in ("token", "class"):
        return ""
    kind = wants[0].kind
    text = (
        f"Behind a backbone, `{record.name}` takes {kind} maps by itself. Called with features of your own, it cannot "
        f"tell {kind} maps from the backbone's output, which has the same shape: a plain map is taken without a word "
        f'and gives a map that means nothing. Pass `backbone.maps(image, naf_hub.Want(kind="{kind}"))[0]`.'
    )
    return "\n".join(textwrap.wrap(text, 120, break_on_hyphens=False)) + "\n"


PICTURE = """![a photo, its features, and what sixteen upsamplers make of them](assets/upsamplers.jpg)

*scikit-image's cat at 224x336 pixels; features of a ViT-S/14 at 16x24 cells (nearest), and the same features by the
upsamplers that run on any backbone and have weights or need none, but for `featup_implicit`, which takes about two
hours. Colours are three principal components of the features at 16x24, the same for all panels. Weights of AnyUp and
FeatUp are their authors'; FeatUp's were made for CLIP and run without the last step, which mixes CLIP's channels. The
command is on [See what an upsampler does](views.md#several-upsamplers-on-one-photo).*
"""


def upsamplers() -> str:
    """One table a plugin, which is a family of methods."""
    families: dict[str, list[UpsamplerRecord]] = {}
    for record in records(UpsamplerRecord):
        assert isinstance(record, UpsamplerRecord)
        families.setdefault(record.target.split(".")[0], []).append(record)
    header = [
        "name", "what it is", "parameters", "image", "ratios", "asks the backbone for", "bounded memory", "serves",
        "weights", "source",
    ]  # fmt: skip
    parts = [
        WIDE + NOTE,
        "# Upsamplers\n",
        "Every upsampler that comes with naf-hub, by family. All are called alike:",
        "`naf_hub.load(NAME, backbone=BACKBONE)(image, output_size)`. Where `memory=` is an option, working memory is",
        "bounded by it and the result does not depend on it beyond rounding. `naf-hub info NAME` tells the rest.\n",
        PICTURE,
    ]
    for package, found in sorted(families.items()):
        family = re.split(" as |:", inspect.getdoc(importlib.import_module(package)) or package)[0]
        parts += [
            f"## {family}\n",
            table(header, [upsampler_facts(r) for r in found]),
            *filter(None, map(caveat, found)),
        ]
    return "\n".join(parts)


def command_pages(command: click.Command, path: str, parent: click.Context | None = None) -> list[str]:
    # As main() makes it: with the command's own settings, such as -h, which those below it inherit.
    settings = {**command.context_settings, "terminal_width": 100}
    context = click.Context(command, parent, path if parent is None else path.split()[-1], **settings)
    level = "##" if path.count(" ") < 2 else "###"
    parts = (
        [] if parent is None else [f"{level} {path}\n\n```text\n{command.get_help(context).strip()}\n```\n"]
    )
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            parts += command_pages(child, f"{path} {name}", context)
    return parts


def command_line() -> str:
    return "\n".join(
        [
            NOTE,
            "# Command line\n",
            "Exit status: 0 done, 1 the job failed (or, in `upsample`, some image did), 2 bad usage, 130 after",
            "Ctrl-C. Failures are one line; `naf-hub --debug COMMAND ...` shows the Python traceback.",
            "`NAF_HUB_PLUGINS=a,b` loads only these plugins (empty: only naf-hub's own), `NAF_HUB_STRICT=1` makes",
            "a broken plugin an error.\n",
            *command_pages(cli, "naf-hub"),
        ]
    )


def index() -> str:
    """The README as the site's first page: what it links to in the docs lies beside it there.

    Without its badges, as a page of the site asks no other server for anything.
    """
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    return NOTE + re.sub(r"(?m)(^\[!\[.*\n)+\n", "", text, count=1)


def zoo() -> list[model_zoo.Entry]:
    return model_zoo.entries([record for kind in KINDS for record in records(kind.record)], counted)


def sorting() -> str:
    """The script by which columns of a leaderboard's page sort."""
    return (resources.files("naf_hub.leaderboard") / "sortable.js").read_text(encoding="utf-8")


PAGES = {
    "index.md": index,
    "registered.md": registered,
    "upsamplers.md": upsamplers,
    "cli.md": command_line,
    "gallery.md": lambda: pictures.gallery(NOTE),
    "zoo.md": lambda: model_zoo.page(zoo(), NOTE, CHANNELS),
    "zoo.csv": lambda: model_zoo.as_csv(zoo()),
    "assets/sortable.js": sorting,
    "board.md": lambda: board.page(NOTE),
    "growth.md": lambda: growth.page(NOTE),
    "assets/growth-seconds.svg": lambda: growth.chart("seconds"),
    "assets/growth-memory.svg": lambda: growth.chart("memory"),
    "assets/growth-factors.svg": growth.factors,
    **{f"assets/{chart.report}.svg": chart.draw for chart in charts.CHARTS},
}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make(), encoding="utf-8")
