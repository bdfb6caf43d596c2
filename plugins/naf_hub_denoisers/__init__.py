"""DnCNN, IRCNN, RED-Net and Restormer as restorers: what the NAF paper compares its denoiser with (table 8)."""

from __future__ import annotations

from naf_hub import RestorerRecord, hookimpl

NOISE = "Gaussian and salt-and-pepper noise, by its training"

RECORDS = (
    RestorerRecord(
        name="dncnn",
        summary="DnCNN: 17 convolutions with batch norm that predict the noise (0.56 M parameters).",
        target="naf_hub_denoisers.dncnn:DnCNN",
        parameters=559_363,
        paper="https://arxiv.org/abs/1608.03981",
        degradations=NOISE,
        trainable=True,
    ),
    RestorerRecord(
        name="ircnn",
        summary="IRCNN: seven dilated convolutions that predict the noise (0.19 M parameters).",
        target="naf_hub_denoisers.ircnn:IRCNN",
        parameters=188_163,
        paper="https://arxiv.org/abs/1704.03264",
        degradations=NOISE,
        trainable=True,
    ),
    RestorerRecord(
        name="rednet",
        summary="RED-Net: convolutions, mirrored transposed ones and skips between them (1.04 M parameters).",
        target="naf_hub_denoisers.rednet:REDNet",
        parameters=1_037_507,
        paper="https://arxiv.org/abs/1606.08921",
        degradations=NOISE,
        trainable=True,
    ),
    RestorerRecord(
        name="restormer",
        summary="Restormer: a U-shaped transformer with attention between channels (26.13 M parameters).",
        target="naf_hub_denoisers.restormer:Restormer",
        parameters=26_126_644,
        paper="https://arxiv.org/abs/2111.09881",
        degradations=NOISE,
        trainable=True,
    ),
)


@hookimpl
def register_restorers(register):
    for record in RECORDS:
        register(record)
