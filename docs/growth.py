"""The page on time and memory over the sizes of a call: kept measurements beside what a model of the cost says."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from typing import NamedTuple

import charts

from naf_hub.efficiency import Setting

KEPT = ("growth-base", "growth-size", "growth-ratio", "growth-large", "growth-rows")
METHODS = ("naf", "guided_filter", "bilinear")
MIB, GIGA = 2**20, 1e9

# Of NAF: operations of the encoder for a pixel of the image, and of the attention for one of the output.
ENCODER = 2 * 660_480
WINDOW, GUIDANCE = 9 * 9, 256
# Guidance that takes more bytes than this is made by rows, at so many times the encoder's arithmetic.
WHOLE, AGAIN = 6 * 2**30, 3.5
WORKING = 64 * MIB

# Fitted to the measurements below by least squares of the relative error: seconds for 10^9 operations or bytes.
ENCODING, ATTENDING, WRITING = 0.0, 0.0, 0.0
SECONDS_OF_A_GIGABYTE = {"guided_filter": 0.0, "bilinear": 0.0}


class Measured(NamedTuple):
    """A setting of one method: processor seconds of a call, and its peak memory in MiB."""

    method: str
    what: str
    setting: Setting
    seconds: float
    peak: float


def measurements() -> Iterator[Measured]:
    for name in KEPT:
        report = json.loads((charts.REPORTS / f"{name}.json").read_text("utf-8"))
        protocol = report["protocol"]
        channels, *cells = protocol["features"]
        side = protocol["size"]
        image = protocol["image"] if isinstance(protocol["image"], int) else None
        start = Setting(
            channels, (cells[0], cells[1]), (side, side), image, protocol["batch"], protocol["threads"]
        )
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
    """Of NAF: 10^9 operations of the encoder and of the attention, and 10^9 bytes of the output."""
    encoder = ENCODER * setting.batch * pixels(setting) * (1 if is_whole(setting) else AGAIN)
    attention = 2 * WINDOW * (GUIDANCE + setting.channels) * outputs(setting)
    return encoder / GIGA, attention / GIGA, 4 * setting.channels * outputs(setting) / GIGA


def expected_seconds(method: str, setting: Setting) -> float:
    encoder, attention, written = work(setting)
    if method == "naf":
        return encoder * ENCODING + attention * ATTENDING + written * WRITING
    return written * SECONDS_OF_A_GIGABYTE[method]


def expected_peak(method: str, setting: Setting) -> float:
    """In MiB."""
    held = 4 * setting.channels * outputs(setting)
    if method == "guided_filter":
        held += WORKING
    if method == "naf":
        held += WORKING
        if is_whole(setting):  # guidance of all outputs, and one branch at the image's size
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
        if found.method == method
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
        "seconds": ("Processor seconds of one call over the side of the output", "processor seconds"),
        "memory": ("Peak memory of one call over the side of the output", "MiB"),
    }[of]
    return charts.curves(f"{title} (16 channels, one thread)", "side of the output, pixels", unit, curves)


def page(note: str) -> str:
    """The whole page."""
    return f"""{note}
# How time and memory grow

What a call costs over the side of the output, the channels, the ratio, the batch and the threads, and a model of it.
Processor seconds of one call (median of 1 to 3, after a first one whose memory is given) on two cores of an AMD EPYC
with AVX2, PyTorch 2.14, float32, one thread. **Other work ran beside it**: processor seconds leave out the
time that it
took, not the cache that it filled, and the same call took up to a third more or less at other times. Read ratios, not
seconds; [Time and memory](speed.md) says how to measure on your machine.

![Processor seconds over the side of the output](assets/growth-seconds.svg)

![Peak memory over the side of the output](assets/growth-memory.svg)

```
naf-hub bench bilinear guided_filter naf --device cpu --threads 1 --no-floor \\
  --sweep channels=96,384,1536 --sweep batch=2 --sweep threads=2 --repeats 3    # (384, 28, 28) to 448 x 448
  --features 16,32,32 --sweep size=224,448,896 --repeats 2                      # then size=1792, --repeats 1
  --image 448 --sweep ratio=2,8,32 --repeats 2
  --features 16,32,32 --size 4096 --sweep image=448 --repeats 1
```

## The model

For an output of *N* pixels (of all examples) with *C* channels, and an image of *P* pixels:

* **NAF, time**: the encoder takes {ENCODER / 1e6:.2f} million operations a pixel of the image, whatever the output;
  the attention 2 x {WINDOW} x ({GUIDANCE} + C) a pixel of the output (window x (key and value)); the output is
  4 C N bytes.
  Fitted: {1 / ENCODING:.0f} x 10^9 operations a second in the encoder, {1 / ATTENDING:.0f} in the attention, and
  {1 / WRITING:.1f} GB of output a second. The encoder does half the multiplications of its 3x3 convolutions,
  of which all are
  counted here. Neither the ratio nor the number of cells is in it. An image more than four times as large as the
  output is shrunk to that.
* **NAF, memory**: the output, {4 * GUIDANCE} bytes a pixel of guidance, half of that a pixel of the image for
  one branch, and
  {WORKING // MIB} MiB of the attention. Guidance of more than {WHOLE >> 30} GiB is made by rows: it is then no
  longer held, and
  the encoder works {AGAIN} times ([details](naf.md#memory)).
* **guided_filter, bilinear**: all is proportional to the output's bytes:
  {1 / SECONDS_OF_A_GIGABYTE["guided_filter"]:.2g}
  and {1 / SECONDS_OF_A_GIGABYTE["bilinear"]:.2g} GB of output a second; memory is the output and, for the
  first, a working set.

The model's error is {errors("naf")} for `naf`, {errors("guided_filter")} for `guided_filter` and
{errors("bilinear")} for
`bilinear`. So NAF's encoder is most of its time up to some thousand channels, and memory is mostly guidance
where channels
are few, mostly output where they are many.

## naf

{figures("naf")}
## guided_filter

{figures("guided_filter")}
## bilinear

{figures("bilinear")}"""
