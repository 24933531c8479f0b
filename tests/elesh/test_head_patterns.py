"""Patterns of attention heads: divergence against scipy, weights against the model's own, heads to units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from esper.anatomy import Kind
from esper.elesh.attention_nodes import attentions_of, weights_of
from esper.elesh.head_patterns import HeadPatterns, entropy_bits, jensen_shannon_bits, measure_heads
from tests.elesh.twins import from_zoo

WITH_ATTENTION = [
    "gpt",
    "gpt-eager-untied",
    "vit",
    "qk-norm",
    "rotary-halves",
    "windows",
    "encoder",
    "encoder-sequence-first",
    "encoder-norm-first",
]


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_divergence_is_symmetric_bounded_and_scipys_squared(seed: int, keys: int) -> None:
    random = torch.Generator().manual_seed(seed)
    p, q = (torch.rand(keys, generator=random).double() ** 4 for _ in range(2))
    p, q = p / p.sum(), q / q.sum()
    found = float(jensen_shannon_bits(p, q))
    assert found == pytest.approx(float(jensenshannon(p.numpy(), q.numpy(), base=2)) ** 2, abs=1e-9)
    assert found == pytest.approx(float(jensen_shannon_bits(q, p)))
    assert -1e-12 <= found <= 1 + 1e-12


def test_entropy_and_divergence_of_known_rows() -> None:
    even, first, last = torch.full((4,), 0.25).double(), torch.eye(4).double()[0], torch.eye(4).double()[3]
    assert float(entropy_bits(even)) == 2.0
    assert float(entropy_bits(first)) == 0.0
    assert float(jensen_shannon_bits(first, last)) == 1.0
    assert float(jensen_shannon_bits(first, first)) == 0.0


@pytest.mark.parametrize("name", WITH_ATTENTION)
@pytest.mark.no_cover
def test_every_head_is_found_with_its_unit(name: str) -> None:
    made = from_zoo(name)
    patterns = measure_heads(made.twin, made.anatomy, made.state, [made.batch])
    groups = [n for n, group in enumerate(made.anatomy.groups) if group.kind is Kind.HEAD]
    assert len(patterns) == len(groups)
    spans = sorted((made.anatomy.unit_slice(n).start, made.anatomy.unit_slice(n).stop) for n in groups)
    found = [np.unique(pattern.units).tolist() for pattern in patterns]
    assert sorted(found) == [list(range(*span)) for span in spans]
    for pattern in patterns:
        heads = pattern.units.size
        assert ((pattern.entropy >= 0) & (pattern.entropy <= 1 + 1e-9)).all()
        assert pattern.divergence.shape == pattern.similarity.shape == (heads, heads)
        np.testing.assert_allclose(np.diagonal(pattern.similarity), 1.0)
        np.testing.assert_allclose(np.diagonal(pattern.divergence), 0.0, atol=1e-9)


def test_grouped_queries_belong_to_the_unit_of_their_keys() -> None:
    made = from_zoo("rotary-halves")
    (pattern,) = measure_heads(made.twin, made.anatomy, made.state, [made.batch])
    assert pattern.entropy.size == 4
    assert pattern.units.tolist() == [0, 0, 1, 1]


def test_fused_and_eager_attention_have_the_same_weights() -> None:
    fused, eager = from_zoo("gpt"), from_zoo("gpt-eager-untied")
    rows = []
    for made in (fused, eager):
        (weights, *_) = weights_of(made.twin, made.state, made.batch, attentions_of(made.twin))
        assert float((weights.sum(-1) - 1).abs().max()) < 1e-5
        assert float(weights.triu(1).abs().max()) == 0.0  # causal
        rows.append(weights.double())
    assert torch.allclose(rows[0], rows[1], atol=1e-5)


def test_rows_without_a_choice_say_nothing_about_entropy() -> None:
    made = from_zoo("gpt")
    attentions = attentions_of(made.twin)
    (weights, *_) = weights_of(made.twin, made.state, made.batch, attentions)
    found = measure_heads(made.twin, made.anatomy, made.state, [made.batch])[0]
    rows = weights[:, :, 1:].double()  # the first row of a causal pattern has one key
    possible = torch.arange(2, weights.shape[-1] + 1).double().log2()
    expected = (entropy_bits(rows) / possible).mean((0, 2))
    np.testing.assert_allclose(found.entropy, expected.numpy(), rtol=1e-6)


def test_clusters_are_alike_throughout_and_diversity_looks_at_the_nearest() -> None:
    similarity = np.array(
        [[1.0, 0.99, 0.96, 0.1], [0.99, 1.0, 0.9, 0.1], [0.96, 0.9, 1.0, 0.1], [0.1, 0.1, 0.1, 1.0]]
    )
    divergence = np.array(
        [[0.0, 0.02, 0.2, 0.9], [0.02, 0.0, 0.3, 0.8], [0.2, 0.3, 0.0, 0.7], [0.9, 0.8, 0.7, 0.0]]
    )
    pattern = HeadPatterns("attention", np.arange(4), np.zeros(4), divergence, similarity)
    assert [cluster.tolist() for cluster in pattern.clusters(0.95)] == [[0, 1]]
    assert pattern.clusters(0.995) == []
    assert pattern.diversity.tolist() == [0.02, 0.02, 0.2, 0.7]


def test_a_network_without_attention_has_no_patterns() -> None:
    made = from_zoo("plain")
    assert measure_heads(made.twin, made.anatomy, made.state, [made.batch]) == []
