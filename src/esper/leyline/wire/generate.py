"""Makes the code of the messages again: `python -m esper.leyline.wire.generate`; needs the `dev` extra."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).parent


def generate(folder: Path) -> list[Path]:
    """Writes `leyline_pb2.py` and its types into a folder; returns what was written.

    Raises:
        ModuleNotFoundError: grpcio-tools is not installed.
        RuntimeError: the compiler refuses `leyline.proto`; it has said why on standard error.
    """
    protoc = import_module("grpc_tools.protoc")
    options = [f"--proto_path={FOLDER}", f"--python_out={folder}", f"--pyi_out={folder}"]
    if code := protoc.main(["protoc", *options, "leyline.proto"]):
        raise RuntimeError(f"protoc ended with {code}; {FOLDER / 'leyline.proto'} was not compiled.")
    return [folder / f"leyline_pb2{ending}" for ending in (".py", ".pyi")]


def main(arguments: Sequence[str]) -> None:
    """Writes into the folder that is named, or into the package."""
    folder = Path(arguments[0]) if arguments else FOLDER
    sys.stdout.writelines(f"{path}\n" for path in generate(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
