"""Whatever somebody writes into an archive, it is loaded rightly or refused; it never runs."""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251 - what must not be loaded is made here
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.anatomy.archive import read_module, read_program, write_program
from esper.errors import CheckpointCorrupt, CheckpointError
from tests.anatomy.archive.archives import (
    CONSTANTS,
    MODEL,
    SCALE,
    WEIGHTS,
    X,
    dicts_in,
    entries_of,
    packed,
    stored,
    with_json,
)

Change = Callable[[Any], None]


def test_what_is_written_is_read_back_and_computes_the_same() -> None:
    module = read_module(stored())
    expected = torch.export.load(io.BytesIO(stored())).module()(X, scale=SCALE)
    result = module(X, scale=SCALE)
    assert torch.equal(result["y"], expected["y"])
    assert torch.equal(result["more"][0], expected["more"][0])
    assert read_module(stored())(X[:1].repeat(5, 1), scale=SCALE)["y"].shape == (10, 3)


def test_tensors_that_share_memory_share_it_again() -> None:
    shared = torch.nn.Linear(4, 4)
    twice = torch.nn.Sequential(shared, shared)
    program = torch.export.export(twice.eval(), (torch.ones(2, 4),))
    state = read_program(write_program(program)).program.state_dict
    assert state["0.weight"].data_ptr() == state["1.weight"].data_ptr()


def test_texts_beside_the_program_come_back() -> None:
    program = read_program(stored()).program
    assert read_program(write_program(program, {"esper.json": "{}"})).extra == {"esper.json": "{}"}


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def code(mark: Path) -> str:
    return f"__import__('pathlib').Path('{mark}').touch()"


def in_every(key: str, value: Callable[[Path, Any], Any]) -> Callable[[Path], Change]:
    """Puts a value wherever the key is."""

    def for_mark(mark: Path) -> Change:
        def change(model: Any) -> None:
            holders = [inner for inner in dicts_in(model) if key in inner]
            assert holders, key
            for inner in holders:
                inner[key] = value(mark, inner[key])

        return change

    return for_mark


def in_first_node(edit: Callable[[Path, dict[str, Any]], None]) -> Callable[[Path], Change]:
    return lambda mark: lambda model: edit(mark, model["graph_module"]["graph"]["nodes"][0])


def into_signature(line: str) -> Callable[[Path], Change]:
    """An input named so that the Python that torch writes would hold the code."""

    def for_mark(mark: Path) -> Change:
        def change(model: Any) -> None:
            text = json.dumps(model).replace('"input_0"', json.dumps(line.format(code=code(mark))))
            model.update(json.loads(text))

        return change

    return for_mark


def tree_of(kind: str, context: str) -> str:
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    return json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])


