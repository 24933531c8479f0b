"""Batches as people have them: of texts of any length, and of samples that meet in the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.kasmina import LiveNetwork
from tests.session.runs import settings

EPOCHS = 6
TARGET = {"target": {"flops": 0.4}, "schedule": {"start_epoch": 1, "end_epoch": 4}}


class OfTexts(nn.Module):
    """Looks for a word in texts that are padded with zeros; by position, with `places` of them."""

    def __init__(self, places: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 16, padding_idx=0)
        self.place = nn.Parameter(torch.zeros(places, 1))
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.embed(x)
        if len(self.place):
            seen = seen + self.place  # so long are all texts
        out: Tensor = self.layers(seen.mean(1))
        return out


class Views(nn.Module):
    """Two views of a sample, each as a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.layers(a), dim=1), F.normalize(self.layers(b), dim=1)


class OfGraphs(nn.Module):
    """Nodes of several graphs in one batch, with the edges between them and the graph of each node."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        seen = torch.relu(self.up(x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])))
        whole = seen.new_zeros(GRAPHS, seen.shape[1]).index_add(0, graph, seen)
        out: Tensor = self.down(whole)
        return out


class OfEdges(OfGraphs):
    """The same, of edges that are rows: [edges, 2]."""

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        return super().forward(x, edges.T, graph)


class OneSize(nn.Module):
    """Works with 24 samples at a time only."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.view(24, 8))
        return out


GRAPHS = 12


