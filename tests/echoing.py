"""A client app that gives back what it is asked, for tests of what carries messages."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("agree")
def echo(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)
