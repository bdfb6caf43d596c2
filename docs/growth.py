"""The page on time and memory over the sizes of a call: kept measurements beside what a model of the cost says."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import NamedTuple

import charts

from naf_hub.efficiency import Setting

KEPT = ("growth-base", "growth-ratio", "growth-size")
METHODS = ("naf", "guided_filter", "bilinear")
MIB, GIGA = 2**20, 1e9

# Of NAF: operations of the encoder for a pixel of the image, and of the attention for one of the output.
ENCODER = 2 * 660_480
WINDOW, GUIDANCE = 9 * 9, 256
# Guidance that takes more bytes than this is made by rows, at so many times the encoder's arithmetic.
WHOLE, AGAIN = 6 * 2**30, 3.5
WORKING = {"naf": 64 * MIB, "guided_filter": 43 * MIB, "bilinear": 0}

# Fitted to the measurements of one thread: least squares of the relative error, of the others medians. Seconds for
# 10^9 operations or bytes.
ENCODING, SCORING, MIXING = 0.0083135, 0.081834, 0.022808
SECONDS_OF_A_GIGABYTE = {"guided_filter": 5.791, "bilinear": 1.116}


class Measured(NamedTuple):
    """A setting of one method: processor seconds of a call, and its peak memory in MiB."""

    method: str
    what: str
    setting: Setting
    seconds: float
    peak: float


def measurements() -> Iterator[Measured]:
    for name in KEPT:
        report = charts.read(name)
        protocol = report["protocol"]
        channels, *cells = protocol["features"]
        side = protocol["size"]
        image = protocol["image"] if isinstance(protocol["image"], int) else None
        start = Setting(channels, (cells[0], cells[1]), (side, side), image, protocol["batch"])
        for row in report["rows"]:
            factor, value = row["extras"]["swept"]
            values = row["values"]
            yield Measured(
                row["extras"]["contender"],
                f"{factor} {value}",
                start.vary(factor, value),
                values["processor_seconds"],
                values["peak_mib"],
            )


def outputs(setting: Setting) -> int:
    return setting.batch * setting.size[0] * setting.size[1]


def pixels(setting: Setting) -> int:
    """Of the image as NAF encodes it: at most four times as large as the output."""
    side = min(setting.guide[0], 4 * setting.size[0])
    return side * side


def is_whole(setting: Setting) -> bool:
    """Whether NAF holds the guidance of the whole output."""
    return 4 * GUIDANCE * outputs(setting) <= WHOLE


def work(setting: Setting) -> tuple[float, float, float]:
    """10^9 operations of NAF's encoder, its scores and its weighted sums."""
    encoder = ENCODER * setting.batch * pixels(setting) * (1 if is_whole(setting) else AGAIN)
    pairs = 2 * WINDOW * outputs(setting)
    return encoder / GIGA, pairs * GUIDANCE / GIGA, pairs * setting.channels / GIGA


def expected_seconds(method: str, setting: Setting) -> float:
    if method != "naf":
        return 4 * setting.channels * outputs(setting) / GIGA * SECONDS_OF_A_GIGABYTE[method]
    encoder, scores, sums = work(setting)
    return encoder * ENCODING + scores * SCORING + sums * MIXING


def expected_peak(method: str, setting: Setting) -> float:
    """In MiB."""
    held = 4 * setting.channels * outputs(setting) + WORKING[method]
    if method == "naf" and is_whole(setting):  # guidance of all outputs, and one branch at the image's size
        held += 4 * GUIDANCE * outputs(setting) + 2 * GUIDANCE * pixels(setting)
    return held / MIB


