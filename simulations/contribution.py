"""What each site adds to the pool: the accuracy of the last stage's pool without it, on the public inputs.

From what left the sites: the answers in their transcripts are pooled again, by the coordinator's own rule and weights, once without each of
them. Only a simulation has all transcripts, and the labels of public inputs.

Shape legend: N public inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.client.site import Site
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.messages import Share
from limbeck.server import coordinator
from limbeck.server.pooling import Pool
from limbeck.server.record import ClientRecord, StageRecord

# The work grows with the square of the sites: of more, nothing is measured.
MOST_SITES = 32


def accuracies_without(
    plan: Plan, stage: StageRecord, clients: Mapping[str, ClientRecord], sites: Path, public_y: NDArray[np.int64]
) -> dict[str, float]:
    """Accuracy of a stage's pool without each site that answered, from 0 to 1, by the site's name.

    None of one site alone, of too many, of unlabelled inputs, or if a transcript no longer has all answers.


    - clients: what the coordinator recorded, by the site's name.
    - sites: the folder of all site folders.
    - public_y: (N,) labels of the public inputs, -1 where one is not known; of none, nothing is measured.
    """
    known_N = public_y >= 0
    if not 1 < len(stage.clients) <= MOST_SITES or not known_N.any():
        return {}
    asked_in = stage.stage if stage.asked_in is None else stage.asked_in
    answers = {name: list(_shares(Site(sites / name), plan, asked_in)) for name in stage.clients}
    # Its owner may have moved the oldest files of a transcript elsewhere.
    if any(sum(len(share.answers) for share in shares) != plan.samples for shares in answers.values()):
        return {}
    found = {}
    for left_out in stage.clients:
        others = [name for name in stage.clients if name != left_out]
        weights = coordinator.site_weights(plan, {name: clients[name] for name in others})
        pool = Pool(samples=plan.samples, classes=plan.classes)
        for name in others:
            for share in answers[name]:
                pool.add(share.answers, first=share.first, weights_K=weights.get(name))
        found[left_out] = float((pool.result().argmax(1).numpy() == public_y)[known_N].mean())
    return found


def _shares(site: Site, plan: Plan, stage: int) -> Iterator[Share]:
    """Each answer of a site in one stage once, from its transcript."""
    plan_hash, seen = codec.plan_hash(plan), set()
    for sent in site.transcript:
        # The words are those with which the site's app notes a share.
        if sent.plan_hash != plan_hash or not sent.what.startswith(f"share of stage {stage + 1},") or not sent.data:
            continue
        reply = codec.decode_stored_reply(sent.data, plan=plan, expecting=codec.implied_request(sent.data, plan))
        if isinstance(reply, Share) and reply.first not in seen:
            seen.add(reply.first)
            yield reply
