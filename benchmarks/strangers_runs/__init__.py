"""Short ordinary trainings as their owners would write them; the same defaults of Esper decide for all."""

from collections.abc import Callable

from strangers_runs import (
    decoders,
    images,
    met,
    others,
    pretrained,
    several,
    shapes,
    sounds,
    tables,
    unseen,
    words,
)
from strangers_runs.arms import ARMS
from strangers_runs.record import Record
from strangers_runs.run import Folders, Run
from strangers_runs.training import trained
from strangers_runs.verdicts import Together, summary, table

MISSING = 3
"""Exit status of a training whose data or package is not there."""

RUNS: dict[str, Callable[[Folders], Run]] = {
    "mnist-cnn": images.mnist,
    "fashion-cnn": images.garments,
    "fashion-mixed": images.mixed,
    "fashion-resnet8": images.resnet,
    "fashion-mobile": images.mobile,
    "mnist-vit": images.vision_transformer,
    "digits-mlp": tables.perceptron,
    "angle-adamw": tables.regression,
    "angle-sgd": tables.regression_sgd,
    "spoken-conv1d": sounds.convolutions,
    "spoken-lstm": sounds.recurrent,
    "glosses-post-norm": words.post_norm,
    "glosses-pre-norm": words.pre_norm,
    "glosses-bert": words.bert,
    "speeches-gpt": decoders.gpt,
    "speeches-gqa": decoders.grouped_queries,
    "spoken-keywords": several.keywords,
    "digits-two-inputs": several.two_inputs,
    "digits-two-heads": several.two_heads,
    "shapes-unet": shapes.unet,
    "minilm": pretrained.minilm,
    "efficientnet-lite0": pretrained.efficientnet,
    "four-epochs": images.four_epochs,
    "hundred-epochs": tables.hundred_epochs,
    "no-epochs": images.no_epochs,
    "every-second": images.every_second,
    "ten-minutes": images.ten_minutes,
    "frozen-norms": others.frozen_norms,
    "autoencoder": others.autoencoder,
    "spoken-causal": others.causal,
    "variational": others.variational,
    "garments-on-photos": unseen.garments_on_photos,
    "era-of-a-speech": unseen.era_of_a_speech,
    "digits-detector": met.detector,
    "speeches-encoder": met.of_torch,
    "spoken-pairs": met.pairs,
}
"""By name; what builds them raises where data or a package is not there."""

SHORT = tuple(name for name in RUNS if name != "ten-minutes")
"""Those that are run unless others are named."""

__all__ = [
    "ARMS",
    "MISSING",
    "RUNS",
    "SHORT",
    "Folders",
    "Record",
    "Run",
    "Together",
    "summary",
    "table",
    "trained",
]