DOORS: dict[str, tuple[Callable[[Path], Change], str]] = {
    "an expression": (in_every("expr_str", lambda mark, _: code(mark)), "more than arithmetic"),
    "a call within arithmetic": (
        in_every("expr_str", lambda mark, old: f"Add({old}, {code(mark)})"),
        "more than arithmetic",
    ),
    "an expression without end": (
        in_every("expr_str", lambda *_: "Pow(Integer(10), Integer(1000000000))"),
        "more than arithmetic",
    ),
    "an operator by its path": (
        in_first_node(lambda _, node: node.update(target="torch.os.system")),
        "operator",
    ),
    "an operator that reads files": (
        in_first_node(lambda _, node: node.update(target="torch.ops.aten.from_file.default")),
        "operator",
    ),
    "an operator that only scripts know": (
        in_first_node(lambda _, node: node.update(target="torch.ops.aten.save.default")),
        "operator",
    ),
    "a compiled library": (
        in_first_node(lambda _, node: node.update(target="torch.ops.higher_order.aoti_call_delegate")),
        "operator",
    ),
    "an operator as a value": (
        in_first_node(lambda _, node: node["inputs"][0].update(arg={"as_operator": "torch.os.system"})),
        "plain values",
    ),
    "an object": (
        in_first_node(
            lambda _, node: node["inputs"][0].update(
                arg={"as_custom_obj": {"name": "x", "class_fqn": "os.x"}}
            )
        ),
        "plain values",
    ),
    "the name of an input": (into_signature("x, y={code}"), "identifier"),
    "the name of a result": (
        in_first_node(lambda mark, node: node.update(name=f"x = {code(mark)}; y")),
        "identifier",
    ),
    "the name of an argument": (
        in_first_node(lambda mark, node: node["inputs"][0].update(name=f"x={code(mark)}, y")),
        "identifier",
    ),
    "the name of a weight": (
        in_every("parameter_name", lambda mark, _: f'a")) or {code(mark)} or (("'),
        "no module gives a tensor",
    ),
    "the name of a keyword": (
        in_every("forward_arg_names", lambda mark, _: [f"x={code(mark)}"]),
        "identifier",
    ),
    "a default that is imported": (
        in_every("out_spec", lambda *_: tree_of("collections.defaultdict", "{}")),
        "of the kind",
    ),
    "a key that is imported": (
        in_every(
            "in_spec",
            lambda *_: tree_of("builtins.dict", '[{"__enum__": true, "fqn": "antigravity:x", "name": "y"}]'),
        ),
        "keys",
    ),
    "a class that is looked up": (
        in_every("out_spec", lambda *_: tree_of("os.stat_result", "null")),
        "of the kind",
    ),
    "a field that nobody knows": (lambda _: lambda model: model.update(more="x"), "has none of that name"),
    "another version": (lambda _: lambda model: model["schema_version"].update(major=99), "version 99"),
    "a number without end": (in_every("as_int", lambda *_: 10**40), "64 bits"),
    "a symbol without end": (
        lambda _: (
            lambda model: model.update(range_constraints={"u99999999999": {"min_val": 0, "max_val": 1}})
        ),
        "symbol",
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_door_leads_to_code(door: str, tmp_path: Path) -> None:
    change, reason = DOORS[door]
    mark = tmp_path / "ran"
    with pytest.raises(CheckpointCorrupt, match=reason):
        read_module(with_json(change(mark)))
    assert not mark.exists()


def test_python_that_checks_inputs_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    data = with_json(lambda model: model.update(guards_code=[code(mark)]))
    assert read_module(data)(X, scale=SCALE)["y"].shape == (6, 3)
    assert not mark.exists()


def opaque(entries: dict[str, bytes], bomb: bytes) -> None:
    config = json.loads(entries[CONSTANTS])
    meta = next(iter(config["config"].values()))
    config["config"]["x"] = {**meta, "path_name": "opaque_obj_0"}
    entries[CONSTANTS] = json.dumps(config).encode()
    entries["archive/data/constants/opaque_obj_0"] = bomb


def flagged(entries: dict[str, bytes], bomb: bytes) -> None:
    config = json.loads(entries[WEIGHTS])
    meta = next(iter(config["config"].values()))
    meta["use_pickle"] = True
    entries[WEIGHTS] = json.dumps(config).encode()
    entries[f"archive/data/weights/{meta['path_name']}"] = bomb


def member(name: str) -> Callable[[dict[str, bytes], bytes], None]:
    return lambda entries, bomb: entries.update({name: bomb})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (opaque, "does not belong there"),
        (flagged, "pickled tensors"),
        (member("archive/data/weights/model.pt"), "does not belong there"),
        (member("archive/data/constants/model.pt"), "does not belong there"),
        (member("archive/data/sample_inputs/model.pt"), "sample inputs"),
        (member("archive/data/aotinductor/model/wrapper.so"), "does not belong there"),
        (member("archive/models/other.json"), "does not belong there"),
        (member("other/models/model.json"), "occur twice"),
        (member("serialized_state_dict.pt"), "does not belong there"),
        (lambda entries, _: entries.pop(CONSTANTS), "no data/constants"),
        (lambda entries, _: entries.update({CONSTANTS: b"[1"}), "no JSON"),
        (lambda entries, _: entries.update({MODEL: b"[" * 100_000}), "no JSON"),
        (lambda entries, _: entries.update({"archive/archive_version": b"1"}), "no archive_version of 0"),
    ],
)
def test_members_that_need_pickle_or_are_anything_else_are_refused(
    change: Callable[[dict[str, bytes], bytes], None], reason: str, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    entries = entries_of(stored())
    change(entries, pickle.dumps(Bomb(mark)))
    with pytest.raises(CheckpointCorrupt, match=reason):
        read_module(packed(entries))
    assert not mark.exists()


def test_a_bomb_of_zeros_is_not_inflated() -> None:
    entries = {**entries_of(stored()), "archive/data/weights/weight_9": bytes(1 << 24)}
    with pytest.raises(CheckpointCorrupt, match="compressed"):
        read_module(packed(entries, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("field", ["sizes", "strides", "storage_offset"])
def test_a_tensor_that_claims_more_than_its_bytes_is_refused(field: str) -> None:
    def change(config: Any) -> None:
        meta = config["config"]["model.first.weight"]["tensor_meta"]
        much = {"as_int": 1 << 40}
        meta[field] = much if field == "storage_offset" else [much, {"as_int": 1}]

    with pytest.raises(CheckpointCorrupt, match="does not fit"):
        read_module(with_json(change, WEIGHTS))


def test_what_would_not_be_read_back_is_not_written() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize()

    program = torch.export.export(Odd(), (torch.ones(2),))
    with pytest.raises(CheckpointError, match="quantize_per_tensor"):
        write_program(program)


def mutated(source: random.Random, mark: Path) -> bytes:
    """The archive with one value, key or bit changed at random, often into code."""
    if source.random() < 0.2:
        data = bytearray(stored())
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        return bytes(data)

    def change(model: Any) -> None:
        holder = source.choice([inner for inner in dicts_in(model) if inner])
        key = source.choice(list(holder))
        if source.random() < 0.2:
            holder[code(mark)] = holder.pop(key)
        else:
            odd: list[Any] = [
                code(mark),
                f"'{code(mark)}",
                "",
                "as_int",
                "torch",
                None,
                True,
                -1,
                1 << 62,
                [],
                {},
            ]
            holder[key] = source.choice(odd)

    return with_json(change, source.choice([MODEL, MODEL, MODEL, WEIGHTS, CONSTANTS]))


def test_archives_changed_at_random_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    mark, source, refused = tmp_path / "ran", random.Random(0), 0
    for _ in range(60):
        try:
            read_module(mutated(source, mark))
        except CheckpointCorrupt:
            refused += 1
        assert not mark.exists()
    assert refused > 20
