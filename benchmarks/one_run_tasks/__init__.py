"""The two jobs of `one_run.py`, and the three ways in which each is trained."""

from one_run_tasks.arms import ARMS, Figures, trained
from one_run_tasks.fashion import fashion
from one_run_tasks.speeches import speeches
from one_run_tasks.task import Missing, Task

TASKS = {"fashion": fashion, "speeches": speeches}

__all__ = ["ARMS", "TASKS", "Figures", "Missing", "Task", "trained"]
