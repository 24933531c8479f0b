"""The members of an archive: which may be there, and their bytes.

The archive is taken apart once, by this reader, and what was checked is what is used: a second reader could
be led to other members of the same file.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from esper.anatomy.archive.names import NotAdmitted, shown

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
_NEEDED = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_EXTRA = "extra/"
_MEMBER = re.compile(
    rf"{MODEL}|{WEIGHTS}|{CONSTANTS}|{_SAMPLE_INPUTS}|{'|'.join(_NEEDED)}"
    r"|\.data/version|\.data/serialization_id"
    r"|data/weights/weight_[0-9]{1,9}|data/constants/tensor_[0-9]{1,9}|extra/[A-Za-z0-9_]{1,64}\.json"
)
_MAX_JSON_BYTES = 128 << 20
_IS_ENCRYPTED = 1
_LOCAL = struct.Struct("<26xHH")
"""The header before each member ends with the lengths of the two parts between it and the content."""
_UNREADABLE = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    struct.error,
)


def members(data: bytes) -> dict[str, memoryview]:
    """The members of an exported program by their names below its one root.

    Nothing is inflated and nothing is copied: members are stored as they are, and each is a part of `data`.

    Raises:
        NotAdmitted: it is no such archive, or holds anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            names = _names(entries, len(data))
    except NotAdmitted:
        raise
    except _UNREADABLE as error:
        raise NotAdmitted(f"no archive of an exported program ({error})") from error
    content = {name: _content(data, entry) for name, entry in zip(names, entries, strict=True)}
    for name, expected in _NEEDED.items():
        if bytes(content.get(name, b"")) != expected:
            raise NotAdmitted(f"no {name} of {expected.decode()}")
    if content.get(_SAMPLE_INPUTS):
        raise NotAdmitted(f"sample inputs ({_SAMPLE_INPUTS}), which only pickle reads")
    for name in (MODEL, WEIGHTS, CONSTANTS):
        if name not in content:
            raise NotAdmitted(f"no {name}")
    return content


def _names(entries: list[zipfile.ZipInfo], size: int) -> list[str]:
    names = []
    roots = {entry.filename.partition("/")[0] for entry in entries}
    for entry in entries:
        name = entry.filename.partition("/")[2]
        if not _MEMBER.fullmatch(name):
            raise NotAdmitted(f"a member {shown(entry.filename)}, which does not belong there")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise NotAdmitted(f"the member {name} compressed, and nothing is inflated")
        if entry.flag_bits & _IS_ENCRYPTED:
            raise NotAdmitted(f"the member {name} encrypted")
        names.append(name)
    if len(roots) != 1 or len(set(names)) != len(names):
        raise NotAdmitted("members whose names occur twice")
    if sum(entry.file_size for entry in entries) > size:
        raise NotAdmitted("members that overlap")
    return names


def _content(data: bytes, entry: zipfile.ZipInfo) -> memoryview:
    """The bytes of a member, checked against their sum."""
    header = data[entry.header_offset : entry.header_offset + _LOCAL.size]
    if len(header) < _LOCAL.size:
        raise NotAdmitted(f"only the beginning of {shown(entry.filename)}")
    start = entry.header_offset + _LOCAL.size + sum(_LOCAL.unpack(header))
    content = memoryview(data)[start : start + entry.file_size]
    if len(content) != entry.file_size or zlib.crc32(content) != entry.CRC:
        raise NotAdmitted(f"other bytes as {shown(entry.filename)} than were stored: the file was damaged")
    return content


def json_of(content: Mapping[str, memoryview], name: str) -> Any:
    """A member as JSON.

    Raises:
        NotAdmitted: it is none.
    """
    if len(content[name]) > _MAX_JSON_BYTES:
        raise NotAdmitted(f"{len(content[name])} bytes of {name}; at most {_MAX_JSON_BYTES} are read")
    try:
        return json.loads(bytes(content[name]))
    except (ValueError, RecursionError) as error:
        raise NotAdmitted(f"a {name} that is no JSON ({error})") from error


def extras(content: Mapping[str, memoryview]) -> dict[str, str]:
    """What was stored beside the program, by name.

    Raises:
        NotAdmitted: it is no text.
    """
    try:
        return {
            name.removeprefix(_EXTRA): bytes(value).decode()
            for name, value in content.items()
            if name.startswith(_EXTRA)
        }
    except UnicodeDecodeError as error:
        raise NotAdmitted(f"something else than text beside the program ({error})") from error
