"""Every event says what happened, in words of its own, without anybody's help."""

from __future__ import annotations

import dataclasses
import inspect
import typing

import pytest

from esper.nissa import Spread, acts, assumed, events, given_events, mail_events, progress, seed_events
from esper.nissa.event import Event, MarkKind, Moment, Severity

KINDS: list[type[Event]] = [
    kind
    for module in (acts, assumed, events, given_events, mail_events, progress, seed_events)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Event) and kind not in (Event, Moment, seed_events.OfSeed)
]
SAMPLES = {
    "int": 7,
    "float": 0.25,
    "str": "because.",
    "bool": True,
    "int | None": 7,
    "str | None": "there",
    "float | None": 0.25,
    "Mapping[str, float]": {"accuracy": 0.5},
    "Mapping[str, Spread]": {"step_seconds": Spread(9, 1, 0.9, 0.1, 0.05, 0.2, 0.1, 0.15, 0.19)},
    "Mapping[str, Any]": {"units": 3, "finalists": 12},
}


def example(kind: type[Event]) -> Event:
    """One with something in every field."""
    values = {field.name: SAMPLES.get(str(field.type), ("up", "down")) for field in dataclasses.fields(kind)}
    return kind(**values)


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_makes_one_sentence_of_all_its_fields_and_can_be_compared(kind: type[Event]) -> None:
    event = example(kind)
    assert event.text.strip()
    assert "{" not in event.text
    assert event == example(kind)
    assert not kind.is_once or len({event, example(kind)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.says = ""  # type: ignore[misc]  # what the test is about


@pytest.mark.parametrize("kind", KINDS)
def test_what_makes_a_mark_knows_its_epoch(kind: type[Event]) -> None:
    marks = (None, *typing.get_args(MarkKind))
    assert kind.kind in marks
    assert kind.kind is None or issubclass(kind, Moment)


@pytest.mark.parametrize("kind", KINDS)
def test_a_problem_is_in_the_report_as_a_mark_or_as_a_note(kind: type[Event]) -> None:
    assert kind.severity < Severity.PROBLEM or kind.kind is not None or kind.is_noted


def test_every_kind_of_mark_has_an_event() -> None:
    assert {kind.kind for kind in KINDS} == {None, *typing.get_args(MarkKind)}


def test_an_event_holds_plain_values_only() -> None:
    plain = {*SAMPLES, "tuple[str, ...]"}
    assert {str(field.type) for kind in KINDS for field in dataclasses.fields(kind)} == plain


def test_a_resume_tells_of_seeds_where_there_are_some() -> None:
    without = acts.Resumed("runs/a", 8, 1, 2, 0, 3, 0.5, "flops", "id", {})
    assert "again, 3 unit(s)" in without.text
    assert "again, 1 seed(s) grown again, 3 unit(s)" in dataclasses.replace(without, grown=1).text


def test_a_mask_that_was_shrunk_or_is_on_probation_says_so() -> None:
    whole = acts.Masked(3, 8, 8, False, 0.1, 0.25, "flops", "Go.")
    assert whole.text == "Masked 8 units, 10.0% to 25.0% of the flops removed. Go."
    part = dataclasses.replace(whole, units=6, is_on_probation=True)
    assert part.text == (
        "Masked 6 of 8 units on probation, 10.0% to 25.0% of the flops removed. Go. "
        "That is of the whole plan; the weights have moved on, so it was shrunk."
    )
    assert part.line == f"epoch 3: {part.text}"


def test_a_cut_tells_what_it_saved_and_how_exact_it_is() -> None:
    assert events.Cut(2, 5, 0.125, 1.5e-15).text == (
        "Cut 5 units: 12.5% fewer parameters, equal to the masked network within 1.5e-15."
    )


def test_a_way_back_names_the_step_or_says_that_only_masks_went() -> None:
    assert events.RolledBack(4, "Too bad.", 120).text == (
        "Too bad. Therefore everything went back to the verified checkpoint of step 120."
    )
    assert "taken back exactly" in events.RolledBack(4, "Too bad.", None).text


def test_what_stays_masked_is_counted_where_only_some_of_it_does() -> None:
    assert events.StaysMasked(3, "No.").text == "The masks of epoch 3 stay masks: No."
    some = events.StaysMasked(3, "No.", 2, ("up", "down"))
    assert some.text == "2 masked unit(s) in up, down of epoch 3 stay masks: No."


def test_a_checkpoint_that_was_passed_over_names_its_place_if_it_was_moved() -> None:
    assert events.PassedOver("step-2: damaged", None).text.endswith("passed over: step-2: damaged")
    assert events.PassedOver("step-2: damaged", ".aside").text.endswith("set aside as .aside")


def test_braces_in_what_others_say_are_left_alone() -> None:
    assert events.Skipped(1, "KeyError: {x}").text == "KeyError: {x}"


def test_one_unit_is_no_units() -> None:
    assert acts.Masked(3, 1, 1, False, 0.1, 0.25, "flops", "Go.").text.startswith("Masked 1 unit, 10.0%")
    small = acts.Masked(3, 2, 2, False, 0.25401, 0.25433, "flops", "Go.")
    assert "25.40% to 25.43%" in small.text
    assert "10.0% to 10.0%" in acts.Masked(3, 2, 2, False, 0.1, 0.1, "flops", "Go.").text
    assert events.Cut(3, 1, 0.1, 1e-7).text.startswith("Cut 1 unit: 10.0% fewer")
    assert events.Cut(3, 2, 0.1, 1e-7).text.startswith("Cut 2 units: ")
