"""Importance of every element in one or two bytes: exact means over windows of steps, rounded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from esper.errors import EvidenceError
from esper.importance.elements.stored import SIZES, ErrorBound, as_tensor, sizes_in

Form = Literal["exact", "bfloat16", "log8"]
Products = Callable[[str, int, int], Tensor | None]
"""Weight x gradient of a parameter's flat elements from one to another; None without a gradient."""

_BLOCK = 1 << 16
_FEWEST_BLOCKS = 4
_MOST_TURNS = 64
_STEPS = 254
"""Of a code: even steps of the logarithm between the least and the largest of a block."""
_TYPES = {"exact": torch.float32, "bfloat16": torch.bfloat16, "log8": torch.uint8}
_PARTS = ("codes", "spans", "windows", "sums", "counts", "position")


@dataclass(frozen=True)
class _Block:
    """Elements `first` to `last` of the flat tensor `name`, at `place` in the joined codes."""

    name: str
    first: int
    last: int
    place: int


class ElementScores:
    """The root mean square of weight x gradient of every element.

    One turn after the other, a part of the elements (1/64 of them, or 262,144 if that is more) is measured
    over a window of steps, in single precision; the result replaces the older one. So a number is the exact
    mean over a whole window, rounded once, and the memory is the codes and the sums of one turn: 1.06 bytes
    an element as `log8`, 2.06 as `bfloat16`, 4.06 as `exact`.

    Args:
        sizes: Number of elements of every parameter.
        form: How results are kept: `exact`, `bfloat16` (rounded by at most 0.4 %), or `log8` (by half a step
            of 254 between the smallest and largest of each 65,536 elements, zero exactly).
        window: Sampled steps of one turn.
        device: Where it lives.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        form: Form = "log8",
        window: int = 16,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sizes = dict(sizes)
        self.form = form
        self._window = window
        self._blocks = _blocks(sizes)
        # Enough blocks in a turn that 64 turns measure all of them, and at least four.
        self._per_turn = max(_FEWEST_BLOCKS, -(-len(self._blocks) // _MOST_TURNS))
        total = sum(sizes.values())
        self._codes = torch.zeros(total, dtype=_TYPES[form], device=device)
        self._spans = torch.zeros(len(self._blocks), 2, dtype=torch.float32, device=device)
        self._windows = torch.zeros(len(self._blocks), dtype=torch.float32, device=device)
        """Windows of each block that are complete; without one, its elements are unmeasured."""
        # One buffer of sums, as long as the longest turn needs: the turns use it one after the other.
        longest = max(map(self._turn_elements, range(self.num_turns)), default=0)
        self._sums = torch.zeros(longest, dtype=torch.float32, device=device)
        self._counts = torch.zeros(self._per_turn, dtype=torch.float32, device=device)
        self._turn = self._sampled = 0

    @property
    def num_turns(self) -> int:
        """Turns until every element was measured once."""
        return -(-len(self._blocks) // self._per_turn)

    @property
    def memory_bytes(self) -> int:
        """What all of this takes."""
        held = (self._codes, self._spans, self._windows, self._sums, self._counts)
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    @torch.no_grad()
    def sample(self, products: Products, taken: Tensor) -> None:
        """Takes in one step of the present turn, on the device only.

        Args:
            products: Asked for every block of the turn.
            taken: 1 if the step counts, else 0: a float32 scalar on the device.
        """
        # The blocks of a turn lie in the buffer end to end, from `start`.
        start = 0
        for number, block in enumerate(self._in_turn(self._turn)):
            length = block.last - block.first
            values = products(block.name, block.first, block.last)
            if values is not None:
                part = torch.where(taken > 0, values, 0.0)  # not a product: what is infinite must vanish too
                self._sums[start : start + length].addcmul_(part, part)
                self._counts[number] += taken
            start += length
        self._sampled += 1
        if self._sampled >= self._window:
            self._close()

    def of(self, name: str) -> Tensor:
        """The scores of one parameter: float32 [elements], NaN where no window is complete yet.

        Raises:
            EvidenceError: The parameter is not tracked.
        """
        if name not in self.sizes:
            raise EvidenceError(
                f"No elements of {name!r} are tracked; names begin with {list(self.sizes)[:4]}."
            )
        parts = []
        for number, block in enumerate(self._blocks):
            if block.name == name:
                codes = self._codes[block.place : block.place + block.last - block.first]
                values = from_log_codes(codes, self._spans[number]) if self.form == "log8" else codes.float()
                parts.append(torch.where(self._windows[number] > 0, values, torch.nan))
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float32, device=self._codes.device)

    def select(
        self, sizes: Mapping[str, int], chosen: Callable[[str, Tensor], Tensor | None]
    ) -> ElementScores:
        """The same scores after a cut; the turn under way begins again.

        Args:
            sizes: Of the parameters after the cut.
            chosen: Gives a parameter's scores after the cut, from those before, flat; None drops them.
        """
        scores = ElementScores(sizes, self.form, self._window, self._codes.device)
        for name in sizes:
            kept = chosen(name, self.of(name)) if name in self.sizes else None
            if kept is None or kept.numel() != sizes[name]:
                continue
            # A cut moves elements across the borders of blocks, so blocks are encoded anew.
            for number, block in enumerate(scores._blocks):
                part = kept[block.first : block.last]
                if block.name == name:
                    # Measured is a block only where all of its elements were.
                    scores._put(number, part, torch.isfinite(part).all().float())
        return scores

    def state(self) -> dict[str, Tensor]:
        """Copies for a checkpoint, as plain tensors; the turn under way included."""
        position = torch.tensor([self._turn, self._sampled])
        held = (self._codes, self._spans, self._windows, self._sums, self._counts, position)
        parts = {name: tensor.detach().clone() for name, tensor in zip(_PARTS, held, strict=True)}
        return {**parts, SIZES: as_tensor(self.sizes)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ElementScores:
        """The scores of a checkpoint, to read.

        Raises:
            EvidenceError: It is not the state of such scores.
        """
        forms: dict[torch.dtype, Form] = {torch.float32: "exact", torch.bfloat16: "bfloat16"}
        scores = cls(sizes_in(state), forms.get(state["codes"].dtype, "log8"))
        scores.load_state(state)
        return scores

    def error(self, name: str) -> ErrorBound:
        """How far the scores of one parameter can be from the exact means over their windows."""
        if self.form != "log8":
            return ErrorBound(relative=2.0**-8 if self.form == "bfloat16" else 0.0)
        spans = [self._spans[number] for number, block in enumerate(self._blocks) if block.name == name]
        widest = max((float(high - low) for low, high in spans), default=0.0)
        # Half of one of 254 steps is 1/508 of the range, in the logarithm of base 2.
        return ErrorBound(relative=2.0 ** (widest / 508) - 1.0)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state`.

        Raises:
            EvidenceError: It is the state of other parameters or of another form; nothing was taken over.
        """
        own = self.state()
        odd = [
            n
            for n in _PARTS
            if n not in state or state[n].shape != own[n].shape or state[n].dtype != own[n].dtype
        ]
        if odd:
            raise EvidenceError(
                f"This is not the state of {sum(self.sizes.values())} elements as {self.form}: "
                f"{', '.join(odd)} missing or of another size. Start anew; until then they stay unmeasured."
            )
        self._codes, self._spans, self._windows, self._sums, self._counts = (
            state[name].to(self._codes.device, copy=True) for name in _PARTS[:-1]
        )
        self._turn, self._sampled = state["position"].tolist()

    def _in_turn(self, turn: int) -> Sequence[_Block]:
        return self._blocks[turn * self._per_turn : (turn + 1) * self._per_turn]

    def _turn_elements(self, turn: int) -> int:
        return sum(block.last - block.first for block in self._in_turn(turn))

    def _close(self) -> None:
        start = 0
        # The window is complete: sums of squares become root mean squares, block by block.
        for number, block in enumerate(self._in_turn(self._turn)):
            length = block.last - block.first
            mean = self._sums[start : start + length] / self._counts[number].clamp_min(1)
            # One infinity and the block keeps what an earlier window said.
            is_sound = (self._counts[number] > 0) & torch.isfinite(mean).all()
            self._put(self._turn * self._per_turn + number, mean.sqrt_(), is_sound.float())
            start += length
        self._sums.zero_()
        self._counts.zero_()
        self._sampled, self._turn = 0, (self._turn + 1) % max(self.num_turns, 1)

    def _put(self, number: int, values: Tensor, is_sound: Tensor) -> None:
        """Keeps the values of one block, or what was there if they are not sound; on the device only."""
        block = self._blocks[number]
        place = self._codes[block.place : block.place + block.last - block.first]
        if self.form == "log8":
            # What is not finite becomes zero only to be thrown away below; to look first would wait for the
            # device.
            codes, span = log_codes(values.nan_to_num(0.0, 0.0, 0.0))
            self._spans[number] = torch.where(is_sound > 0, span, self._spans[number])
        else:
            codes = values.to(_TYPES[self.form])
        place.copy_(torch.where(is_sound > 0, codes, place))
        self._windows[number] += is_sound