def graphs(count: int, seed: int) -> list[tuple[tuple[Tensor, Tensor, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for number in range(count):
        nodes = 40 + 3 * number
        graph = torch.arange(nodes) % GRAPHS
        x, edges = (
            torch.randn(nodes, 4, generator=generator),
            torch.randint(nodes, (2, 90 - number), generator=generator),
        )
        target = torch.zeros(GRAPHS).index_add(0, graph, x[:, 0]) > 0
        batches.append(((x, edges, graph), target.long()))
    return batches


def texts(lengths: list[int], seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randint(1, 9, (24, length), generator=generator) for length in lengths]
    return [(x, (x == 3).any(1).long()) for x in batches]


def views(count: int, seed: int) -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    seen = [torch.randn(24, 8, generator=generator) for _ in range(count)]
    moved = [x + 0.1 * torch.randn(24, 8, generator=generator) for x in seen]
    return [((x, y), torch.arange(24)) for x, y in zip(seen, moved, strict=True)]


def which_is_mine(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(output[0] @ output[1].T / 0.2, target)


def trained(run_dir: Path, model: nn.Module, batches: list[Any], probe: list[Any], loss: Any) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    session = esper.attach(
        model,
        optimizer,
        loss=loss,
        sample=batches[0],
        probe=probe,
        run_dir=run_dir,
        config=settings(pruning=TARGET),
        epochs=EPOCHS,
        metric="loss",
    )
    for epoch in range(EPOCHS):
        for x, y in batches:
            optimizer.zero_grad()
            loss(model(*x) if isinstance(x, tuple) else model(x), y).backward()
            optimizer.step()
        session.end_epoch(loss=1.0 / (epoch + 1))
    return session


def test_texts_padded_to_the_longest_of_each_batch_are_analyzed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    session = trained(
        tmp_path / "run", OfTexts(), texts([5, 9, 7], 0), texts([6, 11, 8, 5, 7], 1), F.cross_entropy
    )
    assert session.parts.network.graph.takes(texts([13], 2)[0])
    assert session.removed_fraction >= 0.4
    assert not any("left out" in note for note in session.log.notes)
    finished = session.finish(latency=False)
    x, _ = texts([13], 2)[0]
    with torch.no_grad():  # what is kept for everybody takes any length, too
        torch.testing.assert_close(esper.load(finished.run_dir)(x), session.model.eval()(x))


def test_batches_of_a_length_that_the_code_does_not_take_are_left_out_and_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lengths = [5, 9, 5, 5, 5, 7]
    session = trained(tmp_path / "run", OfTexts(5), texts([5, 5, 5], 0), texts(lengths, 1), F.cross_entropy)
    assert any(note.startswith("2 of the 6 held-out batches") for note in session.log.notes)
    assert session.removed_fraction > 0.0
    session.detach()


def test_a_contrastive_loss_is_judged_on_whole_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    session = trained(tmp_path / "run", Views(), views(4, 0), views(8, 1), which_is_mine)
    held_out = session.parts.held_out
    assert {len(batch[1]) for batch in (*held_out.calibration, *held_out.validation)} == {24}
    assert session.removed_fraction >= 0.4
    assert any("Mean loss" in mark.text for mark in session.log.marks)
    session.detach()


def test_batches_of_graphs_with_any_number_of_nodes_and_edges_are_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    session = trained(tmp_path / "run", OfGraphs(), graphs(4, 0), graphs(8, 1), F.cross_entropy)
    network = session.parts.network
    assert not network.graph.is_batch_dynamic
    assert network.graph.takes(graphs(7, 2)[6])
    assert session.removed_fraction >= 0.4
    finished = session.finish()
    assert finished.report.latency is not None
    assert finished.report.latency.batch_size == 40  # nodes: there is no axis of samples
    given, _ = graphs(7, 2)[6]
    with torch.no_grad():
        torch.testing.assert_close(esper.load(finished.run_dir)(*given), session.model.eval()(*given))


def test_edges_may_have_more_features_than_there_are_nodes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batches = [((x, e.T.contiguous(), g), y) for (x, e, g), y in graphs(12, 0)]
    session = trained(tmp_path / "run", OfEdges(), batches[:4], batches[4:], F.cross_entropy)
    assert not any("left out" in note for note in session.log.notes)
    assert session.removed_fraction >= 0.4
    session.detach()


def test_batches_may_lie_in_memory_in_any_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    batches = [(x.T, (x[0] > 0).long()) for x in torch.randn(12, 8, 24)]
    session = trained(tmp_path / "run", model, batches[:4], batches[4:], F.cross_entropy)
    assert session.removed_fraction >= 0.4
    session.detach()


def test_a_network_for_one_number_of_samples_is_timed_with_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(12, 24, 8, generator=generator)]
    session = trained(tmp_path / "run", OneSize(), batches[:4], batches[4:], F.cross_entropy)
    report = session.finish().report
    assert report.latency is not None
    assert report.latency.batch_size == 24


def test_one_batch_that_cannot_be_divided_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(esper.errors.ConfigError, match="two are needed"):
        trained(tmp_path / "run", Views(), views(1, 0), views(1, 1), which_is_mine)


def test_boxes_of_which_each_image_has_its_own_number_are_refused_with_what_to_pad(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def batch(counts: list[int]) -> tuple[Tensor, list[Tensor]]:
        boxes = [torch.randn(count, 2, generator=generator) for count in counts]
        return torch.randn(len(counts), 8, generator=generator), boxes

    def loss(output: Tensor, boxes: list[Tensor]) -> Tensor:
        return torch.stack(
            [(one.mean(0) - own).norm() for one, own in zip(boxes, output, strict=True)]
        ).mean()

    probe = [batch(counts) for counts in ([1, 2, 3], [2, 2, 3], [3, 1, 2])]
    said = (
        r"Of 3 batches that probe yields, 1 can be used, and two are needed.*with \[1, 2\].*Pad what varies"
    )
    with pytest.raises(esper.errors.ConfigError, match=said):
        trained(tmp_path / "run", nn.Linear(8, 2), probe[:1], probe, loss)


class AtRisk:
    """A loss that grows with the number of samples, for as long as it ranks them."""

    ranks = True

    def __call__(self, output: Tensor, _: Tensor) -> Tensor:
        risk = output.sum(1)
        return ((risk.logcumsumexp(0) if self.ranks else 2 * risk) - risk).mean()


def test_samples_that_met_when_the_run_began_do_after_a_cut_whatever_training_has_made_of_the_loss() -> None:
    model, loss = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3)), AtRisk()
    sample = torch.randn(16, 4), torch.zeros(16)
    network = LiveNetwork(model, torch.optim.SGD(model.parameters(), 0.1), sample, loss)
    loss.ranks = False
    network.masks.apply(np.arange(network.anatomy.num_units) > 0)
    network.cut_masked()
    assert network.is_coupled
    assert network.graph.is_coupled


def test_samples_that_met_when_a_run_began_do_where_it_goes_on(tmp_path: Path) -> None:
    """Also where the network that is given to `resume` does not show it, before it has loaded."""

    def built() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
        return model, torch.optim.SGD(model.parameters(), 0.1)

    loss, sample = AtRisk(), (torch.randn(16, 4), torch.zeros(16))
    esper.attach(
        *built(), loss=loss, sample=sample, probe=[sample] * 2, metric="loss", run_dir=tmp_path
    ).detach()
    loss.ranks = False
    session = esper.resume(tmp_path, *built(), loss=loss)
    assert session.network.is_coupled
    session.detach()
