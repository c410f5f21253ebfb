"""Carriers in this process, between a real coordinator and real sites, whose connections and silences a test decides on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch
from flwr.app import Message

from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.inputs.transfer_set import read_arrays
from limbeck.protos import carry, codec
from limbeck.protos.flower_messages import SERVER_NODE, identify, name_by_content, node_of
from limbeck.server.coordinator import Coordinator, Patience

SETTINGS = [
    # Every stage asks: at one temperature, all but the first would not.
    "stages.temperature=[2.0, 3.0]",
    "data.private=400",
    "data.public=60",
    "student.epochs=2",
    "teacher.steps=10",
    "pooling.kind=class-counts",
    "privacy.noise=UnsafeSeeded",
]
A, B, C = "site-00", "site-01", "site-02"


class Strangers:
    """A carrier that knows its nodes by number: real sites, asked in this process.

    present: sites by name to how often they have connected. silent: sites that do not reply. hook: called with every
    question's kind and site, before it is answered.
    """

    def __init__(self, folder: Path, *present: str, hook: Callable[[str, str], None] = lambda kind, site: None) -> None:
        identify(SERVER_NODE, 1)
        self.present = dict.fromkeys(present, 1)
        self.silent: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self._sites, self._hook = folder / "sites", hook
        self._names = {node_of(site): site for site in (A, B, C)}
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> list[int]:
        return [node_of(site) for site in self.present]

    def push_messages(self, messages: list[Message]) -> list[str]:
        ids = [name_by_content(message) for message in messages]
        for message_id, message in zip(ids, messages, strict=True):
            kind, site = message.metadata.message_type.partition(".")[2], self._names[message.metadata.dst_node_id]
            self.asked.append((kind, site))
            self._hook(kind, site)
            if site in self.silent:
                continue
            reply = respond(Site(self._sites / site), carry.unpack(message.content))
            identify(message.metadata.dst_node_id, 1)
            self._replies[message_id] = Message(carry.pack(reply), reply_to=message)
            identify(SERVER_NODE, 1)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(own) for own in message_ids if own in self._replies]


class Consortium(Strangers):
    """As the link: a carrier that knows the names of its nodes."""

    def site_of(self, node: int) -> str:
        return self._names[node]

    def connections_of(self, node: int) -> int:
        return self.present[self._names[node]]


def run(folder: Path, grid: Strangers, **patience: float) -> None:
    offer = codec.decode_offer((folder / "plan.pb").read_bytes())
    (x_N,) = read_arrays(folder / "transfer" / f"{offer.plan.transfer_set.hex()}.npz", "x")
    waits = Patience(expected=0, **{"join": 0.0, "look": 0.0, **patience})
    Coordinator(cast(Any, grid), offer, torch.from_numpy(x_N), folder / "server", waits).run()


def participants(folder: Path) -> list[list[str]]:
    return [stage["clients"] for stage in json.loads((folder / "server" / "record.json").read_text())["stages"]]
