"""Objects found by their classes while another thread goes on building tuples."""

from __future__ import annotations

import threading

from torch import Tensor, nn, rand

from esper.heap import derived_from, instances_of, owners_of


class Odd(type):
    """Classes that are equal to all others, and have no hash."""

    def __eq__(cls, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # what the test is about


class Strange(metaclass=Odd):
    """An object of such a class."""


class Derived(nn.Linear):
    """A class of somebody's own."""


def test_objects_are_found_by_their_class_and_classes_by_what_they_are_derived_from() -> None:
    one, other, strange, tensor = Derived(1, 1), nn.Linear(1, 1), Strange(), rand(2)
    exactly = {id(each) for each in instances_of(nn.Linear, Tensor)}
    assert {id(other), id(tensor)} <= exactly
    assert {id(one), id(strange)}.isdisjoint(exactly)
    assert {id(one), id(other)} <= {id(each) for each in instances_of(*derived_from(nn.Linear))}
    assert derived_from(Derived) == [Derived]


def test_owners_have_the_very_thing_in_the_dict_of_that_name() -> None:
    inner = nn.Linear(1, 1)
    outer, other = nn.Sequential(inner), Derived(1, 1)
    assert owners_of([inner], "_modules", nn.Module) == [outer]
    assert len(owners_of([inner.weight, other.weight], "_parameters", nn.Module)) == 2
    assert not owners_of([], "_modules", nn.Module)
    assert owners_of([inner.weight], "_parameters", nn.Linear) == [inner]
    assert not owners_of([inner], "_parameters", nn.Module)
    assert owners_of([other.weight], "_parameters", Derived) == [other]
    assert not owners_of([inner.weight], "_parameters", Derived)


def test_threads_that_build_tuples_meanwhile_get_them() -> None:
    is_over, failures = threading.Event(), list[BaseException]()

    def build() -> None:
        try:
            while not is_over.is_set():
                assert len(tuple(number for number in range(500))) == 500
        except BaseException as error:  # noqa: BLE001  what the test is about
            failures.append(error)

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    linear = nn.Linear(1, 1)
    for _ in range(10):
        assert linear in instances_of(nn.Linear, Tensor)
        owners_of([linear.weight], "_parameters", nn.Module)
    is_over.set()
    for thread in threads:
        thread.join()
    assert not failures
