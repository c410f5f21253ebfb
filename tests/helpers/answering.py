"""A client app for tests of what carries messages: does what its question says."""

from __future__ import annotations

import os
import random
import resource
import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from limbeck.protos import carry

app = ClientApp()


def megabytes(count: int) -> bytes:
    """The same ones always."""
    return random.Random(0).randbytes(count << 20)


@app.query("agree")
def answer(message: Message, context: Context) -> Message:
    """Echo, but for questions that ask for trouble. Every call leaves a line in the site's folder."""
    asked = carry.unpack(message.content)
    with (Path(str(context.node_config["site"])) / "calls").open("a") as file:
        file.write("call\n")
    match asked:
        case b"raise":
            raise ValueError("record 7 of patient X")
        case b"die":
            os._exit(9)
        case b"sleep":
            time.sleep(3600)
        case b"eat":
            return Message(carry.pack(bytes(4 << 30)), reply_to=message)
        case b"limit":
            limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
            return Message(carry.pack(b"%d" % limit), reply_to=message)
        case b"slowly":
            time.sleep(1.5)
        case b"24 megabytes":
            return Message(carry.pack(megabytes(24)), reply_to=message)
        case _:
            pass
    return Message(message.content, reply_to=message)
