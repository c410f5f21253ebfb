"""The link's frames and transfers: strict bytes, whole messages once, and no byte twice after a break."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.base.errors import WireError
from limbeck.protos import carry, flower_messages, link, link_codec
from limbeck.protos import link_pb2 as pb
from limbeck.protos.link import CHUNK, Ack, Announce, Assembly, Chunk, Connection, Disconnected, Frame, Transfer

ids = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, 1 << 40)
frames = st.one_of(
    st.builds(link.Hello, limbeck=st.just("0.1.0"), heartbeat_seconds=st.integers(0, 3600)),
    st.builds(Announce, id=ids, total=st.integers(1, 1 << 40), sha256=ids),
    st.builds(Chunk, id=ids, offset=sizes, data=st.binary(min_size=1, max_size=200)),
    st.builds(Ack, id=ids, received=sizes),
    st.just(link.Heartbeat()),
    st.builds(link.Problem, text=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=300)),
    st.builds(link.Finished, plan=ids),
)


@given(frames)
def test_a_frame_comes_back_as_it_was(frame: Frame) -> None:
    assert link_codec.decode_frame(link_codec.encode_frame(frame)) == frame


@given(st.binary(max_size=300))
def test_other_bytes_are_a_wire_error_and_nothing_else(data: bytes) -> None:
    try:
        frame = link_codec.decode_frame(data)
    except WireError:
        return
    assert link_codec.encode_frame(frame) == data


@pytest.mark.parametrize(
    ("frame", "wrong"),
    [
        (pb.Frame(), "1 to"),
        (pb.Frame(hello=pb.Hello(version=2, limbeck="9")), "version 1"),
        (pb.Frame(hello=pb.Hello(version=1, limbeck="a\nb")), "printable"),
        (pb.Frame(announce=pb.Announce(id=b"short", total=1, sha256=bytes(32))), "message id"),
        (pb.Frame(announce=pb.Announce(id=bytes(32), total=0, sha256=bytes(32))), "length of a message"),
        (pb.Frame(announce=pb.Announce(id=bytes(32), total=1 << 41, sha256=bytes(32))), "length of a message"),
        (pb.Frame(chunk=pb.Chunk(id=bytes(32), data=bytes(CHUNK + 1))), "length of a chunk"),
        (pb.Frame(chunk=pb.Chunk(id=bytes(32))), "length of a chunk"),
        (pb.Frame(chunk=pb.Chunk(id=bytes(32), data=bytes(2 * CHUNK))), "frame of 1 to"),
        (pb.Frame(ack=pb.Ack(id=b"../../etc/passwd", received=1)), "message id"),
        (pb.Frame(finished=pb.Finished()), "length of a plan's hash"),
        (pb.Frame(finished=pb.Finished(plan=b"../../etc/passwd")), "length of a plan's hash"),
        (pb.Frame(finished=pb.Finished(plan=bytes(33))), "length of a plan's hash"),
    ],
)
def test_an_invalid_frame_is_refused(frame: pb.Frame, wrong: str) -> None:
    with pytest.raises(WireError, match=wrong):
        link_codec.decode_frame(frame.SerializeToString())


@pytest.mark.parametrize(
    "data",
    [b"\x2a\x80\x00", b"\x2a\x00\x2a\x00", b"\x0a\x09\x12\x05\x30\x2e\x31\x2e\x30\x08\x01"],
    ids=["a length of two bytes", "a field twice", "fields in another order"],
)
def test_a_frame_in_another_encoding_is_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="canonical"):
        link_codec.decode_frame(data)


def test_a_field_that_the_schema_lacks_is_refused() -> None:
    with pytest.raises(WireError, match="unknown"):
        link_codec.decode_frame(link_codec.encode_frame(link.Heartbeat()) + b"\x98\x06\x01")


# Transfers


@given(st.binary(min_size=1, max_size=50), st.data())
def test_chunks_in_order_make_the_whole_and_repeated_ones_change_nothing(data: bytes, draw: st.DataObject) -> None:
    transfer = Transfer(id=bytes(32), data=data)
    assembly = Assembly(transfer.announcement)
    while not assembly.whole:
        start = draw.draw(st.integers(0, assembly.received))
        if start < assembly.received:
            assembly.add(Chunk(id=bytes(32), offset=start, data=data[start : assembly.received]))
        stop = draw.draw(st.integers(assembly.received + 1, len(data)))
        assembly.add(Chunk(id=bytes(32), offset=assembly.received, data=data[assembly.received : stop]))
    assert assembly.result() == data


@pytest.mark.parametrize(("offset", "size"), [(1, 1), (0, 11), (5, 20)])
def test_a_gap_or_bytes_beyond_the_end_are_refused(offset: int, size: int) -> None:
    assembly = Assembly(Announce(id=bytes(32), total=10, sha256=bytes(32)))
    with pytest.raises(WireError, match="Expected a chunk at byte 0 of 10"):
        assembly.add(Chunk(id=bytes(32), offset=offset, data=bytes(size)))


def test_bytes_with_another_hash_than_announced_are_refused() -> None:
    assembly = Assembly(Transfer(id=bytes(32), data=b"abc").announcement)
    assembly.add(Chunk(id=bytes(32), offset=0, data=b"abd"))
    with pytest.raises(WireError, match="SHA-256"):
        assembly.result()


class End:
    """A station in memory: `todo` is sent, `got` was received."""

    def __init__(self, *todo: Transfer, limit: int = 1 << 30) -> None:
        self.limit, self.todo, self.times_received = limit, list(todo), 0
        self.assembly: Assembly | None = None
        self.got: dict[bytes, bytes] = {}

    async def next_transfer(self) -> Transfer:
        while not self.todo:
            await asyncio.sleep(3600)
        return self.todo[0]

    def delivered(self, transfer: Transfer) -> None:
        self.todo.remove(transfer)

    def wants(self, announce: Announce) -> bool:
        return announce.id not in self.got

    def receive(self, transfer_id: bytes, data: bytes) -> None:
        self.times_received += 1
        self.got[transfer_id] = data

    def finished(self, plan: bytes) -> None:
        self.finished_plan = plan


async def connect(one: End, two: End, *, frames: int = 1 << 30, heartbeat: float = 60.0, mute: bool = False) -> int:
    """Let two ends speak until all is delivered, or so many frames have passed; returns the bytes in chunks that passed."""
    queues: tuple[asyncio.Queue[Frame | None], asyncio.Queue[Frame | None]] = (asyncio.Queue(), asyncio.Queue())
    passed, payload = 0, 0

    def writer(to: asyncio.Queue[Frame | None]):  # type: ignore[no-untyped-def]
        async def write(frame: Frame) -> None:
            nonlocal passed, payload
            passed += 1
            payload += len(frame.data) if isinstance(frame, Chunk) else 0
            if passed > frames:
                raise Disconnected("cut")
            if not mute:
                to.put_nowait(link_codec.decode_frame(link_codec.encode_frame(frame)))

        return write

    async def done() -> None:
        while one.todo or two.todo:
            await asyncio.sleep(0)

    ends = [
        Connection(one, queues[0].get, writer(queues[1]), heartbeat=heartbeat).run(),
        Connection(two, queues[1].get, writer(queues[0]), heartbeat=heartbeat).run(),
        done(),
    ]
    tasks = [asyncio.ensure_future(end) for end in ends]
    finished, _ = await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    assert finished
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in finished:
        error = task.exception()
        if error is not None and str(error) != "cut":
            raise error
    return payload


BIG = Transfer(id=bytes(range(32)), data=random.Random(0).randbytes(6 * CHUNK + 12345))
BACK = Transfer(id=bytes(range(1, 33)), data=random.Random(1).randbytes(2 * CHUNK + 5))


@settings(max_examples=15)
@given(st.lists(st.integers(1, 25), max_size=4))
def test_after_any_breaks_everything_arrives_once_and_no_more_than_was_under_way_is_sent_again(cuts: list[int]) -> None:
    one, two = End(BIG), End(BACK)
    sent = 0
    for frames in cuts:
        sent += asyncio.run(connect(one, two, frames=frames))
    sent += asyncio.run(connect(one, two))
    assert two.got == {BIG.id: BIG.data}
    assert one.got == {BACK.id: BACK.data}
    assert (one.times_received, two.times_received) == (1, 1)
    assert sent <= len(BIG.data) + len(BACK.data) + 2 * len(cuts) * link.WINDOW


def test_a_transfer_goes_on_where_it_was_broken_off() -> None:
    one, two = End(BIG), End()
    asyncio.run(connect(one, two, frames=8))
    assert two.assembly is not None
    there = two.assembly.received
    assert 0 < there < len(BIG.data)
    assert asyncio.run(connect(one, two)) == len(BIG.data) - there
    assert two.got == {BIG.id: BIG.data}


def test_a_transfer_that_is_known_is_acknowledged_and_not_taken_again() -> None:
    small = Transfer(id=bytes(32), data=b"x")
    one, two = End(small, BIG), End()
    two.got = {small.id: b"x", BIG.id: BIG.data}
    assert asyncio.run(connect(one, two)) == 1
    assert two.times_received == 0


def test_a_message_beyond_the_limit_is_refused_before_it_is_sent() -> None:
    one, two = End(BIG), End(limit=CHUNK)
    with pytest.raises(WireError, match=f"at most {CHUNK} bytes"):
        asyncio.run(connect(one, two))
    assert two.assembly is None


def test_silence_ends_a_connection() -> None:
    with pytest.raises(Disconnected, match="nothing was heard"):
        asyncio.run(connect(End(BIG), End(), heartbeat=0.02, mute=True))


@pytest.mark.parametrize(
    ("sends", "beats", "reason"),
    [(BIG, True, "nothing could be sent"), (BIG, False, "nothing was heard"), (None, True, "nothing could be sent")],
)
def test_a_write_that_never_ends_hides_no_silence(sends: Transfer | None, beats: bool, reason: str) -> None:
    """The other end takes no byte; it is heard all the time, or not at all. A heartbeat alone is stuck like anything else."""

    async def main() -> None:
        async def write(_: Frame) -> None:
            await asyncio.Event().wait()

        async def read() -> Frame:
            await asyncio.sleep(0.005 if beats else 3600)
            return link.Heartbeat()

        async with asyncio.timeout(60):
            await Connection(End(*([sends] if sends else [])), read, write, heartbeat=0.05).run()

    with pytest.raises(Disconnected, match=reason):
        asyncio.run(main())


def test_two_ends_with_nothing_to_say_stay_connected_and_know_it() -> None:
    """Many intervals without a transfer: heartbeats alone keep a connection, in either direction."""

    async def main() -> int:
        queues: tuple[asyncio.Queue[Frame | None], asyncio.Queue[Frame | None]] = (asyncio.Queue(), asyncio.Queue())
        beats = 0

        def writer(to: asyncio.Queue[Frame | None]) -> Callable[[Frame], Awaitable[None]]:
            async def write(frame: Frame) -> None:
                nonlocal beats
                assert isinstance(frame, link.Heartbeat)
                beats += 1
                to.put_nowait(frame)

            return write

        ends = (
            Connection(End(), queues[0].get, writer(queues[1]), heartbeat=0.05),
            Connection(End(), queues[1].get, writer(queues[0]), heartbeat=0.05),
        )
        tasks = [asyncio.ensure_future(end.run()) for end in ends]
        done, _ = await asyncio.wait(tasks, timeout=0.6, return_when=asyncio.FIRST_COMPLETED)
        assert not done
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return beats

    assert asyncio.run(main()) >= 2


def test_three_intervals_are_missed_and_no_more() -> None:
    """Counted in heartbeats of this end, which are as many as intervals."""
    written = 0

    async def main() -> None:
        async def write(_: Frame) -> None:
            nonlocal written
            written += 1

        async def read() -> Frame:
            await asyncio.sleep(3600)
            return link.Heartbeat()

        async with asyncio.timeout(60):
            await Connection(End(), read, write, heartbeat=0.05).run()

    with pytest.raises(Disconnected, match=r"nothing was heard for 0\.15 s"):
        asyncio.run(main())
    assert written in (2, 3)


def test_an_acknowledgement_beyond_what_there_is_breaks_the_protocol() -> None:
    frames = iter([Ack(id=BIG.id, received=len(BIG.data) + 1)])

    async def main() -> None:
        announced = asyncio.Event()

        async def write(frame: Frame) -> None:
            announced.set()

        async def read() -> Frame | None:
            await announced.wait()
            return next(frames, None)

        await Connection(End(BIG), read, write, heartbeat=60).run()

    with pytest.raises(WireError, match="acknowledgement of at most"):
        asyncio.run(main())


def test_another_transfer_under_the_same_id_begins_anew() -> None:
    station, first, second = End(), Transfer(id=bytes(32), data=b"ab"), Transfer(id=bytes(32), data=b"cde")
    frames: list[Frame] = [first.announcement, Chunk(id=bytes(32), offset=0, data=b"a"), second.announcement]
    said = iter(frames)
    acknowledged: list[int] = []

    async def main() -> None:
        async def write(frame: Frame) -> None:
            if isinstance(frame, Ack):
                acknowledged.append(frame.received)

        async def read() -> Frame | None:
            return next(said, None)

        await Connection(station, read, write, heartbeat=60).run()

    with pytest.raises(Disconnected):
        asyncio.run(main())
    assert acknowledged == [0, 1, 0]


def test_a_slow_write_is_no_missed_interval_as_long_as_frames_leave_and_come() -> None:
    """Each frame takes longer than two intervals."""
    one, two = End(replace(BIG, data=BIG.data[: 3 * CHUNK])), End()

    async def main() -> None:
        queues: tuple[asyncio.Queue[Frame | None], asyncio.Queue[Frame | None]] = (asyncio.Queue(), asyncio.Queue())

        async def write(frame: Frame, to: asyncio.Queue[Frame | None]) -> None:
            await asyncio.sleep(0.11 if isinstance(frame, Chunk) else 0)
            to.put_nowait(frame)

        ends = (
            Connection(one, queues[0].get, lambda frame: write(frame, queues[1]), heartbeat=0.05),
            Connection(two, queues[1].get, lambda frame: write(frame, queues[0]), heartbeat=0.05),
        )
        tasks = [asyncio.ensure_future(end.run()) for end in ends]
        while not two.got and not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert two.got


def test_a_slow_reader_slows_its_sender() -> None:
    """Without a single acknowledgement beyond the first, a window's bytes are under way and no more."""
    sent: list[Chunk] = []
    many = replace(BIG, data=bytes(20 * CHUNK))

    async def main() -> None:
        replies: asyncio.Queue[Frame | None] = asyncio.Queue()

        async def write(frame: Frame) -> None:
            if isinstance(frame, Announce):
                replies.put_nowait(Ack(id=many.id, received=0))
            if isinstance(frame, Chunk):
                sent.append(frame)

        task = asyncio.ensure_future(Connection(End(many), replies.get, write, heartbeat=60).run())
        for _ in range(200):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert sum(len(chunk.data) for chunk in sent) == link.WINDOW


