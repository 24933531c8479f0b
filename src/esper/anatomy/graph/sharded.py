"""Networks in shards (`fully_shard`): put together for a look or a cut, and sharded again afterwards.

While a block runs inside of `gathered`, every process holds the whole network: plain parameters, the modules'
own classes, no hooks on the sharded modules. Then parameters that became smaller are sharded anew, by the
same mesh, placement and policies; all others get their shards back untouched. The network must fit into the
memory of each process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.errors import SurgeryError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@contextmanager
def gathered(model: nn.Module, optimizers: Sequence[Optimizer] = ()) -> Iterator[dist.ProcessGroup | None]:
    """Runs a block with the whole network, and its optimizers' whole state, in every process.

    If the block raises, every shard, state and class is the object that it was.

    Args:
        model: a network, sharded or not.
        optimizers: those that hold its parameters; groups keep their order, state follows.

    Yields:
        The group of processes that share the network; None if it is not sharded.

    Raises:
        SurgeryError: it is sharded in a way that cannot be made again.
    """
    if not is_sharded(model):
        yield None
        return
    shards = _Shards(model, optimizers)
    try:
        shards.gather()
        yield shards.group
    except BaseException:
        shards.put_back()
        raise
    shards.scatter()


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` was applied to any part of it."""
    return bool(_blocks(model))


def _blocks(model: nn.Module) -> list[Any]:
    if not dist.is_available() or not dist.is_initialized():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


class _Shards:
    """The shards of one network, and what they become."""

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._blocks = _blocks(model)
        for block in self._blocks:
            block.reshard()
        groups = [group for block in self._blocks for group in block._get_fsdp_state()._fsdp_param_groups]
        self._groups = list({id(group): group for group in groups}.values())
        for parameter in self._parameters():
            _check(parameter)
        self.group: dist.ProcessGroup = self._parameters()[0].sharded_param.device_mesh.get_group()
        self._optimizers = tuple(optimizers)
        self._classes = {
            block: (type(block), {name: vars(block)[name] for name in _HOOKS}) for block in self._blocks
        }
        self._whole: dict[Tensor, Tensor] = {}
        self._state = [dict(optimizer.state) for optimizer in self._optimizers]

    def _parameters(self) -> list[Any]:
        return [parameter for group in self._groups for parameter in group.fsdp_params]

    def gather(self) -> None:
        for parameter in self._parameters():
            shard = parameter.sharded_param
            whole = nn.Parameter(_whole(shard.detach()), requires_grad=shard.requires_grad)
            whole.grad = None if shard.grad is None else _whole(shard.grad)
            self._whole[shard] = whole
            _put(parameter, whole)
        for block, (kind, hooks) in self._classes.items():
            # The module's own class and no hooks: those of sharding would gather and free what is whole
            # already.
            block.__class__ = kind.__mro__[kind._orig_cls_mro_index]
            for name, registered in hooks.items():
                vars(block)[name] = type(registered)()
        for optimizer, state in zip(self._optimizers, self._state, strict=True):
            _rename(optimizer, self._whole)
            _replace(
                optimizer,
                {self._whole.get(p, p): {k: _whole(v) for k, v in kept.items()} for p, kept in state.items()},
            )

    def put_back(self) -> None:
        """As it was."""
        for parameter in self._parameters():
            _put(parameter, parameter.sharded_param)
        self._restore_blocks()
        for optimizer, state in zip(self._optimizers, self._state, strict=True):
            _rename(optimizer, {whole: shard for shard, whole in self._whole.items()})
            _replace(optimizer, state)

    def scatter(self) -> None:
        """Shards again what has another shape now."""
        renewed: dict[Tensor, Tensor] = {}
        for group in self._groups:
            for number, old in enumerate(group.fsdp_params):
                whole = self._whole[old.sharded_param]
                if whole.shape == old.sharded_param.shape:
                    _put(old, old.sharded_param)
                    renewed[whole] = old.sharded_param
                else:
                    group.fsdp_params[number] = new = _sharded_anew(old, whole, group)
                    renewed[whole] = new.sharded_param
        self._restore_blocks()
        for optimizer, before in zip(self._optimizers, self._state, strict=True):
            states = dict(optimizer.state)
            _rename(optimizer, renewed)
            # What kept its shape keeps its state, the very object; what became smaller is sharded as the old
            # state was.
            after = {}
            for old_parameter, old_state in before.items():
                whole = self._whole.get(old_parameter, old_parameter)
                if whole.shape == old_parameter.shape:
                    after[old_parameter] = old_state
                else:
                    values = states[whole]
                    after[renewed[whole]] = {k: _like(v, old_state.get(k)) for k, v in values.items()}
            _replace(optimizer, after)

    def _restore_blocks(self) -> None:
        for block, (kind, hooks) in self._classes.items():
            original = kind.__mro__[kind._orig_cls_mro_index]
            bases = kind.__mro__[1], type(block)  # a cut may have given the module another class of its own
            if type(block) is not kind:
                block.__class__ = (
                    kind if type(block) is original else type(f"FSDP{bases[1].__name__}", bases, {})
                )
            vars(block).update(hooks)


