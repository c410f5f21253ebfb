"""No plaintext on the wire, by a real capture of loopback and tshark's dissectors.

Needs tshark and the right to capture; where they are missing, this says so, and what a recording relay sees of the same federation is what
`make test` looks at (tests/link/test_processes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from helpers import capture
from limbeck.experiments.faults.linked import Federation
from limbeck.protos import codec, link_codec
from limbeck.protos.link import Chunk, Transfer
from limbeck.simulations.scenario import load

CANARY = "canary-in-the-plans-name"
REASON = capture.why_not()
pytestmark = pytest.mark.skipif(
    REASON is not None, reason=f"no capture: {REASON}. tests/link/test_processes.py looks at what a relay records"
)

# Short enough for one frame of HTTP/2, so that in plain text each of them would stand in one piece.
PIECE = 8192


def pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + PIECE] for start in range(0, len(data), PIECE))


def samples(data: bytes) -> set[bytes]:
    """Twenty-four bytes out of every 512, but those that might occur anywhere."""
    own = {piece[start : start + 24] for piece in pieces(data) for start in range(0, len(piece) - 24, 512)}
    return {sample for sample in own if len(set(sample)) > 12}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[capture.Capture, dict[str, bytes]]:
    """A federation of real processes from its start to its end, and what its ends know: the plan, and each site's answers."""
    folder = tmp_path_factory.mktemp("wire")
    scenario = load("digits-tiny", ["data.public=200", "student.epochs=2", "student.dense_control=false"])
    named = scenario.model_copy(update={"name": CANARY})
    with Federation(folder / "run", named) as federation:
        with capture.on_loopback(folder / "loopback.pcapng", federation.port) as found:
            assert federation.start().wait(180) == 0, (folder / "run" / "serve.log").read_text()
            for process in federation.processes:
                process.terminate()
            for process in federation.processes:
                process.wait(30)
        known = {"plan": (folder / "run" / "plan.pb").read_bytes()}
        for name, site in federation.sites.items():
            for path in sorted((site / "state" / "link" / "answers").iterdir()):
                known[f"{name} {path.name}"] = path.read_bytes()
    assert len(known) >= 1 + 3 * 4  # agree, teach, and two stages
    return found, known


def words(known: dict[str, bytes]) -> set[bytes]:
    """What may not be read: names, kinds of messages, keys and hashes in the plan, and samples of all that was sent."""
    offer = codec.decode_offer(known["plan"])
    own = {CANARY.encode(), b"site-00", b"site-01", b"site-02", b"query.share", b"limbeck", b"RecordDict"}
    own |= {offer.author, offer.signature[:32], offer.plan.transfer_set, codec.plan_hash(offer.plan)}
    for data in known.values():
        own |= samples(data)
    return own


def test_nothing_that_is_sent_over_the_link_can_be_read_on_the_wire(
    recorded: tuple[capture.Capture, dict[str, bytes]],
) -> None:
    found, known = recorded
    streams = found.streams()
    assert sum(map(len, streams.values())) > sum(map(len, known.values()))
    assert capture.seen(words(known), streams) == set()


def test_every_connection_is_of_tls_13(recorded: tuple[capture.Capture, dict[str, bytes]]) -> None:
    found, _ = recorded
    versions = found.tls_versions()
    # Each site dials at least once, and no connection says anything outside TLS.
    assert len(versions) >= 3
    assert set(versions) == set(found.streams())
    assert set.union(*versions.values()) == {capture.TLS_13}


def test_over_a_plain_connection_the_same_look_finds_all_of_it(
    recorded: tuple[capture.Capture, dict[str, bytes]], tmp_path: Path
) -> None:
    """The same frames in the same gRPC, without TLS: otherwise the other tests would hold for whatever is sent."""
    _, known = recorded
    server = grpc.server(futures.ThreadPoolExecutor(1))

    service, method = link_codec.CONNECT.strip("/").split("/")
    taken = {method: grpc.unary_unary_rpc_method_handler(lambda data, _: b"taken")}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, taken)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with (
        capture.on_loopback(tmp_path / "plain.pcapng", port) as found,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        send: Callable[[bytes], bytes] = channel.unary_unary(link_codec.CONNECT)
        for data in known.values():
            own = Transfer(id=bytes(16), data=data)
            send(link_codec.encode_frame(own.announcement))
            for index, piece in enumerate(pieces(data)):
                send(link_codec.encode_frame(Chunk(id=own.id, offset=index * PIECE, data=piece)))
    server.stop(None).wait()
    assert capture.seen(words(known), found.streams()) == words(known)
    assert found.tls_versions() == {}
