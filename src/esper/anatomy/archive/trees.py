"""How arguments and results are nested: tuples, lists and dicts; other kinds would be imported by name."""

from __future__ import annotations

import json
from typing import Any

from esper.anatomy.archive.names import NotAdmitted, identifier, shown

_PROTOCOL = 1
_MAX_DEPTH = 32
_SEQUENCES = ("builtins.tuple", "builtins.list")
_MAPPINGS = ("builtins.dict", "collections.OrderedDict")
_KEYS = (str, int, float, bool, type(None))
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


def tree(text: str) -> str:
    """The text of a tree of tuples, lists and dicts, written anew.

    Raises:
        NotAdmitted: it is no such tree.
    """
    try:
        protocol, root = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise NotAdmitted(
            f"the structure {shown(text)}, which is no tree of tuples, lists and dicts"
        ) from error
    if protocol != _PROTOCOL:
        raise NotAdmitted(f"a structure of version {shown(protocol)} instead of {_PROTOCOL}")
    return json.dumps([_PROTOCOL, _node(root, 0)])


def call_tree(text: str) -> str:
    """The tree of the arguments of a call; its keywords become names in Python that torch writes and runs."""
    admitted = tree(text)
    root = json.loads(admitted)[1]
    for part in root["children_spec"][1:2] if root["type"] == _SEQUENCES[0] else ():
        for key in json.loads(part["context"]) if part["type"] in _MAPPINGS else ():
            identifier(key if isinstance(key, str) else shown(key))
    return admitted


def _node(node: Any, depth: int) -> dict[str, Any]:
    if not isinstance(node, dict) or node.keys() != _LEAF.keys() or depth > _MAX_DEPTH:
        raise NotAdmitted(f"the structure {shown(node)}, which is no node of a tree")
    if node == _LEAF:
        return dict(_LEAF)
    kind, context, children = (node[name] for name in _LEAF)
    if not isinstance(children, list):
        raise NotAdmitted(f"the children {shown(children)} of a structure")
    if kind in _SEQUENCES:
        written = "null"
    elif kind in _MAPPINGS:
        written = json.dumps(_keys(context, len(children)))
    else:
        raise NotAdmitted(f"arguments or results of the kind {shown(kind)}; use tuples, lists and dicts")
    return {
        "type": kind,
        "context": written,
        "children_spec": [_node(child, depth + 1) for child in children],
    }


def _keys(context: Any, count: int) -> list[Any]:
    """The keys of a mapping. Objects among them would name a class to be imported."""
    try:
        keys: list[Any] | None = json.loads(context)
    except (ValueError, TypeError, RecursionError):
        keys = None
    if (
        isinstance(keys, list)
        and all(type(key) in _KEYS for key in keys)
        and len({*keys}) == count == len(keys)
    ):
        return keys
    raise NotAdmitted(f"the keys {shown(context)} of a mapping with {count} entries")
