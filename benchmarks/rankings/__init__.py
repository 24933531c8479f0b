"""How well scores rank the units of a trained network: subjects, truth, our scores and a peer's."""

from rankings.peer import peer_scores
from rankings.scores import ablation_of_a_cycle, own_scores
from rankings.subjects import SUBJECTS, Subject
from rankings.truth import Truth, ablated

__all__ = ["SUBJECTS", "Subject", "Truth", "ablated", "ablation_of_a_cycle", "own_scores", "peer_scores"]
