"""Pretrained networks with their own evaluation data: what `benchmarks/pretrained.py` cuts and judges."""

from pretrained_networks.case import Case, Missing
from pretrained_networks.crepe import crepe
from pretrained_networks.digits import digits
from pretrained_networks.faces import faces
from pretrained_networks.photos import photos
from pretrained_networks.words import words

__all__ = ["CASES", "Case", "Missing"]

CASES = {
    "digit-recognizer": digits,
    "crepe-tiny": crepe,
    "r-net": faces,
    "minilm": words,
    "efficientnet-lite0": photos,
}