# Flower messages

LIMIT = 1 << 24


def parcel(content: RecordDict | None = None) -> bytes:
    flower_messages.identify(1, 2)
    message = Message(carry.pack(b"hello") if content is None else content, 5, "query.share", group_id="g")
    return flower_messages.encode(message)


def test_a_flower_message_survives_the_wire() -> None:
    decoded = flower_messages.decode(parcel(), limit=LIMIT)
    assert carry.unpack(decoded.content) == b"hello"
    assert (decoded.metadata.message_type, decoded.metadata.group_id, decoded.metadata.dst_node_id) == (
        "query.share",
        "g",
        5,
    )


def test_an_error_survives_the_wire() -> None:
    message = flower_messages.decode(parcel(), limit=LIMIT)
    decoded = flower_messages.decode(flower_messages.encode(Message(Error(8, "gone"), reply_to=message)), limit=LIMIT)
    assert (decoded.error.code, decoded.error.reason) == (8, "gone")
    assert decoded.metadata.reply_to_message_id == message.metadata.message_id


def test_content_beyond_the_limit_is_refused_though_it_takes_less_on_the_wire() -> None:
    """64 MiB of zeros are one chunk, twelve times, and a piece."""
    flower_messages.identify(1, 2)
    data = flower_messages.encode(Message(carry.pack(bytes(64 << 20)), 5, "query.share"))
    assert len(data) < 10 << 20
    with pytest.raises(WireError, match="length of content"):
        flower_messages.decode(data, limit=10 << 20)
    with pytest.raises(WireError, match="Expected a message of at most"):
        flower_messages.decode(data, limit=5 << 20)


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[2J", "x" * 301])
def test_an_error_whose_reason_could_not_be_shown_is_refused(reason: str) -> None:
    message = flower_messages.decode(parcel(), limit=LIMIT)
    data = flower_messages.encode(Message(Error(8, reason), reply_to=message))
    with pytest.raises(WireError, match="the reason of an error"):
        flower_messages.decode(data, limit=LIMIT)


@pytest.mark.parametrize("field", ["created_at", "ttl"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e13])
def test_an_invalid_time_is_refused(field: str, value: float) -> None:
    message = flower_messages.decode(parcel(), limit=LIMIT)
    message.metadata.__dict__[f"_{field}"] = value
    with pytest.raises(WireError, match=f"a message's {field}"):
        flower_messages.decode(flower_messages.encode(message), limit=LIMIT)


@pytest.mark.parametrize(
    "record",
    [
        RecordDict({"other": ConfigRecord({"pb": b"x"})}),
        RecordDict({"limbeck": ConfigRecord({"pb": b"x"}), "more": ConfigRecord({"pb": b"x"})}),
        RecordDict({"limbeck": ConfigRecord({"other": b"x"})}),
        RecordDict({"limbeck": ConfigRecord({"pb": b"x", "more": 1})}),
        RecordDict({"limbeck": ConfigRecord({"pb": "text"})}),
        RecordDict({"limbeck": ConfigRecord({"pb": b""})}),
        RecordDict({"limbeck": ArrayRecord({"pb": Array("bytes", (1,), "numpy.ndarray", b"x")})}),
        RecordDict({"limbeck": ArrayRecord({"pb": Array("float32", (1,), carry.STYPE, b"x")})}),
        RecordDict(),
    ],
)
def test_content_that_limbeck_does_not_pack_is_refused_by_every_carrier(record: RecordDict) -> None:
    with pytest.raises(WireError):
        carry.unpack(record)
    with pytest.raises(WireError):
        carry.unpack(flower_messages.decode(parcel(record), limit=LIMIT).content)


@pytest.mark.parametrize("attack", ["flipped", "missing", "more", "twice", "other id", "no message", "empty"])
def test_a_parcel_that_was_tampered_with_is_refused(attack: str) -> None:
    altered = pb.Parcel.FromString(parcel())
    match attack:
        case "flipped":
            altered.contents[-1] = altered.contents[-1][:-1] + bytes([altered.contents[-1][-1] ^ 1])
        case "missing":
            del altered.contents[-1]
        case "more":
            altered.contents.append(b"ConfigRecord  0\0")
        case "twice":
            altered.contents.append(altered.contents[0])
        case "other id":
            altered.object_id = bytes(32)
        case "no message":
            _, contents = flower_messages.deflate(flower_messages.decode(parcel(), limit=LIMIT))
            record = next(key for key, value in contents.items() if value.startswith(b"RecordDict"))
            kept = [value for value in contents.values() if not value.startswith(b"Message")]
            altered = pb.Parcel(object_id=bytes.fromhex(record), contents=kept)
        case "empty":
            altered = pb.Parcel()
    with pytest.raises(WireError):
        flower_messages.decode(altered.SerializeToString(), limit=LIMIT)


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_mutated_parcels_are_a_wire_error_or_a_message(noise: bytes, position: int) -> None:
    data = parcel(RecordDict({"limbeck": ConfigRecord({"pb": b"x"})}))
    position %= len(data)
    for mutated in (noise, data[:position] + noise + data[position:], data[:position], data[:position] + noise):
        with contextlib.suppress(WireError):
            assert isinstance(flower_messages.decode(mutated, limit=LIMIT), Message)
