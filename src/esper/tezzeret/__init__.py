"""Kernels: seeds made and checked in a worker process, off the training path, stored sealed and verified."""

from esper.tezzeret.blueprints import BLUEPRINTS, Blueprint, blueprint, blueprints_in, check_options
from esper.tezzeret.making import filled, made, outline
from esper.tezzeret.order import KernelOrder, maker_of
from esper.tezzeret.settings import KernelSettings
from esper.tezzeret.shelf import Kernel, KernelShelf
from esper.tezzeret.smith import PRELOAD, Fetched, NoKernel, Tezzeret

__all__ = [
    "BLUEPRINTS",
    "PRELOAD",
    "Blueprint",
    "Fetched",
    "Kernel",
    "KernelOrder",
    "KernelSettings",
    "KernelShelf",
    "NoKernel",
    "Tezzeret",
    "blueprint",
    "blueprints_in",
    "check_options",
    "filled",
    "made",
    "maker_of",
    "outline",
]
