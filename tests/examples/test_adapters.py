"""The examples that read glosses, with a small BERT in the place of the pretrained one."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import BertConfig, BertModel

import esper

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")
LENIENT = {
    **dict.fromkeys(("max_spread", "max_drift", "max_shift", "max_latency"), 1e9),
    **dict.fromkeys(("train_steps", "ramp_steps"), 5),
    **dict.fromkeys(("patience_epochs", "probation_epochs"), 1),
    "significance": 1 - 1e-9,
    "counterfactual_every": 2,
}


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / "adapters.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers that has learned nothing, and the commonest words of the documentation."""
    where = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=500, **shape)).save_pretrained(where)
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=500, special_tokens=["[PAD]", "[UNK]"])
    tokenizer.train([str(page) for page in (ROOT / "docs").glob("*.md")], trainer)
    tokenizer.save(str(where / "tokenizer.json"))
    return where


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[int]]:
    """Pieces of six pages of the documentation, mixed, and the number of the page of each."""
    pages = [page.read_text().lower().split() for page in sorted((ROOT / "docs").glob("*.md"))]
    longest = sorted(pages, key=len)[-6:]
    cut = [
        (" ".join(page[n : n + 12]), kind) for kind, page in enumerate(longest) for n in range(0, 1200, 12)
    ]
    random.Random(0).shuffle(cut)
    return [text for text, _ in cut], [kind for _, kind in cut]


def test_a_frozen_network_rests_while_head_and_seeds_learn(
    example: dict[str, Any],
    folder: Path,
    texts: tuple[list[str], list[int]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    growth = example["main"](folder, texts, tmp_path / "adapters.safetensors", 3)
    told = capsys.readouterr().out
    assert len(growth.slots) == 2
    assert "a fresh network with them answers the same" in told
    shares = [float(line.split()[2].rstrip("%")) for line in told.splitlines() if line.endswith("% right")]
    assert shares[-1] > 100 / 6  # better than guessing one of six pages
    pretrained = BertModel.from_pretrained(folder).state_dict()
    now = {name.replace(".host.", "."): p for name, p in growth.model.bert.state_dict().items()}
    assert {name: now[name] for name in now if ".seed." not in name}.keys() <= pretrained.keys()
    assert all(torch.equal(now[name], pretrained[name]) for name in now if ".seed." not in name)


def test_a_seed_that_stays_is_kept_in_a_small_file_and_read_onto_a_fresh_network(
    example: dict[str, Any], folder: Path, texts: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    model = example["Reader"](folder, 6)
    x, y = example["tokens"](folder, texts[0]), torch.tensor(texts[1])
    optimizer = torch.optim.AdamW(model.head.parameters(), 1e-2)
    growth = esper.Growth(
        model, optimizer, loss=F.cross_entropy, probe=[(x[:160], y[:160])], settings=LENIENT
    )
    path = "bert.encoder.layer.1.attention.self.value"
    growth.germinate(path, "low_rank", rank=4)
    for _ in range(6):
        for part in torch.arange(160).split(16):  # what gates ask is what is learned: it surely stays
            optimizer.zero_grad()
            growth.loss(model(x[part]), y[part], x[part]).backward()
            optimizer.step()
        growth.end_epoch()
    growth.finish()
    assert growth.slots[path].stage.name == "TERMINATED", growth
    kept = tmp_path / "adapters.safetensors"
    example["keep"](model, growth, kept)
    assert kept.stat().st_size < 10_000 < sum(p.nbytes for p in model.parameters())
    again = example["read"](folder, kept, x[:32], y[:32])
    with torch.no_grad():
        assert torch.equal(again(x[:64]), model.eval()(x[:64]))
    assert sum(p.numel() for p in again.parameters() if p.requires_grad) == 6 * 33 + 2 * 4 * 32


def test_a_pretrained_network_that_the_trainer_tunes_gets_smaller_and_is_read_again(
    folder: Path,
    texts: tuple[list[str], list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")  # as where a script is started
    main = runpy.run_path(str(ROOT / "examples" / "pretrained.py"))["main"]
    trainer = main(folder, texts, tmp_path, 6)
    left, again = capsys.readouterr().out.splitlines()[-3].split(" parameters are left, ")
    assert again == f"{left} are read again."
    assert int(left.replace(",", "")) < sum(p.numel() for p in BertModel.from_pretrained(folder).parameters())
    assert trainer.model.config.intermediate_size < 64
