"""R-Net of MTCNN: says whether a patch shows a face and where; judged on photographs of faces and of none."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrained_networks.case import Case, in_batches, packaged, weights

SIZE = 24
CHOSEN = 80
"""Of the 200 patches, how many a choice may look at; the others judge."""


class RNet(nn.Module):
    """The network of the package facenet-pytorch, by its names: corrections of the box, and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x))
        x = x.permute(0, 3, 2, 1).contiguous()
        x = self.prelu4(self.dense4(x.view(x.shape[0], -1)))
        return self.dense5_2(x), self.dense5_1(x)


Output = tuple[Tensor, Tensor]


def loss(output: Output, target: Output) -> Tensor:
    """Boxes and probabilities stay where the uncut network has them."""
    boxes, logits = output
    wanted, probabilities = target
    return F.cross_entropy(logits, probabilities) + F.mse_loss(boxes, wanted)


def faces() -> Case:
    model = RNet().eval()
    model.load_state_dict(weights("facenet-pytorch", "facenet_pytorch/data/rnet.pt"))
    patches, is_face = _patches()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    chosen, judging = order[:CHOSEN], order[CHOSEN:]
    shown = _varied(patches[chosen])
    with torch.no_grad():
        boxes, logits = model(shown)
        expected_boxes, expected = model(patches[judging])

    def quality(network: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            found_boxes, found = network(patches[judging])
        moved = (found.softmax(1) - expected.softmax(1))[:, 1].abs()
        return {
            "accuracy": float((found.argmax(1) == is_face[judging]).float().mean()),
            "1 - change of probability": 1 - float(moved.mean()),
            "1 - shift of the box": 1 - float((found_boxes - expected_boxes).abs().mean()),
        }

    batches = in_batches(shown, list(zip(boxes, logits.softmax(1), strict=True)))
    return Case(
        model,
        [(x, tuple(map(torch.stack, zip(*target, strict=True)))) for x, target in batches],
        loss,
        quality,
        # The tool maps channels of conv3 to the wrong columns of dense4, because axes are swapped before.
        results=[model.conv3, model.dense5_1, model.dense5_2],
        labeled_loss=lambda output, target: F.cross_entropy(output[1], target[1].argmax(1)),
        calibration=512,
        held_out=128,
        data="120 patches of Labeled Faces in the Wild, half of them faces",
    )


def _patches() -> tuple[Tensor, Tensor]:
    """200 patches as the network takes them [200, 3, 24, 24], the first 100 faces; and what they are."""
    pixels = np.load(packaged("scikit-image", "skimage/data/lfw_subset.npy"))
    gray = torch.from_numpy(pixels).float()[:, None]
    scaled = F.interpolate(gray, (SIZE, SIZE), mode="bilinear", align_corners=False)
    images = (scaled * 255 - 127.5) * 0.0078125
    return images.expand(-1, 3, -1, -1).contiguous(), (torch.arange(200) < 100).long()


def _varied(patches: Tensor) -> Tensor:
    """Each patch as it is, mirrored, shifted and dimmed: eight times as many."""
    shifted = [torch.roll(patches, shift, (2, 3)) for shift in ((1, 1), (-1, 1), (1, -1))]
    found = torch.cat([patches, *shifted])
    return torch.cat([found, 0.8 * found.flip(3)])
