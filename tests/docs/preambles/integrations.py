"""A network of `transformers` with its data, and a module of Lightning with its own."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from tests.docs.material import Loader, Network, loader_of


class Words(Dataset[dict[str, Tensor]]):
    """Twelve words each; the class is the first of them."""

    def __init__(self, seed: int) -> None:
        self.words = torch.randint(4, (128, 12), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": self.words[index, 0]}


class Pictures(LightningModule):  # type: ignore[misc]
    """A network, its loss and its optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.criterion = Network(), nn.CrossEntropyLoss()

    def forward(self, pictures: Tensor) -> Tensor:
        scores: Tensor = self.network(pictures)
        return scores

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss: Tensor = self.criterion(self(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.log("loss", self.criterion(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 3e-3)


shape = BertConfig(
    vocab_size=4,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=12,
    num_labels=4,
)
model = BertForSequenceClassification(shape)
args = TrainingArguments(
    output_dir="trainer",
    num_train_epochs=3,
    per_device_train_batch_size=32,
    eval_strategy="epoch",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
training, held_out = Words(seed=0), Words(seed=1)
module = Pictures()
loaders: tuple[Loader, Loader] = loader_of(256, seed=0), loader_of(128, seed=1)
