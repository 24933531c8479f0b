"""Messages between processes and at rest: their forms, and envelopes that nobody forges or replays."""

from esper.leyline.wire import leyline_pb2 as messages
from esper.leyline.wire.carriers import FolderCarrier
from esper.leyline.wire.channel import SignedChannel
from esper.leyline.wire.envelope import Letter, Opener, Signer
from esper.leyline.wire.keys import BelievedKeys
from esper.leyline.wire.parsing import VERSION, parsed

__all__ = [
    "VERSION",
    "BelievedKeys",
    "FolderCarrier",
    "Letter",
    "Opener",
    "SignedChannel",
    "Signer",
    "messages",
    "parsed",
]
