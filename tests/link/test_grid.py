"""The coordinator's end of the link against sites that are not who they say, do not speak as they should, or come twice."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
import torch
from flwr.app import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.links import SITES, RawSite, ask, listen, pull
from helpers.plans import PLAN
from limbeck.base.errors import DataError, RunError, SettingError
from limbeck.experiments.faults import fuzz
from limbeck.experiments.faults.linked import HANG_SECONDS, until
from limbeck.experiments.faults.throwaway_keys import SERVER, Authority
from limbeck.protos import carry, codec, flower_messages, link, link_codec
from limbeck.protos import link_pb2 as pb
from limbeck.protos.link import Ack, Announce, Chunk, Frame, Problem
from limbeck.protos.messages import Ask, Offer, Teach
from limbeck.server import link as server_link
from limbeck.server.coordinator import Coordinator, Patience
from limbeck.server.link import Access, Keys, LinkGrid
from limbeck.server.roster import Node, NodeState
from limbeck.server.states import TEACH, Phase, Step


@pytest.fixture
def grid(keys: Authority) -> Iterator[LinkGrid]:
    found = listen(keys, limit=4 << 20)
    yield found
    found.close()


# Who may connect


def test_a_site_is_the_node_of_its_certificates_name(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a")
    assert grid.get_node_ids() == [flower_messages.node_of("a")]
    assert grid.site_of(flower_messages.node_of("a")) == "a"
    message_id = ask(grid, "a")
    site.answer(site.take())
    assert carry.unpack(pull(grid, message_id).content) == b"answer"
    site.close()


def refused(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code()


def test_a_certificate_of_another_authority_is_refused(
    grid: LinkGrid, keys: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Authority(tmp_path)
    other.site("a")
    (tmp_path / "right-ca.pem").write_bytes((keys.folder / "ca.pem").read_bytes())
    site = RawSite(grid, other, "a", ca="right-ca", greet=False)
    assert site.end() is grpc.StatusCode.UNAVAILABLE
    assert grid.get_node_ids() == []


def test_a_coordinator_of_another_authority_is_refused_by_the_site(grid: LinkGrid, tmp_path: Path, keys: Authority) -> None:
    Authority(keys.folder / "other")
    site = RawSite(grid, keys, "a", ca="other/ca", greet=False)
    assert site.end() is grpc.StatusCode.UNAVAILABLE


def test_a_site_cannot_pass_for_the_coordinator(keys: Authority) -> None:
    """Its certificate bears the same authority's signature, but another name and another use."""
    own = Keys(ca=keys.folder / "ca.pem", certificate=keys.folder / "mallory.pem", key=keys.folder / "mallory.key")
    rogue = LinkGrid("127.0.0.1:0", own, Access(SITES))
    assert RawSite(rogue, keys, "a", greet=False).end() is grpc.StatusCode.UNAVAILABLE
    rogue.close()


def test_a_name_that_the_coordinator_was_not_told_of_is_refused(grid: LinkGrid, keys: Authority) -> None:
    assert RawSite(grid, keys, "mallory", greet=False).end() is grpc.StatusCode.PERMISSION_DENIED
    assert grid.get_node_ids() == []


def test_a_certificate_of_two_names_is_nobodys(grid: LinkGrid, keys: Authority) -> None:
    assert RawSite(grid, keys, SERVER, greet=False).end() in {
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAVAILABLE,
    }
    assert grid.get_node_ids() == []


def test_a_revoked_certificate_is_refused_and_a_new_one_of_the_same_name_is_not(keys: Authority, tmp_path: Path) -> None:
    lost = keys.site("a", file="lost")
    revoked = tmp_path / "revoked"
    revoked.write_text(f"# stolen\n{lost.serial_number:x}\n")
    grid = listen(keys, revoked)
    assert RawSite(grid, keys, "lost", greet=False).end() is grpc.StatusCode.PERMISSION_DENIED
    RawSite(grid, keys, "a").close()
    grid.close()


def test_a_site_that_is_revoked_while_connected_does_not_stay(keys: Authority, tmp_path: Path) -> None:
    lost = keys.site("a", file="lost")
    revoked = tmp_path / "revoked"
    revoked.write_text("")
    grid = listen(keys, revoked, heartbeat=1)
    site = RawSite(grid, keys, "lost")
    revoked.write_text(f"{lost.serial_number:x}\n")
    assert site.end() is grpc.StatusCode.INVALID_ARGUMENT
    assert RawSite(grid, keys, "lost", greet=False).end() is grpc.StatusCode.PERMISSION_DENIED
    grid.close()


