"""A teacher that was trained before: a frozen network whose answers another one learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import blake3
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from esper.anatomy.graph import back_in_mode, bare, primary_output
from esper.batches import device_of, divided, split_sample
from esper.checkpoint import map_tensors, misfits, tensor_bytes
from esper.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing, ConfigError, LifecycleError
from esper.kasmina.answers import Answers
from esper.kasmina.resting import Resting, parts_of


class CheckpointedTeacher:
    """A network that teaches: frozen, in eval mode, trained by no optimizer, in no checkpoint.

    The network belongs to the teacher from now on, which changes its mode and, with `precision` and
    `int8_weights`, its weights. `let_go` gives it back.

    Args:
        network: with its weights, or of the class that `weights` is for; on the device of who learns.
        weights: a safetensors file, such as the `model.safetensors` of a checkpoint, or tensors by name;
            None: those that the network has.
        precision: `torch.bfloat16` or `torch.float16`: its matrices are kept and multiplied in it; None: as
            they are, in the precision of the training loop.
        chunk: samples that it looks at at once; fewer take less memory.
        cache_bytes: keep answers up to so many bytes, for samples that come again exactly as they were.
        int8_weights: its matrices and kernels rest in eight bits, with a scale for each output channel, and
            each is made whole for the operator that computes with it, in `precision` or in its own.
        offload: it waits in the memory of the host; its weights are brought to the device of the inputs for
            each answer, and leave it afterwards.

    Raises:
        CheckpointError: the file is not there, is no safetensors file, or is of another network.
        ConfigError: an option is out of its range, or can do nothing for this network.

    Attributes:
        network: of the teacher.
        answers: those that are kept; None: none are.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: str | Path | Mapping[str, Tensor] | None = None,
        *,
        precision: torch.dtype | None = None,
        chunk: int | None = None,
        cache_bytes: int = 0,
        int8_weights: bool = False,
        offload: bool = False,
    ) -> None:
        if (chunk is not None and chunk < 1) or cache_bytes < 0:
            raise ConfigError(f"chunk={chunk} and cache_bytes={cache_bytes}: neither can be so small.")
        self.network = network
        self._resting = Resting(network, precision, int8_weights=int8_weights, offload=offload)
        self._precision, self._chunk = precision, chunk
        self._learned: list[nn.Parameter] = []
        """What has learned before it was frozen, and `modes` of its modules then."""
        self._modes: dict[nn.Module, bool] = {}
        self.answers = Answers(cache_bytes) if cache_bytes else None
        if weights is not None:
            self._put(weights)
        self.freeze()

    def __repr__(self) -> str:
        name, offloaded = type(bare(self.network)).__name__, ", offloaded" if self.is_offloaded else ""
        weights = f"{self.num_parameters:,} parameters in {self.num_bytes:,} bytes"
        return f"CheckpointedTeacher({name}, {weights}{offloaded}, digest {self.digest})"

    @property
    def digest(self) -> str:
        """Tells its weights from all others, as they are multiplied."""
        return self._digest

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def num_bytes(self) -> int:
        """What its weights and buffers take while it is not asked."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def is_offloaded(self) -> bool:
        """Whether it waits in the memory of the host."""
        return self._resting.is_offloaded

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        network = bare(self.network)
        return {**dict(network.named_parameters()), **dict(network.named_buffers())}

    def freeze(self) -> None:
        """No gradient reaches its weights from now on, and they rest as they were asked to."""
        if not self._modes:
            self._modes = {module: module.training for module in self.network.modules()}
            self._resting.lay_down()
            self._settle()
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                self._learned.append(parameter)
                parameter.requires_grad_(False)

    def let_go(self) -> nn.Module:
        """It does not teach: its network learns what it has learned before, in the mode of before.

        Returns:
            The network, as it was given.

        Its weights are plain ones again, on the device that they came from and in `precision`, if it had one.
        What eight bits have rounded stays rounded, in new parameters: an optimizer must be made anew.
        """
        for parameter in self._learned:
            parameter.requires_grad_(True)
        if self._modes:
            self._resting.get_up()
        self._settled = self._versions()
        back_in_mode(self._modes)
        self._learned, self._modes = [], {}
        return self.network

    def load(self, weights: str | Path | Mapping[str, Tensor]) -> None:
        """Other weights for the same network, while it teaches; answers that were kept are forgotten.

        Args:
            weights: a file as for the class, or tensors by name.

        Raises:
            CheckpointError: they are of another network, or cannot be read; the teacher is as it was.
        """
        self._put(weights)
        self._settle()

    def answer(self, inputs: Any) -> Tensor:
        """What it answers, without gradients, in 32 bits; drawn are no random numbers that others draw.

        Args:
            inputs: a tensor, several in a tuple, or a mapping of keyword inputs.

        Raises:
            LifecycleError: something has changed its weights.
        """
        if self._versions() != self._settled:
            raise LifecycleError(
                "Something has changed the teacher's weights: an optimizer holds them, or they are shared "
                "with a network that is trained. Nothing was computed. Train without them, and give new ones "
                "by `teacher.load(...)`."
            )
        if self.answers is None:
            return self._in_parts(inputs)
        leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        keys = self.answers.keys(leaves)
        kept = None if keys is None else self.answers.find(keys)
        if kept is not None:
            return kept
        answer = self._in_parts(inputs)
        if keys is not None and len(answer) == len(keys):
            self.answers.keep(keys, answer)
        return answer

    def output(self, inputs: Any) -> Any:
        """What the network itself returns for a whole batch, in eval mode and without gradients."""
        device = self._device(inputs)
        with self._resting.on(device) as network:
            return self._asked(network, device, inputs)

    def _device(self, inputs: Any) -> torch.device:
        """Where it is asked."""
        leaves = pytree.tree_leaves(inputs) if self.is_offloaded else []
        asked = (leaf.device for leaf in leaves if isinstance(leaf, Tensor))
        return next(asked, device_of(self.network))

    def _asked(self, network: Callable[..., Any], device: torch.device, inputs: Any) -> Any:
        args, kwargs, _ = split_sample(inputs, with_target=False, model=bare(self.network))
        self.network.eval()  # whatever holds it may have put it into training
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []),
            self._precisely(device),
        ):
            return network(*args, **kwargs)

    def _precisely(self, device: torch.device) -> AbstractContextManager[object]:
        """In its own precision if it has one, else in that of the training loop around it."""
        return torch.autocast(device.type, self._precision) if self._precision else nullcontext()

    def _in_parts(self, inputs: Any) -> Tensor:
        parts = [inputs] if self._chunk is None else divided(inputs, self._chunk)
        device = self._device(inputs)
        with self._resting.on(device) as network:
            answers = [primary_output(self._asked(network, device, part)) for part in parts]
        answer = answers[0] if len(answers) == 1 else torch.cat(answers)
        return answer.float() if answer.dtype.itemsize < 4 else answer

    def _put(self, weights: str | Path | Mapping[str, Tensor]) -> None:
        held = weights if isinstance(weights, Mapping) else read_weights(Path(weights))
        network = bare(self.network)
        own = network.state_dict()
        # Of another precision they fit all the same.
        alike = {n: t.to("meta").to(own[n].dtype) if n in own else t for n, t in held.items()}
        if wrong := misfits(alike, own):
            source = "These weights" if isinstance(weights, Mapping) else f"{weights}"
            raise CheckpointError(
                f"{source}: not those of this {type(self.network).__name__}: {'; '.join(wrong[:5])}. Nothing "
                "was changed. Give the network that they were trained in."
            )
        network.load_state_dict(held)

    def _settle(self) -> None:
        """What it knows by now is what it will answer by."""
        hasher = blake3.blake3()
        for name, tensor in sorted(self.tensors().items()):
            hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
            for part in parts_of(tensor):
                hasher.update(tensor_bytes(part))
        self._digest = hasher.hexdigest()[:16]
        self._settled = self._versions()
        if self.answers is not None:
            self.answers.clear()

    def _versions(self) -> int:
        """Grows with every change in place."""
        return sum(tensor._version for tensor in self.tensors().values())  # noqa: SLF001 (autograd's count)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; nothing that stands in it is run.

    Raises:
        CheckpointError: it is not there, or holds something else.
    """
    if path.is_dir():
        raise CheckpointMissing(
            f"{path} is a directory, and a teacher's weights are read from one file. Nothing was changed. "
            f"{_in_directory(path)}"
        )
    if not path.is_file():
        raise CheckpointMissing(f"There is no file {path} to read a teacher's weights from.")
    try:
        return map_tensors(path)
    except CheckpointCorrupt as error:
        raise CheckpointCorrupt(
            f"{error} A teacher's weights are read from safetensors only, because reading what torch.save "
            "wrote can run code. Nothing was changed. Where you trust whoever wrote it, load it yourself and "
            "give the network, or safetensors.torch.save_file(its state_dict(), ...) once."
        ) from error


def _in_directory(path: Path) -> str:
    """What to give instead of a directory."""
    if (path / "model.safetensors").is_file():
        return f"Give {path / 'model.safetensors'}."
    if (path / "checkpoints").is_dir():
        return (
            "It is that of a run: give the network that came of it, "
            f"CheckpointedTeacher(esper.load({str(path)!r})), or what `esper compact {path} -o DIR` writes, "
            "DIR/model.safetensors, in a network of its widths."
        )
    return "Name a safetensors file."
