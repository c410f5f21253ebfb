"""Client apps of which the first site answers requests for shares in a bad way; run in the worker processes of a Grid."""

import os

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.protos import carry
from limbeck.protos import limbeck_pb2 as pb


def spoil(kind: str) -> ClientApp:
    """The real client app, but for what site 0 answers to a request for a share."""
    app = ClientApp()

    @app.query("agree")
    @app.train("teach")
    @app.query("share")
    def answer(message: Message, context: Context) -> Message:
        site = Site.of(context.node_config)
        data = respond(site, carry.unpack(message.content))
        if context.node_config["partition-id"] == 0 and message.metadata.message_type == "query.share":
            data = _spoilt(kind, data, site)
        return Message(carry.pack(data), reply_to=message)

    return app


def _spoilt(kind: str, data: bytes, site: Site) -> bytes:
    reply = pb.Reply.FromString(data)
    match kind:
        case "garbage":
            return b"\xff" * 40
        case "another plan":
            reply.share.plan_hash = bytes(32)
        case "too short":
            reply.share.codes = reply.share.codes[:-1]
        case "raises":
            raise ValueError("a bug at a site")
        case "dies":
            os._exit(3)
        case "replay":
            earlier = [sent.data for sent in site.transcript if sent.what.startswith("share of stage 1")]
            return earlier[0] if reply.share.stage else data
    return reply.SerializeToString(deterministic=True)


garbage, another_plan, too_short = spoil("garbage"), spoil("another plan"), spoil("too short")
raises, dies, replay = spoil("raises"), spoil("dies"), spoil("replay")