@pytest.mark.parametrize("spoilt", ["no number", "no file", "a folder"])
def test_a_list_of_revoked_ones_that_cannot_be_read_lets_nobody_in(spoilt: str, keys: Authority, tmp_path: Path) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text("")
    grid = listen(keys, revoked)
    revoked.unlink()
    if spoilt == "no number":
        revoked.write_text("no number\n")
    elif spoilt == "a folder":
        revoked.mkdir()
    assert RawSite(grid, keys, "a", greet=False).end() is grpc.StatusCode.PERMISSION_DENIED
    grid.close()
    with pytest.raises(SettingError, match="serial numbers"):
        listen(keys, revoked)


def test_plaintext_and_a_site_without_a_certificate_are_refused(grid: LinkGrid, keys: Authority) -> None:
    ca = (keys.folder / "ca.pem").read_bytes()
    for channel in (
        grpc.insecure_channel(grid.address),
        grpc.secure_channel(grid.address, grpc.ssl_channel_credentials(ca)),
    ):
        with channel:
            call = channel.stream_stream(link_codec.CONNECT)(iter([link_codec.encode_frame(link.hello())]))
            assert refused(partial(list, call)) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("version", "accepted"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_below_13_is_refused(grid: LinkGrid, keys: Authority, version: ssl.TLSVersion, accepted: bool) -> None:
    context = ssl.create_default_context(cafile=str(keys.folder / "ca.pem"))
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(keys.folder / "a.pem", keys.folder / "a.key")
    context.set_alpn_protocols(["h2"])
    host, _, port = grid.address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=HANG_SECONDS)
    with (
        contextlib.nullcontext() if accepted else pytest.raises((ssl.SSLError, ConnectionError)),
        context.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        assert secured.version() == "TLSv1.3"


def test_a_site_refuses_a_coordinator_below_tls_13(keys: Authority) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(keys.folder / f"{SERVER}.pem", keys.folder / f"{SERVER}.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        channel = RawSite.dial(address, keys, "a")
        # A call and not the state of the channel, which a thread of gRPC's own would ask for when it is closed.
        call = health_pb2_grpc.HealthStub(channel).Check.future(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        listener.settimeout(HANG_SECONDS)
        connection, _ = listener.accept()
        with pytest.raises(ssl.SSLError, match=r"(?i)version|protocol|cipher"):
            context.wrap_socket(connection, server_side=True)
        assert not call.done()
        call.cancel()
        channel.close()


def test_the_health_service_says_that_the_link_serves(grid: LinkGrid, keys: Authority) -> None:
    with RawSite.dial(grid.address, keys, "a") as channel:
        found = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=link_codec.SERVICE))
    assert found.status == health_pb2.HealthCheckResponse.SERVING


def test_an_address_that_is_taken_or_keys_that_are_missing_are_said(grid: LinkGrid, keys: Authority, tmp_path: Path) -> None:
    own = Keys(ca=keys.folder / "ca.pem", certificate=keys.folder / f"{SERVER}.pem", key=keys.folder / f"{SERVER}.key")
    with pytest.raises(SettingError, match="address to listen on"):
        LinkGrid(grid.address, own, Access(SITES))
    with pytest.raises(DataError, match="PEM"):
        LinkGrid("127.0.0.1:0", Keys(ca=tmp_path / "no", certificate=own.certificate, key=own.key), Access(SITES))


# Malformed and oversize


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
@given(data=st.binary(max_size=120), greeted=st.booleans())
def test_random_bytes_end_the_senders_connection_and_nobody_elses(
    grid: LinkGrid, keys: Authority, data: bytes, greeted: bool
) -> None:
    with contextlib.suppress(Exception):
        if isinstance(link_codec.decode_frame(data), Frame):
            return
    bystander, attacker = RawSite(grid, keys, "b"), RawSite(grid, keys, "a", greet=greeted)
    attacker.send(data)
    assert attacker.end() is grpc.StatusCode.INVALID_ARGUMENT
    message_id = ask(grid, "b")
    bystander.answer(bystander.take())
    assert pull(grid, message_id).has_content()
    bystander.close()


def test_frames_that_make_no_sense_where_they_come_end_the_connection(grid: LinkGrid, keys: Authority) -> None:
    stray = Chunk(id=bytes(32), offset=7, data=b"x")
    wrong: list[list[Frame]] = [[stray], [link.hello()], [Ack(id=bytes(32), received=1), stray]]
    for frames in wrong:
        site = RawSite(grid, keys, "a")
        for frame in frames:
            site.send(frame)
        assert site.end() is grpc.StatusCode.INVALID_ARGUMENT
    first = RawSite(grid, keys, "a", greet=False)
    first.send(link.Heartbeat())
    assert first.end() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_oversize_frame_is_refused_by_grpc_itself(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a")
    site.send(pb.Frame(chunk=pb.Chunk(id=bytes(32), data=bytes(2 * link.MAX_FRAME))).SerializeToString())
    assert site.end() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_answer_beyond_the_limit_is_refused_by_its_announcement(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a")
    ask(grid, "a")
    message = site.take()
    site.send(Announce(id=bytes.fromhex(message.metadata.message_id), total=(4 << 20) + 1, sha256=bytes(32)))
    problem = site.next()
    assert isinstance(problem, Problem)
    assert "at most 4194304 bytes" in problem.text
    assert site.end() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_answer_is_as_long_as_its_question_allows_and_no_longer(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a")
    grid.bound_answers(100)
    bounded = ask(grid, "a", b"bounded")
    grid.bound_answers(1 << 30)
    free = ask(grid, "a", b"free")
    first, second = site.take(), site.take()
    for message, size in ((second, 2 << 20), (first, 100)):
        site.answer(message, flower_messages.encode(Message(carry.pack(bytes(size)), reply_to=message)))
    assert len(carry.unpack(pull(grid, free).content)) == 2 << 20
    assert len(carry.unpack(pull(grid, bounded).content)) == 100
    grid.bound_answers(100)
    bounded = ask(grid, "a", b"bounded again")
    message = site.take()
    site.answer(message, flower_messages.encode(Message(carry.pack(bytes(101)), reply_to=message)))
    assert pull(grid, bounded).error.reason == "Expected the length of content in [1, 100], got 101."
    bounded = ask(grid, "a", b"and again")
    most = flower_messages.encoded_at_most(100)
    site.send(Announce(id=bytes.fromhex(site.take().metadata.message_id), total=most + 1, sha256=bytes(32)))
    problem = site.next()
    assert isinstance(problem, Problem)
    assert f"at most {most} bytes to this question" in problem.text
    assert site.end() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_coordinator_says_how_long_an_answer_can_be(tmp_path: Path) -> None:
    bounds: list[int] = []

    class Bounded(fuzz.SameAnswer):
        def bound_answers(self, size: int) -> None:
            bounds.append(size)

    nodes = Bounded(1)
    run = Coordinator(nodes, Offer(plan=PLAN), torch.zeros(20, 8, 8), tmp_path, Patience(expected=1))
    teach, ask = Teach(plan_hash=run.plan_hash), Ask(plan_hash=run.plan_hash, stage=0, first=0, count=20)
    for phase, state, request in ((TEACH, NodeState.AGREED, teach), (Phase(Step.ANSWERS, 0), NodeState.MEMBER, ask)):
        node = Node(id=100, label="site-100", site="site-100", state=state)
        assert list(run._ask_all(phase, request, [node])) == []
        assert bounds.pop() == codec.longest_reply(PLAN, request)


@pytest.mark.parametrize(("field", "value"), [("_src_node_id", 5), ("_reply_to_message_id", "00" * 32)])
def test_an_answer_in_the_name_of_another_node_or_to_another_question_is_that_sites_error(
    grid: LinkGrid, keys: Authority, field: str, value: object
) -> None:
    site = RawSite(grid, keys, "a")
    message_id = ask(grid, "a", b"to a")
    question = site.take()
    reply = Message(carry.pack(b"in another name"), reply_to=question)
    reply.metadata.__dict__["_src_node_id"] = flower_messages.node_of("a")
    reply.metadata.__dict__[field] = value
    site.answer(question, flower_messages.encode(reply))
    found = pull(grid, message_id)
    assert found.has_error()
    assert "a reply of the node that was asked" in str(found.error.reason)
    site.close()


def test_an_answer_that_is_no_message_is_that_sites_error(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a")
    for content in (b"garbage", flower_messages.encode(Message(carry.pack(b"x"), 5, "query.agree"))):
        message_id = ask(grid, "a")
        site.answer(site.take(), content)
        reply = pull(grid, message_id)
        assert reply.has_error()
        assert str(reply.error.reason).startswith("Expected")
    site.close()


# Once


def test_an_answer_that_comes_twice_counts_once(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a")
    message_id = ask(grid, "a")
    message = site.take()
    site.answer(message)
    assert pull(grid, message_id).has_content()
    site.answer(message, flower_messages.encode(Message(carry.pack(b"another"), reply_to=message)))
    assert list(grid.pull_messages([message_id])) == []
    site.close()


def test_a_site_cannot_answer_for_another(grid: LinkGrid, keys: Authority) -> None:
    a, b = RawSite(grid, keys, "a"), RawSite(grid, keys, "b")
    message_id = ask(grid, "a")
    message = a.take()
    b.answer(message)
    assert list(grid.pull_messages([message_id])) == []
    a.answer(message)
    assert carry.unpack(pull(grid, message_id).content) == b"answer"
    a.close()
    b.close()


def test_a_question_is_put_again_after_every_break_until_it_is_answered(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a")
    message_id = ask(grid, "a")
    for _ in range(3):
        assert site.take().metadata.message_id == message_id
        site.close()
        site = RawSite(grid, keys, "a")
    site.answer(site.take())
    assert pull(grid, message_id).has_content()
    site.close()
    site = RawSite(grid, keys, "a")
    other = ask(grid, "a", b"other")
    assert site.take().metadata.message_id == other
    assert grid.connections_of(flower_messages.node_of("a")) == 5
    site.close()


def test_a_new_connection_of_a_site_ends_the_one_before(grid: LinkGrid, keys: Authority) -> None:
    before = RawSite(grid, keys, "a")
    after = RawSite(grid, keys, "a")
    assert before.end() is grpc.StatusCode.INVALID_ARGUMENT
    message_id = ask(grid, "a")
    after.answer(after.take())
    assert pull(grid, message_id).has_content()
    after.close()


# Time and room


def test_a_site_that_never_answers_is_given_up_at_the_deadline_and_its_late_answer_dropped(
    grid: LinkGrid, keys: Authority
) -> None:
    site = RawSite(grid, keys, "a")
    question = Message(carry.pack(b"question"), flower_messages.node_of("a"), "query.agree")
    assert list(grid.send_and_receive([question], timeout=0.3)) == []
    message = site.take()
    site.answer(message)
    assert list(grid.pull_messages([message.metadata.message_id])) == []
    site.close()


def test_a_question_is_no_longer_put_when_its_time_is_over(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a")
    site.close()
    ask(grid, "a", ttl=0.1)
    until(lambda: not grid._sessions[flower_messages.node_of("a")].open)
    site = RawSite(grid, keys, "a")
    lasting = ask(grid, "a", b"lasting")
    assert site.take().metadata.message_id == lasting
    site.close()


def test_more_than_a_site_may_have_open_is_refused_as_a_whole(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a")
    node = flower_messages.node_of("a")
    many = [Message(carry.pack(b"%d" % index), node, "query.agree") for index in range(server_link.OPEN + 1)]
    with pytest.raises(RunError, match=f"at most {server_link.OPEN} open questions"):
        grid.push_messages(many)
    big = [
        Message(carry.pack(bytes(3 << 20)), node, "query.agree"),
        Message(carry.pack(bytes(2 << 20)), node, "query.agree"),
    ]
    with pytest.raises(RunError, match="4194304 bytes"):
        grid.push_messages(big)
    grid.push_messages(many[1:])
    site.close()
    with pytest.raises(ValueError, match="Expected a node id"):
        ask(grid, "mallory")


def test_a_site_that_falls_silent_is_disconnected(keys: Authority, caplog: pytest.LogCaptureFixture) -> None:
    grid = listen(keys, heartbeat=1)
    site = RawSite(grid, keys, "a")
    assert until(lambda: grid.connected) == ["a"]
    with caplog.at_level(logging.INFO, "limbeck.server.link"):
        until(lambda: not grid.connected)
    assert "nothing was heard" in caplog.text
    site.close()
    grid.close()
