"""Spoken digits: convolutions over time, and a recurrent network."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from strangers_runs.data import COEFFICIENTS, spoken
from strangers_runs.run import Folders, Run, is_right


def _conv(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(width_in, width, 5, padding=2), nn.BatchNorm1d(width), nn.ReLU())


def _network() -> nn.Module:
    return nn.Sequential(
        _conv(COEFFICIENTS, 48), _conv(48, 64), nn.MaxPool1d(2), _conv(64, 96), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


def convolutions(_: Folders) -> Run:
    return Run(
        about="three convolutions over time, 2,000 spoken digits, AdamW",
        network=_network,
        data=spoken(),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: AdamW(model.parameters(), 1e-3),
        epochs=20,
        results=["6"],
    )


class Recurrent(nn.Module):
    """Two layers of LSTM; the mean of the states over time is what is judged by."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.lstm = nn.LSTM(COEFFICIENTS, width, num_layers=2, batch_first=True)
        self.classify = nn.Linear(width, 10)

    def forward(self, sounds: Tensor) -> Tensor:
        states, _ = self.lstm(sounds.transpose(1, 2))
        scores: Tensor = self.classify(states.mean(1))
        return scores


def recurrent(folders: Folders) -> Run:
    return replace(
        convolutions(folders),
        about="LSTM of two layers, 2,000 spoken digits, AdamW, clipping",
        network=Recurrent,
        epochs=15,
        clip=1.0,
        results=["classify"],
    )
