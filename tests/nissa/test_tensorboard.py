"""What TensorBoard would show, read back from its files."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esper.nissa import Spread, TensorBoard, events, progress

EPOCH = progress.EpochEnded(
    3, 30, {"f1": 0.5, "loss": float("nan")}, 1e6, 1200, 4, 1.5, 0.1, 9.0, None, 60.0, 0.5, None
)


def values(directory: Path) -> Iterator[tuple[str, int, Any]]:
    """Tag, step and content of everything in the event files."""
    from tensorboardX.proto.event_pb2 import Event

    for path in directory.iterdir():
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])  # length, its sum, a message, its sum
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            for value in event.summary.value:
                text = value.tensor.string_val
                yield value.tag, event.step, text[0].decode() if text else round(value.simple_value, 6)


def test_numbers_are_curves_over_steps_and_acts_are_texts(tmp_path: Path) -> None:
    writer = TensorBoard(tmp_path)
    writer.write(1.0, EPOCH)
    writer.write(2.0, events.Refused(3, "No."))
    writer.write(3.0, events.Idle(3, "No news."))
    spread = Spread(4, 1, 1.0, 0.25, 0.1, 0.5, 0.25, 0.5, None)
    writer.write(4.0, progress.TelemetrySummary(3, "rank-0", {"step_seconds": spread}, 0, 0, ""))
    writer.close()
    assert list(values(tmp_path)) == [
        ("metrics/f1", 30, 0.5),
        ("network/flops", 30, 1e6),
        ("network/parameters", 30, 1200.0),
        ("network/masked_units", 30, 4.0),
        ("cost/epoch_seconds", 30, 1.5),
        ("cost/esper_seconds", 30, 0.1),
        ("cost/checkpoint_stall_ms_per_gb", 30, 60.0),
        ("cost/checkpoint_stall_seconds", 30, 0.5),
        ("epoch", 30, 3.0),
        ("esper/no_go/text_summary", 30, "Nothing was masked, the plan was refused: No."),
        ("step_seconds/not_finite", 30, 1.0),
        ("step_seconds/p50", 30, 0.25),
        ("step_seconds/p95", 30, 0.5),
    ]


def test_without_the_library_people_are_told_what_to_install() -> None:
    program = """
import sys
sys.modules["tensorboardX"] = None
from pathlib import Path
from esper.errors import ConfigError
from esper.nissa import TensorBoard
try:
    TensorBoard(Path("nowhere"))
except ConfigError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'esper-torch[tensorboard]'" in ended.stdout