def _check(parameter: Any) -> None:
    shard = parameter.sharded_param
    if parameter.is_dtensor or shard.device_mesh.ndim != 1:
        raise SurgeryError(
            f"A parameter of shape {tuple(shard.shape)} is sharded over a mesh of {shard.device_mesh.ndim} "
            "dimension(s) or together with tensor parallelism; Esper follows `fully_shard` over one "
            "dimension. Nothing was changed. Cut the network before it is parallelized, and shard what is "
            "left."
        )
    unsharded = vars(parameter).get("_unsharded_param")
    waits = unsharded is not None and unsharded.grad is not None
    if waits or parameter.unsharded_accumulated_grad is not None:
        raise SurgeryError(
            f"A parameter of shape {tuple(shard.shape)} holds gradients that the processes have not yet "
            "exchanged (set_requires_gradient_sync(False)). Nothing was changed. Look at the network, or cut "
            "it, after a step of the optimizer."
        )


def _whole(value: Any) -> Any:
    from torch.distributed.tensor import DTensor

    return value.full_tensor().clone() if isinstance(value, DTensor) else value


def _like(value: Any, old: Any) -> Any:
    """A whole value in shards as the old one was."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(old, DTensor):
        return value
    return distribute_tensor(value.contiguous(), old.device_mesh, old.placements, src_data_rank=None)


def _put(parameter: Any, value: nn.Parameter) -> None:
    """Registers a tensor in every place of a parameter."""
    info = parameter._module_info
    places = zip(
        (info.module, *info.shared_modules), (info.param_name, *info.shared_param_names), strict=True
    )
    for module, name in places:
        vars(module)["_parameters"][name] = value


def _sharded_anew(old: Any, whole: Tensor, group: Any) -> Any:
    old._post_load_hook_handle.remove()
    new = type(old)(
        nn.Parameter(whole.detach().contiguous(), requires_grad=whole.requires_grad),
        old._module_info,
        old.mesh_info,
        old.post_forward_mesh_info,
        old.device,
        lambda _: old.fsdp_placement,
        old.mp_policy,
        group.offload_policy,
    )
    new._param_fqn = old._param_fqn
    if hasattr(old, "orig_dtype"):  # set by the first forward pass
        new.init_dtype_attrs(old.mp_policy)
    new.sharded_param.grad = None if whole.grad is None else _like(whole.grad, new.sharded_param)
    new.sharded_param._post_accumulate_grad_hooks = old.sharded_param._post_accumulate_grad_hooks
    return new


def _rename(optimizer: Optimizer, names: Mapping[Any, Any]) -> None:
    for group in optimizer.param_groups:
        group["params"] = [names.get(parameter, parameter) for parameter in group["params"]]


def _replace(optimizer: Optimizer, state: Mapping[Any, Any]) -> None:
    optimizer.state.clear()
    optimizer.state.update(state)
