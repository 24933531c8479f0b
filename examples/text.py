"""Prunes a small character language model while it learns: `python examples/text.py`, about a minute.

The text is the documentation beside it. Nothing counts epochs: a period is a number of steps.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import esper

TEXT = "".join(page.read_text() for page in sorted((Path(__file__).parents[1] / "docs").glob("*.md")))
CONTEXT, WIDTH = 32, 64


class Characters(nn.Module):
    """Two transformer layers that say which character comes next."""

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(kinds, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 256, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, kinds)
        self.register_buffer("future", torch.full((CONTEXT, CONTEXT), float("-inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        """Scores [samples, kinds, places] of the character that follows each."""
        hidden = self.letters(x) + self.places.weight
        scores: Tensor = self.head(self.layers(hidden, mask=self.future, is_causal=True))
        return scores.transpose(1, 2)


def main(run_dir: Path, steps: int = 800, every: int = 50) -> tuple[float, float]:
    """Trains and prunes; returns the share of the FLOPs that went, and nats per character of unseen text."""
    torch.manual_seed(0)
    kinds = {letter: number for number, letter in enumerate(sorted(set(TEXT)))}
    windows = torch.tensor([kinds[letter] for letter in TEXT]).unfold(0, CONTEXT + 1, 1)
    train, unseen = windows[: len(windows) * 4 // 5], windows[len(windows) * 4 // 5 :: 101]
    probe = [(part[:, :-1], part[:, 1:]) for part in unseen[:512].split(32)]
    model, criterion = Characters(len(kinds)), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)

    def nats() -> float:
        with torch.no_grad():
            return sum(float(criterion(model(x), y)) for x, y in probe) / len(probe)

    config = {"pruning": {"target": {"flops": 0.4}}}
    length = {"steps": steps, "every_n_steps": every, "metric": "nats", "higher_is_better": False}
    data = {"sample": probe[0], "probe": probe, "run_dir": run_dir}
    session = esper.attach(model, optimizer, loss=criterion, **data, config=config, **length)
    for _ in range(steps):
        part = train[torch.randint(len(train), (32,))]
        optimizer.zero_grad()
        criterion(model(part[:, :-1]), part[:, 1:]).backward()
        optimizer.step()
        session.end_step(nats=nats)
    result = session.finish()
    print(result)
    return result.reached, nats()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="esper-text-")))
