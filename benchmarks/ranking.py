"""How well each score finds the units that do not matter, judged by removing every unit on data nobody saw.

    python benchmarks/ranking.py [--only conv transformer pretrained] [--truth 1024] [--json]

Three trained networks. The truth is exact ablation on samples that neither training nor analysis saw:
the rise of the loss, and the mean squared change of the output. Printed for every score against both: the
share of the true lowest 30 % that it finds, Kendall's tau, and the area under the curve for "belongs to
the lowest 30 %", about what a cut of half of the FLOPs takes of every layer. The last line is the noise
ceiling: ablation on one half of the truth's samples judged by the other half.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from esper.arrays import FloatArray
from esper.importance import ImportanceTrackingValidator
from rankings import SUBJECTS, ablated, ablation_of_a_cycle, own_scores, peer_scores

JUDGE = ImportanceTrackingValidator(prune_fraction=0.3)
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--truth", type=int, default=1024, help="samples of the truth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        torch.manual_seed(options.seed)
        rows, told = judged(name, options.truth)
        if options.json:
            print(json.dumps({"network": name, "told": told, "rows": rows}), flush=True)
        else:
            show(name, told, rows)


def judged(name: str, samples: int) -> tuple[list[Row], str]:
    """Every score of one network against the truth, and one line on the network."""
    subject = SUBJECTS[name]()
    scores = {**own_scores(subject), **peer_scores(subject)}
    state = subject.state
    analysis = ablated(subject.twin, subject.anatomy, state, subject.seen)
    unseen = subject.unseen[: samples // len(subject.unseen[0][1])]
    truth = ablated(subject.twin, subject.anatomy, state, unseen)
    scores["exact ablation, analysis data"] = analysis.rise.mean(1), analysis.seconds
    scores["ablation as a cycle does it"] = ablation_of_a_cycle(subject)
    rows = [
        row(score, values, seconds, truth.rise.mean(1), truth.change.mean(1))
        for score, (values, seconds) in scores.items()
    ]
    one, other = truth.halves(truth.rise), truth.halves(truth.change)
    rows.append(row("ceiling: half of the truth", one[0], truth.seconds / 2, one[1], other[1]))
    sizes = [sum(len(batch[1]) for batch in part) for part in (subject.seen, unseen)]
    told = (
        f"{subject.quality}; {subject.anatomy.num_units} units in {len(subject.anatomy.groups)} groups; "
        f"analysis {sizes[0]} samples, truth {sizes[1]}"
    )
    return rows, told


def row(name: str, scores: FloatArray, seconds: float, rise: FloatArray, change: FloatArray) -> Row:
    by_loss, by_output = (JUDGE.validate(scores, truth, is_same_unit=False) for truth in (rise, change))
    return {
        "score": name,
        "seconds": seconds,
        "units": int(np.isfinite(scores).sum()),
        "loss": asdict(by_loss),
        "output": asdict(by_output),
    }


def show(name: str, told: str, rows: list[Row]) -> None:
    print(f"\n{name}: {told}")
    print(f"{'score':38}{'units':>6}{'seconds':>9}  {'loss: low 30 %':>14}{'tau':>7}{'AUC':>7}", end="")
    print(f"  {'output: low 30 %':>16}{'tau':>7}{'AUC':>7}")
    for line in rows:
        figures = "".join(
            f"  {of['low_overlap']:{width}.2f}{of['kendall_tau']:7.2f}{of['auc']:7.2f}"
            for of, width in ((line["loss"], 14), (line["output"], 16))
        )
        print(f"{line['score']:38}{line['units']:6}{line['seconds']:9.2f}{figures}", flush=True)


if __name__ == "__main__":
    main()
