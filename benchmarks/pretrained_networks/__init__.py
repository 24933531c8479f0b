"""Pretrained networks with their own evaluation data: what `benchmarks/pretrained.py` cuts and judges."""

from collections.abc import Callable
from functools import partial

from pretrained_networks.case import Case, Missing
from pretrained_networks.crepe import crepe
from pretrained_networks.digits import digits
from pretrained_networks.faces import faces
from pretrained_networks.photos import photos
from pretrained_networks.words import words

__all__ = ["CASES", "Case", "Missing"]

CASES: dict[str, Callable[[], Case]] = {
    "digit-recognizer": digits,
    "crepe-tiny": crepe,
    "r-net": faces,
    "minilm": words,
    "efficientnet-lite0": photos,
    # The same with other crops of the photographs that choices look at, which are few: how much is chance.
    "efficientnet-lite0-crops-12": partial(photos, seed=12),
    "efficientnet-lite0-crops-13": partial(photos, seed=13),
}
