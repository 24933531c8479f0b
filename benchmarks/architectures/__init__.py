"""The networks of the coverage sweep: a zoo of patterns, transformers (small random ones), timm."""

from architectures.audio import AUDIO
from architectures.case import Architecture
from architectures.decoders import DECODERS
from architectures.images import TIMM
from architectures.multimodal import MULTIMODAL
from architectures.patterns import PATTERNS
from architectures.text import TEXT
from architectures.unseen import UNSEEN
from architectures.vision import VISION

PARTS: dict[str, dict[str, Architecture]] = {
    "zoo": PATTERNS,
    "transformers": {**TEXT, **DECODERS, **VISION, **AUDIO, **MULTIMODAL},
    "unseen": UNSEEN,
    "timm": TIMM,
}

__all__ = ["PARTS", "Architecture"]