def _blocks(sizes: Mapping[str, int]) -> list[_Block]:
    blocks, place = [], 0
    for name, size in sizes.items():
        for first in range(0, size, _BLOCK):
            last = min(first + _BLOCK, size)
            blocks.append(_Block(name, first, last, place))
            place += last - first
    return blocks


def log_codes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of one byte (uint8, same shape), and the range: the logarithms of the smallest and the largest.

    Zero has the code 0 and stays exactly zero. The rounding error of every other value is at most half a
    step: a factor of 2**((largest - smallest) / 508).
    """
    logs = values.log2()
    # Zeros have the logarithm -inf and must not stretch the range.
    is_positive = values > 0
    low = torch.where(is_positive, logs, torch.inf).amin()
    high = torch.where(is_positive, logs, -torch.inf).amax()
    # In a block of zeros the least (inf) lies above the largest (-inf): then the range is 0 to 0.
    low, high = torch.where(low <= high, torch.stack([low, high]), 0.0)
    # Equal values have no range, and the step still must divide.
    step = ((high - low) / _STEPS).clamp_min(torch.finfo(torch.float32).tiny)
    # Codes 1 to 255; 0 is kept for zero itself.
    codes = ((logs - low) / step).round_().clamp_(0, _STEPS) + 1
    return torch.where(is_positive, codes, 0.0).to(torch.uint8), torch.stack([low, high])


def from_log_codes(codes: Tensor, span: Tensor) -> Tensor:
    """The values of codes: float32, same shape."""
    low, high = span
    values = torch.exp2(low + (codes.float() - 1) * ((high - low) / _STEPS))
    return torch.where(codes > 0, values, 0.0)
