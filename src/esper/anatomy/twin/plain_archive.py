"""Archives of exported networks that need no pickle to be read: everything else is refused unread."""

from __future__ import annotations

import io
import json
import re
import zipfile

from esper.errors import CheckpointCorrupt

_PLAIN_ENTRIES = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id|models/model\.json"
    r"|data/(weights|constants)/[^/]+|data/sample_inputs/model\.pt|extra/[^/]+\.json)"
)
_INDICES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")


def refuse_pickle(data: bytes) -> None:
    """Refuses everything that is not an exported archive of today's form, readable without pickle.

    The loader would read older forms, sample inputs and odd tensors with pickle; none of them is let in.

    Raises:
        CheckpointCorrupt: it is no such archive; what is wrong is named.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            problem = _problem(archive)
    except (zipfile.BadZipFile, ValueError, TypeError, AttributeError) as error:
        raise CheckpointCorrupt(f"This is no archive of an exported network: {error}.") from error
    if problem is not None:
        raise CheckpointCorrupt(f"{problem} Only what was written by Esper is loaded; trace again.")


def _problem(archive: zipfile.ZipFile) -> str | None:
    entries = archive.infolist()
    found = {entry.filename.partition("/")[2] for entry in entries}
    for entry in entries:
        if "/sample_inputs/" in entry.filename and entry.file_size:
            return f"The archive holds sample inputs ({entry.filename}), which only pickle reads."
        if not _PLAIN_ENTRIES.fullmatch(entry.filename):
            return f"The archive holds {entry.filename!r}, which does not belong there."
        if entry.filename.endswith("_config.json"):
            config = json.loads(archive.read(entry))["config"]
            pickled = [name for name, meta in config.items() if meta.get("use_pickle")]
            if pickled:
                return f"The archive holds pickled tensors: {', '.join(pickled[:3])}."
    missing = [name for name in (*_INDICES, "models/model.json", "archive_format") if name not in found]
    if missing or len(found) != len(entries):
        return f"The archive lacks {', '.join(missing) or 'order: names occur twice'}."
    return None
