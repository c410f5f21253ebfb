"""Flower's own strategies, as they are, driven in this process: FedAvg, FedProx, and its DP wrapper.

The strategies of `flwr.serverapp.strategy` speak to a Grid. This one calls a function for every message and takes neither a network nor a
process; the arrays that it hands over are the messages' own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, FedProx
from flwr.serverapp.strategy.strategy import Strategy
from flwr.supercore.run import Run
from torch import Tensor

from limbeck.experiments.baselines import charges, heads
from limbeck.experiments.baselines.contract import CLIENT, Reached, Setting
from limbeck.experiments.baselines.heads import Descent
from limbeck.protos.flower_messages import SERVER_NODE, identify

FIRST_NODE = 1001
KEY = "head"
# From a node, the head it was sent and the proximal weight to the head it trained and its number of records.
Train = Callable[[int, Tensor, float], tuple[Tensor, int]]


class FunctionGrid(Grid):
    """A Grid whose nodes are a function in this process."""

    def __init__(self, nodes: int, train: Train) -> None:
        identify(SERVER_NODE, 1)
        self._run, self._nodes, self._train = Run.create_empty(1), nodes, train

    def set_run(self, run: Run) -> None:
        """Use this run's id."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message from the server to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, always."""
        return range(FIRST_NODE, FIRST_NODE + self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not how this grid is used: nothing waits."""
        raise NotImplementedError("Expected send_and_receive, got push_messages: a function answers at once.")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As `push_messages`."""
        raise NotImplementedError("Expected send_and_receive, got pull_messages: a function answers at once.")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Every node's reply."""
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        arrays, config = message.content["arrays"], message.content["config"]
        assert isinstance(arrays, ArrayRecord)
        assert isinstance(config, ConfigRecord)
        sent = torch.from_numpy(arrays[KEY].numpy())
        proximal = config.get("proximal-mu", 0.0)
        assert isinstance(proximal, float)
        trained, records = self._train(message.metadata.dst_node_id - FIRST_NODE, sent, proximal)
        reply = RecordDict({"arrays": _record(trained), "metrics": MetricRecord({"num-examples": records})})
        return Message(reply, reply_to=message)


def fedavg(setting: Setting, *, rounds: int, local: int, rate: float) -> Reached:
    """FedAvg without privacy, by Flower's strategy [F: arXiv 1602.05629, algorithm 1], with full-batch local steps."""
    return _without_privacy(setting, lambda: _plain(setting), rounds, local, rate)


def fedprox(setting: Setting, *, rounds: int, local: int, rate: float, proximal: float) -> Reached:
    """FedProx without privacy, by Flower's strategy [F: arXiv 1812.06127]: local steps are drawn back towards the shared head."""

    def make() -> FedProx:
        sites = len(setting.sites)
        return FedProx(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=sites, proximal_mu=proximal)

    return _without_privacy(setting, make, rounds, local, rate)


def flower_dp(setting: Setting, *, rounds: int, local: int, rate: float, clip: float) -> Reached:
    """Flower's DP wrapper around FedAvg: what each site changed is clipped, and the server adds noise to the mean.

    [F: arXiv 1710.06963.] The unit is a whole site, and the server is trusted with every site's update. All sites take part in every round,
    so that a round is one Gaussian mechanism. Flower draws this noise from numpy's global generator.
    """
    if setting.epsilon is None:
        multiplier, guarantee = 0.0, charges.without(setting)
    else:
        charged = charges.steps(setting, rounds)
        multiplier = charged.multiplier
        guarantee = charged.guarantee.model_copy(update={"unit": CLIENT})

    def make() -> DifferentialPrivacyServerSideFixedClipping:
        return DifferentialPrivacyServerSideFixedClipping(_plain(setting), multiplier, clip, len(setting.sites))

    weight = _run(setting, make, rounds, local, rate, weighted=False)
    return Reached(
        predicted=(heads.predict(weight, setting.test_ND),),
        bytes_up=rounds * setting.model_bytes,
        bytes_down=rounds * setting.model_bytes,
        guarantee=guarantee,
        notes="another unit: epsilon is for a whole site, and the server sees every update as it is",
    )


def _without_privacy(setting: Setting, make: Callable[[], Strategy], rounds: int, local: int, rate: float) -> Reached:
    weight = _run(setting, make, rounds, local, rate, weighted=True)
    return Reached(
        predicted=(heads.predict(weight, setting.test_ND),),
        bytes_up=rounds * setting.model_bytes,
        bytes_down=rounds * setting.model_bytes,
        guarantee=charges.without(setting, "no noise, and sites' sizes as weights"),
    )


def _run(setting: Setting, make: Callable[[], Strategy], rounds: int, local: int, rate: float, *, weighted: bool) -> Tensor:
    def train(site: int, sent: Tensor, proximal: float) -> tuple[Tensor, int]:
        records = setting.sites[site]
        # Without privacy a site's own number of records may be used, as FedAvg does.
        descent = Descent(
            steps=local, rate=rate, multiplier=0.0, normaliser=max(1, len(records)), momentum=0.0, proximal=proximal
        )
        return heads.descend(sent, records, descent, setting.noise), len(records) if weighted else 1

    with _quiet():
        result = make().start(FunctionGrid(len(setting.sites), train), _record(heads.zeros(setting)), num_rounds=rounds)
    return torch.from_numpy(result.arrays[KEY].numpy()).float()


def _record(weight: Tensor) -> ArrayRecord:
    return ArrayRecord({KEY: Array(np.ascontiguousarray(weight.numpy()))})


def _plain(setting: Setting) -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=len(setting.sites))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Flower says of every round."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
