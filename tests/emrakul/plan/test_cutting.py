"""A cut during training leaves fast widths and has to save enough."""

from __future__ import annotations

import numpy as np

from esper.emrakul.plan.cutting import worthwhile_cut
from esper.emrakul.plan.situation import Situation
from esper.emrakul.settings import Settings
from tests.emrakul.networks import chain


def settings(round_to: int) -> Settings:
    return Settings.model_validate({"target": {"flops": 0.5}, "plan": {"round_to": round_to}})


def masked(*units: int, of: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    keep = np.ones(of, np.bool_)
    keep[list(units)] = False
    return keep


def test_everything_masked_goes_where_no_multiple_is_asked_for() -> None:
    keep = masked(0, 1, 2, 25, of=40)
    left = worthwhile_cut(Situation.whole(chain([20, 20])).under(keep), settings(1), 0.05)
    assert left is not None
    np.testing.assert_array_equal(left, keep)


def test_only_what_leaves_a_multiple_goes_and_the_rest_stays_masked() -> None:
    keep = masked(*range(10), 16, 17, of=32)  # 6 of 16 kept, 14 of 16 kept
    left = worthwhile_cut(Situation.whole(chain([16, 16])).under(keep), settings(8), 0.05)
    assert left is not None
    assert left[:16].sum() == 8
    assert left[16:].all()
    assert not (keep & ~left).any()  # nothing goes that is not masked


def test_a_cut_that_saves_too_little_waits() -> None:
    situation = Situation.whole(chain([40, 40])).under(masked(0, of=80))
    assert worthwhile_cut(situation, settings(1), 0.05) is None
    assert worthwhile_cut(situation, settings(1), 0.0) is not None


def test_without_masks_there_is_nothing_to_cut() -> None:
    assert worthwhile_cut(Situation.whole(chain([40])), settings(1), 0.0) is None
