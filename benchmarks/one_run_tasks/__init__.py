"""The two jobs of `one_run.py`, and the three ways in which each is trained."""

from one_run_tasks.arms import ARMS, PEER_EPOCH, Figures, trained
from one_run_tasks.clock import Clock
from one_run_tasks.fashion import fashion, fashion_part
from one_run_tasks.speeches import SmallGPT, codes, next_character, speeches, texts
from one_run_tasks.task import Task
from pretrained_networks.case import Missing

TASKS = {"fashion": fashion, "speeches": speeches}

__all__ = [
    "ARMS",
    "PEER_EPOCH",
    "TASKS",
    "Clock",
    "Figures",
    "Missing",
    "SmallGPT",
    "Task",
    "codes",
    "fashion_part",
    "next_character",
    "texts",
    "trained",
]
