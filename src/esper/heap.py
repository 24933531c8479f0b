"""Objects elsewhere in the process, found by their classes and by what they hold.

The garbage collector is asked who refers to something, and not for all objects: a list of those would hold,
for as long as it lives, the tuples that other threads have only begun to fill, and Python fails a thread
whose unfinished tuple somebody else holds ("SystemError: bad argument to internal function").
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any, TypeGuard, TypeVar

_T = TypeVar("_T")


class Own(dict[str, Any]):
    """What Esper keeps by name itself: no search for what a training loop keeps takes it for that."""


def instances_of(*classes: type) -> tuple[Any, ...]:
    """All objects that are of one of these classes, and not of one derived from it.

    A tuple, so that who asks for the lists that hold one of them does not find this one.

    Args:
        classes: classes that are made in Python: an object of a built-in one does not refer to it.
    """
    # By who they are, and by the type: other people's classes may be equal to all others or have no hash,
    # and other people's objects may do anything when they are asked for their class.
    wanted = {id(kind) for kind in classes}
    return tuple([one for one in gc.get_referrers(*classes) if id(type(one)) in wanted])


def derived_from(kind: type) -> list[type]:
    """A class and all that are derived from it."""
    found: dict[int, type] = {id(kind): kind}
    to_ask = [kind]
    one: type
    while to_ask:
        for one in type.__subclasses__(to_ask.pop()):
            if id(one) not in found:
                found[id(one)] = one
                to_ask.append(one)
    return list(found.values())


def owners_of(values: Sequence[Any], attribute: str, kind: type[_T]) -> list[_T]:
    """The objects of a class, or of one derived from it, that have one of these in a dict of theirs.

    All are asked about at once: each question is a walk through everything that the process holds.

    Args:
        values: what they have.
        attribute: the dict's name.
        kind: the class.
    """
    held = {id(one): one for one in gc.get_referrers(*values) if type(one) is dict} if values else {}
    if not held:
        return []
    # An object's own dict refers to it, and the object to that; or the object does without one.
    holders = gc.get_referrers(*held.values())
    dicts = [one for one in holders if type(one) is dict and id(one.get(attribute)) in held]
    asked = [*holders, *(gc.get_referrers(*dicts) if dicts else ())]
    owners = {id(one): one for one in asked if _is(one, kind) and id(vars(one).get(attribute)) in held}
    return list(owners.values())


def _is(one: Any, kind: type[_T]) -> TypeGuard[_T]:
    return issubclass(type(one), kind)
