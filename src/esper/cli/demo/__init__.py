"""`esper demo`: the main job on real digits, with the network and the data that it needs."""

from esper.cli.demo.demo import free_folder, run_demo
from esper.cli.demo.digits import Split, load_digits
from esper.cli.demo.growing import run_growing_demo
from esper.cli.demo.resnet8 import ResNet8

__all__ = ["ResNet8", "Split", "free_folder", "load_digits", "run_demo", "run_growing_demo"]
