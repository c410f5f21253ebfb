"""A check of whole messages: they have no field that their schema lacks."""

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from limbeck.base.errors import WireError


def no_unknown_fields(message: Message) -> None:
    """Raise WireError if the message, or any message in it, has a field that its schema lacks."""
    if len(UnknownFieldSet(message)):
        raise WireError(f"Expected no unknown fields in {message.DESCRIPTOR.name}.")
    for _, value in message.ListFields():
        for part in value if hasattr(value, "add") else [value]:
            if isinstance(part, Message):
                no_unknown_fields(part)