def figures(method: str) -> str:
    """A table of what was measured, what is expected, and the error of that."""
    lines = [
        "| | processor seconds | expected | error | peak, MiB | expected | error |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for found in measurements():
        if found.method == method:
            seconds, peak = (
                expected(method, found.setting) for expected in (expected_seconds, expected_peak)
            )
            lines.append(
                f"| {found.what} | {found.seconds:.3g} | {seconds:.3g} | {seconds / found.seconds - 1:+.0%} "
                f"| {found.peak:.0f} | {peak:.0f} | {peak / found.peak - 1:+.0%} |"
            )
    return "\n".join(lines) + "\n"


def errors(method: str) -> str:
    """Median and largest error of the expected seconds."""
    off = [
        abs(expected_seconds(method, found.setting) / found.seconds - 1)
        for found in measurements()
        if found.method == method and found.what != "threads 2"
    ]
    return f"{statistics.median(off):.0%} in the median, at most {max(off):.0%}"


def chart(of: str) -> str:
    """Seconds (``"seconds"``) or memory over the side of the output."""
    expected = expected_seconds if of == "seconds" else expected_peak
    curves = []
    for method in METHODS:
        found = sorted(
            (row for row in measurements() if row.method == method and row.what.startswith("size")),
            key=lambda row: row.setting.size,
        )
        sides = [float(row.setting.size[0]) for row in found]
        measured = [row.seconds if of == "seconds" else row.peak for row in found]
        curves.append(charts.Curve(method, sides, measured, [expected(method, row.setting) for row in found]))
    title, unit = {
        "seconds": ("Processor seconds over the side of the output", "processor seconds"),
        "memory": ("Peak memory over the side of the output", "MiB"),
    }[of]
    return charts.curves(title, "side of the output, pixels (16 channels, one thread)", unit, curves)


# Factors but the side of the output, and the setting that has what they vary from, with its value.
OTHERS = {
    "channels": ("channels", None),
    "ratio": ("ratio of the output to 28 cells", None),
    "image": ("side of the image, output of 448", ("size 448", 448)),
    "cells": ("side of the features, ratio 16", ("channels 384", 28)),
    "batch": ("batch", ("channels 384", 1)),
    "threads": ("threads, the second core busy", ("channels 384", 1)),
}


def varied(method: str, factor: str) -> charts.Curve:
    """Seconds of a method over a factor of OTHERS."""
    _, base = OTHERS[factor]
    found = []
    for row in measurements():
        if row.method == method and row.what.split(" ")[0] == factor:
            found.append((float(row.what.split(" ")[1]), row))
        elif row.method == method and base and row.what == base[0]:
            found.append((float(base[1]), row))
    found.sort(key=lambda each: each[0])
    return charts.Curve(
        method,
        [value for value, _ in found],
        [row.seconds for _, row in found],
        [expected_seconds(method, row.setting) for _, row in found],
    )


def factors() -> str:
    """Seconds over each factor but the side of the output."""
    found = [(title, [varied(method, factor) for method in METHODS]) for factor, (title, _) in OTHERS.items()]
    note = "processor seconds; blue: naf, grey: guided_filter, yellow: bilinear; dots: measured, dashed: the model"
    return charts.small_curves("Processor seconds over the other factors", note, found)


def beyond(side: int, channels: int) -> float:
    """Minutes that the model expects of NAF for an output, and an image, of ``side``."""
    return expected_seconds("naf", Setting(channels, (32, 32), (side, side), None)) / 60


def page(note: str) -> str:
    """The whole page."""
    return f"""{note}
# How time and memory grow

What a call costs over the side of the output, that of the image, the ratio, the channels, the batch and the threads,
and a model of it. Median processor seconds of one call (three calls; one where the side is varied), after a first one
whose memory is given, on two cores of an Intel Xeon with AVX-512, PyTorch 2.14, float32, another process on the other
core. Wall seconds and their spread are in the reports (`docs/reports/growth-*.json`), and [Time and memory](speed.md)
says how to measure on your machine.

![Processor seconds over the side of the output](assets/growth-seconds.svg)

![Peak memory over the side of the output](assets/growth-memory.svg)

![Processor seconds over channels, ratio, image, cells, batch and threads](assets/growth-factors.svg)

```sh
BENCH="naf-hub bench bilinear guided_filter naf --device cpu --threads 1 --no-floor"
$BENCH --sweep channels=96,384,1536 --sweep batch=2 --sweep cells=14,56 --sweep threads=2 --repeats 3  # 28 cells to 448
$BENCH --image 448 --sweep ratio=4,8,16,32 --repeats 3
$BENCH --features 16,32,32 --sweep size=224,448,896,1792 --sweep image=112,224 --repeats 1
```

## The model

For an output of *N* pixels (of all examples) with *C* channels, and an image of *P* pixels:

* **NAF, time**: the encoder takes {ENCODER / 1e6:.2f} million operations a pixel of the image, whatever the output;
  an output pixel takes 2 x {WINDOW} x {GUIDANCE} operations for its scores and 2 x {WINDOW} x C for its weighted sums
  (window x channels). Fitted: {1 / ENCODING:.0f}, {1 / SCORING:.1f} and {1 / MIXING:.0f} x 10^9 operations
  a second; the second has to carry the rotation, the softmax and the copies.
  The encoder does half the products of its 3x3 convolutions, of which
  all are counted. Neither the ratio nor the number of cells is in the model: `ratio` varies the output of 28 x 28
  cells and leaves the image as it is, `cells` varies output and image at ratio 16. An image more than four times as
  large as the output is shrunk to that.
* **NAF, memory**: the output, 4 C N bytes; guidance, {4 * GUIDANCE} N; one branch, {2 * GUIDANCE} P; the attention's
  {WORKING["naf"] // MIB} MiB. Guidance of more than {WHOLE >> 30} GiB is made by rows and not held, and the encoder
  then works {AGAIN} times ([details](naf.md#memory)).
* **guided_filter, bilinear**: time is that of {1 / SECONDS_OF_A_GIGABYTE["guided_filter"]:.2f} and
  {1 / SECONDS_OF_A_GIGABYTE["bilinear"]:.2f} GB of output a second; memory is the output, for the first with
  {WORKING["guided_filter"] // MIB} MiB.

With one thread the model's error in time is {errors("naf")} for `naf`,
{errors("guided_filter")} for `guided_filter` and
{errors("bilinear")} for `bilinear`, whose calls of 10 milliseconds
differ most from each other.
NAF's encoder is most of its time. Its memory is mostly guidance where channels are few, mostly output where they are
many.

By the model 4096 x 4096 pixels of 384 channels take NAF {beyond(4096, 384):.0f} minutes, by rows; measured, with
`memory="256MiB"`, it was 22 ([details](naf.md#rows-of-outputs-larger-than-memory)).

With `threads 2` the other process has its core as well: one of three threads waits, and a call gains nothing (wall
3.6 s for NAF); on a quiet machine two threads are 1.7 times as fast ([figures](devices.md)). These rows are not in the
model.

## naf

{figures("naf")}
## guided_filter

{figures("guided_filter")}
## bilinear

{figures("bilinear")}"""
