"""The networks of the coverage sweep: small random configurations of every kind, and the pattern zoo."""

from architectures.audio import AUDIO
from architectures.case import Architecture
from architectures.decoders import DECODERS
from architectures.multimodal import MULTIMODAL
from architectures.patterns import PATTERNS
from architectures.text import TEXT
from architectures.vision import VISION

TRANSFORMERS: dict[str, Architecture] = {**TEXT, **DECODERS, **VISION, **AUDIO, **MULTIMODAL}

__all__ = ["PATTERNS", "TRANSFORMERS", "Architecture"]
