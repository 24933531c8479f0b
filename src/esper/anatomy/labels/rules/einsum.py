"""Einstein sums: any number of operands, contracted two at a time."""

from __future__ import annotations

from collections import Counter
from string import ascii_letters

from esper.anatomy.labels.labels import Flow
from esper.anatomy.labels.rules.call import Call, Result, Rule, read
from esper.anatomy.labels.rules.contraction import contract


def einsum(call: Call) -> Result:
    """Any einsum whose terms name no axis twice (a diagonal)."""
    operands: list[Flow] = list(call.args[1])
    terms, output = spelled_out(str(call.args[0]), [len(flow.shape) for flow in operands])
    if any(len(set(term)) != len(term) for term in terms):
        return call.frozen(f"{call.where} ({call.args[0]}) takes a diagonal, which is not followed")
    # An operand is read along the letters that the result does not have.
    for number, (term, flow) in enumerate(zip(terms, operands, strict=True)):
        read(call, number, flow, [axis for axis, letter in enumerate(term) if letter not in output])
    parts = list(zip(terms, operands, strict=True))
    # A single operand is multiplied by 1: then its sums are contractions as well.
    if len(parts) == 1:
        parts.append(("", Flow(())))
    while len(parts) > 1:
        (first, left), (second, right), *rest = parts
        later = output if not rest else "".join(dict.fromkeys(first + second))
        # A letter stays until neither the output nor an operand still to come needs it.
        wanted = set(output).union(*(term for term, _ in rest))
        kept = "".join(letter for letter in later if letter in wanted)
        parts = [(kept, _product(call, (first, left), (second, right), kept)), *rest]
    return call.result(parts[0][1].layers, is_zeroed=parts[0][1].is_zeroed)


def spelled_out(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Terms and output with letters for every axis: no dots, no arrow left out.

    Args:
        equation: as `torch.einsum` takes it.
        ranks: number of axes of every operand.
    """
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    # `...` stands for as many axes as it has in the longest operand. Shorter ones align at the right, so
    # each takes the last letters.
    most = max((rank - len(t) + 3 for t, rank in zip(terms, ranks, strict=True) if "..." in t), default=0)
    free = [letter for letter in ascii_letters if letter not in equation][:most]
    # Without an arrow the output is what comes once, in alphabetical order.
    if not arrow:
        count = Counter(inputs.replace(",", "").replace("...", ""))
        output = "..." + "".join(sorted(letter for letter, times in count.items() if times == 1))
    named = []
    for term, rank in zip(terms, ranks, strict=True):
        dots = rank - len(term.replace("...", ""))
        named.append(term.replace("...", "".join(free[most - dots :]) if dots else ""))
    return named, output.replace("...", "".join(free))


def _product(call: Call, left: tuple[str, Flow], right: tuple[str, Flow], kept: str) -> Flow:
    """Two operands multiplied, with the axes of `kept`; all others are summed."""
    present = dict.fromkeys(left[0] + right[0])
    # Both operands in one order of letters: first what is kept, then what is summed.
    letters = kept + "".join(letter for letter in present if letter not in kept)
    aligned = []
    for term, flow in (left, right):
        order = [term.index(letter) for letter in letters if letter in term]
        missing = [axis for axis, letter in enumerate(letters) if letter not in term]
        aligned.append(flow.permuted(order).unsqueezed(*missing))
    out = contract(call, aligned[0], aligned[1], range(len(kept), len(letters)))
    return out.moved(
        out.shape[: len(kept)], [layer.reshape(layer.shape[: len(kept)]) for layer in out.layers]
    )


RULES: dict[str, Rule] = {"einsum": einsum}
