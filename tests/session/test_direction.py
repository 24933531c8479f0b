"""The name of a metric says which way it goes, or that it does not say it."""

from __future__ import annotations

import pytest

from esper.session.metrics import direction_of


@pytest.mark.parametrize(
    ("names", "is_more_better"),
    [
        (
            ("val_loss", "valLoss", "logloss", "smape", "eval/rmse", "test error", "rel_l2"),
            False,
        ),
        (("accuracy", "top_5", "c_index", "val_f1", "R2", "neg_loss", "recall_at_20", "acc1", "mAP50"), True),
        (("quality", "m", "lossless"), None),
    ],
)
def test_names_say_it_as_people_write_them(names: tuple[str, ...], is_more_better: bool | None) -> None:
    assert {name: direction_of(name) for name in names} == dict.fromkeys(names, is_more_better)
