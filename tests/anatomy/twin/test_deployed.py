"""A network as a program that needs none of its code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.twin import deployed, for_everybody


class OfTokens(nn.Module):
    """Computes its own loss from labels; with `is_needed` it adds them to what it reads, too."""

    def __init__(self, *, is_needed: bool = False) -> None:
        super().__init__()
        self.embed, self.head, self.is_needed = nn.Embedding(9, 6), nn.Linear(6, 3), is_needed

    def forward(self, tokens: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        seen = self.embed(tokens).mean(1)
        if self.is_needed:
            assert labels is not None
            seen = seen + labels[:, None]
        logits = self.head(seen)
        return (
            {"logits": logits}
            if labels is None
            else {"logits": logits, "loss": F.cross_entropy(logits, labels)}
        )


class OfClasses(nn.Module):
    """What comes out depends on labels that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"made": self.head(x) if labels is None else self.head(x) * labels[:, None]}


LABELS = torch.tensor([0, 2, 1])


def test_everybody_gives_texts_of_any_length_and_no_labels() -> None:
    network, tokens = OfTokens(), torch.randint(9, (3, 5))
    program = for_everybody(network, (), {"tokens": tokens, "labels": LABELS}).module()
    longer = torch.randint(9, (4, 8))
    found = program(tokens=longer)
    assert list(found) == ["logits"]
    torch.testing.assert_close(found["logits"], network(longer)["logits"])
    with pytest.raises(AssertionError, match="size"):  # a copy for one batch is for one length
        deployed(network, (), {"tokens": tokens}).module()(tokens=longer)


def test_labels_stay_where_they_are_needed_for_more_than_the_loss() -> None:
    network, given = OfTokens(is_needed=True), {"tokens": torch.randint(9, (3, 5)), "labels": LABELS}
    assert set(for_everybody(network, (), given).module()(**given)) == {"logits", "loss"}
    classes, given = OfClasses(), {"x": torch.randn(3, 4), "labels": LABELS}
    made = for_everybody(classes, (), given).module()(**given)["made"]
    torch.testing.assert_close(made, classes(**given)["made"])


class Masked(nn.Module):
    """Reads a mask of numbers beside the tokens, and calls them with as many ones as there are samples."""

    def __init__(self, *, counts: bool = False) -> None:
        super().__init__()
        self.embed, self.head, self.counts = nn.Embedding(9, 6), nn.Linear(6, 3), counts

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        seen = (self.embed(tokens) * mask[..., None]).sum(1)
        if self.counts:
            seen = seen + torch.tensor([1.0] * len(tokens))[:, None]
        out: Tensor = self.head(seen)
        return out


def test_a_mask_of_numbers_is_as_long_as_the_tokens() -> None:
    network = Masked()
    program = for_everybody(network, (torch.randint(9, (3, 5)), torch.ones(3, 5)), {}).module()
    longer = torch.randint(9, (4, 8)), torch.ones(4, 8)
    torch.testing.assert_close(program(*longer), network(*longer))


def test_a_network_that_counts_its_samples_is_kept_for_as_many_as_it_was_given() -> None:
    network, given = Masked(counts=True), (torch.randint(9, (3, 5)), torch.ones(3, 5))
    torch.testing.assert_close(for_everybody(network, given, {}).module()(*given), network(*given))


class OfBags(nn.Module):
    """Reads the words of all texts in a row, and where each text begins."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.EmbeddingBag(9, 6), nn.Linear(6, 3)

    def forward(self, words: Tensor, begins: Tensor, scale: Tensor) -> Tensor:
        out: Tensor = self.head(self.embed(words, begins)) * scale
        return out


def test_texts_in_a_row_may_be_any_number_of_texts() -> None:
    network, scale = OfBags(), torch.tensor(2.0)
    begins = torch.tensor([0, 4, 7]), torch.tensor([0, 2, 3, 9, 11])
    program = for_everybody(network, (torch.randint(9, (10,)), begins[0], scale), {}).module()
    others = torch.randint(9, (15,)), begins[1], scale
    torch.testing.assert_close(program(*others), network(*others))
