"""The processes that train one network: what they say to each other, so that they change it in lock-step.

Rank 0 decides. What a script calls it calls on every rank: there they meet and compare what they hold. Then
rank 0 does its work, and the others do what it orders until it says that the call is over. An order is done
by all at the same moment, and all learn at once whether one of them could not.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from esper.anatomy.graph import group_of, is_parallel
from esper.checkpoint import decode, encode, file_pieces, from_json, to_json
from esper.errors import EsperError, RankDivergence, RankLost, kind_named
from esper.leyline import decode as decoded
from esper.leyline import encode as encoded
from esper.wording import ranks

Note = Mapping[str, Any]
"""What a rank says where all meet. What stands under `same`, and under `held`, has to be the same on all."""

_OVER, _FAILED = "over", "failed"
_ON_RANK = "On rank "
_Done = TypeVar("_Done")


class Ranks:
    """All ranks of one network, seen from one of them.

    Args:
        group: the processes.
        device: where they exchange tensors.

    Attributes:
        number: of this rank.
        notes: what every rank said when they met last, in their order.
        waited_seconds: until the last of them had come.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self.number = dist.get_rank(group)
        self.notes: Sequence[Note] = ()
        self.waited_seconds = 0.0
        self._group, self._device = group, device
        self._is_leading = self._is_ordering = self._have_parted = False

    @classmethod
    def of(cls, model: nn.Module) -> Ranks | None:
        """Those that train this network by `DistributedDataParallel`; None if one process does."""
        group = group_of(model)
        if group is None or not is_parallel(model):
            return None
        return cls(group, next((p.device for p in model.parameters()), torch.device("cpu")))

    def __len__(self) -> int:
        return dist.get_world_size(self._group)

    def meet(self, note: Callable[[], Note]) -> None:
        """Waits for all ranks and compares what they hold. A refusal on one of them is one on all.

        Raises:
            RankDivergence: they are not the same; it says which rank, and in what.
            RankLost: one does not answer.
        """
        notes = self._heard(note)
        _require_same([other["same"] for other in notes], is_told=True)
        _require_same([other["held"] for other in notes], is_told=False)
        self.notes = notes

    def agree(self, say: Callable[[], Mapping[str, Any]]) -> None:
        """Within what all ranks do at once: compares what they say. A refusal on one of them is one on all.

        Raises:
            RankDivergence: they do not say the same.
        """
        _require_same(self._heard(say), is_told=True)

    def _heard(self, say: Callable[[], Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What every rank says; what one raises instead all raise."""
        refusal: Exception | None = None
        try:
            mine = dict(say())
        except Exception as error:  # noqa: BLE001  whatever it is, the others wait for a word; raised below
            refusal, mine = error, {"refusal": _told(error)}
        come = time.perf_counter()
        said = self.gather(mine)
        self.waited_seconds = time.perf_counter() - come
        if refusal is not None:
            raise refusal
        for rank, other in enumerate(said):
            if "refusal" in other:
                raise _revived(rank, other["refusal"])
        return said

    def refuse(self, refusal: Exception) -> None:
        """Meets the others only to say why this rank does not go on; that is raised."""

        def refuse() -> Note:
            raise refusal

        self.meet(refuse)

    def lead(
        self,
        note: Callable[[], Note],
        work: Callable[[], _Done],
        last: Callable[[_Done | None], Mapping[str, Any] | None],
    ) -> _Done:
        """On rank 0: meets the others, works, and tells them that the call is over, or what was raised.

        Args:
            note: what this rank holds.
            work: may give orders. Within it, calls that are led by themselves elsewhere are part of it.
            last: what the others should know of its result; of None, if it has failed.
        """
        if self._is_leading:
            return work()
        self.meet(note)
        self._is_leading, self._have_parted = True, False
        try:
            done = work()
            known = last(done)
        except BaseException as error:
            if not self._have_parted:  # otherwise all know, and nobody listens any more
                self._send(_FAILED, {"told": _told(error), "known": last(None)})
            raise
        finally:
            self._is_leading = False
        self._send(_OVER, {"known": known})
        return done

    def order(self, name: str, what: Mapping[str, Any], work: Callable[[], _Done]) -> _Done:
        """On rank 0: lets all ranks do one thing; within `work` everything is part of it.

        Raises:
            RankDivergence: one could not do it, and the others have. What `work` raises is raised if no rank
                could do it.
        """
        if self._is_ordering:
            return work()
        if not self._is_leading:
            raise EsperError(
                f"Rank 0 was about to do something alone ({name}) to a network that {len(self)} processes "
                "train. Nothing was changed. Call methods of the session itself, on every rank."
            )
        self._send(name, what)
        done, error = self._all_do(name, work)
        if error is not None:
            raise error
        return done[0]

    def follow(
        self,
        note: Callable[[], Note],
        acts: Mapping[str, Callable[..., object]],
        hear: Callable[[Mapping[str, Any]], None],
    ) -> Mapping[str, Any]:
        """On the other ranks: meets them, and does what rank 0 orders until the call is over.

        Args:
            note: what this rank holds.
            acts: what can be ordered, by name; may grow meanwhile.
            hear: takes what rank 0 says last, also where it has failed.

        Returns:
            What rank 0 said last.
        """
        self.meet(note)
        while True:
            name, what = self._receive()
            if name in (_OVER, _FAILED):
                known: Mapping[str, Any] = what["known"] or {}
                if known:
                    hear(known)
                if name == _FAILED:
                    raise _revived(0, what["told"])
                return known
            self._all_do(name, partial(acts[name], **what))  # what nobody could do rank 0 thinks about

    def _all_do(self, name: str, work: Callable[[], _Done]) -> tuple[list[_Done], Exception | None]:
        """Does what the other ranks do just now: its result, or what it raised, as it did everywhere."""
        failure: Exception | None = None
        done: list[_Done] = []
        self._is_ordering, self._have_parted = True, True
        try:
            done.append(work())
        except _Parted:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the others wait for a word; see `order`
            failure = error
        finally:
            self._is_ordering = False
        failures = self.gather({} if failure is None else _told(failure))
        failed = [rank for rank, told in enumerate(failures) if "text" in told]
        if failed and len(failed) < len(failures):
            raise _parted(failed, failures, name) from failure
        self._have_parted = False
        return done, failure

    def answer(self, kind: Any, ask: Callable[[], _Done]) -> _Done:
        """What rank 0 answers, within what all ranks do at once; the others hear it, or what it raises.

        Args:
            kind: the type of the answer, as `esper.leyline.encode` takes it.
            ask: called on rank 0 only.

        Raises:
            RankDivergence: another rank does not ask, because it has failed.
        """
        refusal: Exception | None = None
        mine: dict[str, Any] = {}
        answer: list[_Done] = []
        if self.number == 0:
            try:
                answer.append(ask())
                mine = {"answer": encoded(answer[0], kind)}
            except Exception as error:  # noqa: BLE001  whatever it is, the others wait for a word; see below
                refusal, mine = error, {"refusal": _told(error)}
        said = self.gather(mine)
        if failed := [rank for rank, one in enumerate(said) if "text" in one]:
            raise _parted(failed, said, "answer a question")
        if refusal is not None:
            raise refusal
        if "refusal" in said[0]:
            raise _revived(0, said[0]["refusal"])
        return answer[0] if answer else decoded(kind, said[0]["answer"])

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of what the ranks give."""
        total = tensor.to(self._device)
        with self._answering():
            dist.all_reduce(total, group=self._group)
        return total.to(tensor.device)

    def spread(self, tensor: Tensor) -> None:
        """Gives a tensor the values that it has on rank 0."""
        with self._answering():
            tensor.copy_(self._broadcast(tensor.contiguous()))

    def gather(self, value: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What every rank gives, in their order."""
        mine = _packed(value).to(self._device)
        with self._answering():
            sizes = [torch.zeros(1, dtype=torch.int64, device=self._device) for _ in range(len(self))]
            dist.all_gather(sizes, torch.tensor([mine.numel()], device=self._device), group=self._group)
            longest = max(int(size) for size in sizes)
            room = torch.zeros(longest, dtype=torch.uint8, device=self._device)
            room[: mine.numel()] = mine
            rooms = [torch.empty_like(room) for _ in sizes]
            dist.all_gather(rooms, room, group=self._group)
        return [_unpacked(full[: int(size)]) for full, size in zip(rooms, sizes, strict=True)]

    def _send(self, name: str, what: Mapping[str, Any]) -> None:
        """Rank 0 says something to all others; large tensors go as they are, one by one."""
        tree, tensors = encode({"name": name, "what": dict(what)})
        forms = [(key, str(t.dtype).removeprefix("torch."), list(t.shape)) for key, t in tensors.items()]
        head = _bytes(to_json({"tree": tree, "forms": forms}))
        with self._answering():
            self._broadcast(torch.tensor([head.numel()]))
            self._broadcast(head)
            for tensor in tensors.values():
                self._broadcast(tensor.detach().contiguous().reshape(-1).view(torch.uint8))

    def _receive(self) -> tuple[str, dict[str, Any]]:
        """What rank 0 says."""
        with self._answering():
            size = self._broadcast(torch.zeros(1, dtype=torch.int64))
            text = self._broadcast(torch.zeros(int(size), dtype=torch.uint8))
            head = from_json(text.cpu().numpy().tobytes())
            tensors = {}
            for key, kind, shape in head["forms"]:
                empty = torch.empty(shape, dtype=getattr(torch, kind))
                plain = self._broadcast(empty.reshape(-1).view(torch.uint8)).cpu()
                tensors[key] = plain.view(empty.dtype).reshape(shape)
        said = decode(head["tree"], tensors)
        return said["name"], said["what"]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self._have_parted = True
            raise RankLost(
                "A rank no longer answers: it has ended, was waited for longer than the timeout of the "
                "process group, or has no session (esper.attach, or the callback, is for every rank). Start "
                "all ranks again and resume (resume=True, or as the framework around them does it): they go "
                f"on from the last checkpoint. PyTorch says: {error}"
            ) from error

    def _broadcast(self, tensor: Tensor) -> Tensor:
        there = tensor.to(self._device)
        if there.numel():
            dist.broadcast(there, group=self._group, group_src=0)
        return there


class _Parted(RankDivergence):
    """The ranks do not listen to each other any more."""


def _parted(failed: Sequence[int], said: Sequence[Mapping[str, Any]], what: str) -> _Parted:
    return _Parted(
        f"{ranks(failed)} could not do what all ranks were to do ({what}): {said[failed[0]]['text']} The "
        "others did it, so the ranks may hold different networks. End this training, and resume all ranks "
        "from the last checkpoint."
    )


def _require_same(values: Sequence[Mapping[str, Any]], *, is_told: bool) -> None:
    """Compares what the ranks say or hold, one thing after the other.

    Args:
        values: of each rank, by names for people.
        is_told: whether a value says something to people.
    """
    for name, first in values[0].items():
        other = [rank for rank, said in enumerate(values) if said.get(name) != first]
        if other:
            what = (
                f": {_short(values[other[0]].get(name))} there, {_short(first)} on rank 0" if is_told else ""
            )
            verb = "differs" if len(other) == 1 else "differ"
            raise RankDivergence(
                f"{ranks(other)} {verb} from rank 0 in {name}{what}. Nothing was changed. All ranks have to "
                "make the same calls with the same settings after the same steps; weights that have parted "
                "come together again where all go on from the last checkpoint (they are resumed)."
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _told(error: BaseException) -> dict[str, str]:
    return {"kind": type(error).__name__, "text": str(error) or "(it says nothing)"}


def _revived(rank: int, told: Mapping[str, str]) -> EsperError:
    """What another rank has raised, to be raised here too."""
    kind = kind_named(told["kind"])
    if kind is not None:
        is_said = told["text"].startswith(_ON_RANK)  # rank 0 has heard it from the one that it is of
        return kind(told["text"] if is_said else f"{_ON_RANK}{rank}: {told['text']}")
    return EsperError(f"Rank {rank} has failed, and the others do not go on: {told['kind']}: {told['text']}")


def _packed(value: Mapping[str, Any]) -> Tensor:
    tree, tensors = encode(dict(value))
    held = base64.b64encode(b"".join(file_pieces(tensors))).decode()
    return _bytes(to_json({"tree": tree, "tensors": held}))


def _unpacked(packed: Tensor) -> dict[str, Any]:
    whole = from_json(packed.cpu().numpy().tobytes())
    value: dict[str, Any] = decode(whole["tree"], safetensors.torch.load(base64.b64decode(whole["tensors"])))
    return value


def _bytes(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)
