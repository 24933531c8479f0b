"""The name of a metric says which way it goes, or that it does not say it."""

from __future__ import annotations

import pytest

from esper.session.metric_names import deciding_one, direction_of


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


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (("acc",), "acc"),
        (("loss", "val_loss"), "val_loss"),
        (("val_loss", "val_acc"), "val_acc"),
        (("loss", "train_acc", "trainLoss", "val_loss", "val_acc"), "val_acc"),
        (("quality",), "quality"),
        (("loss", "train_loss"), ""),
        ((), ""),
        (("val_f1", "val_acc"), None),
        (("val_mse", "val_mae"), None),
    ],
)
def test_one_is_chosen_where_only_one_can_be_meant(names: tuple[str, ...], one: str | None) -> None:
    assert deciding_one(names) == one
