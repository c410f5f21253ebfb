"""Whatever a site can send is public, or a release that names its mechanism: a new field is neither until somebody decides here."""

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from limbeck.protos import limbeck_pb2 as pb

PUBLIC = "public"
COUNTS = "release: discrete Gaussian mechanism on counts, charged at teaching"
# Or, where the owner allows it, of a black-box teacher: the ledger declares that no guarantee holds.
ANSWERS = "release: post-processing of what teaching was charged for, on public inputs"
# Every field that leaves a site, by message. Before adding a line: is it computed from records? Then by which mechanism in the ledger?
DECLARED = {
    "Accepted.plan_hash": PUBLIC,
    "Accepted.site": PUBLIC,
    "Accepted.guarantee": PUBLIC,
    "Accepted.replies": PUBLIC,
    "Declined.plan_hash": PUBLIC,
    "Declined.reason": PUBLIC,
    "Declined.site": PUBLIC,
    "Taught.plan_hash": PUBLIC,
    "Taught.guarantee": PUBLIC,
    "Taught.label_counts": COUNTS,
    "Taught.record_count": COUNTS,
    "Share.plan_hash": PUBLIC,
    "Share.stage": PUBLIC,
    "Share.first": PUBLIC,
    "Share.count": PUBLIC,
    "Share.ids": ANSWERS,
    "Share.codes": ANSWERS,
    "Share.tails": ANSWERS,
}


def sendable(message: Descriptor) -> set[str]:
    """Fields of all messages that a reply can hold, nested ones included; a field that only holds a message counts by its parts."""
    names = set()
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            assert field.message_type is not None
            names |= sendable(field.message_type)
        else:
            names.add(f"{message.name}.{field.name}")
    return names


def test_every_field_that_can_leave_a_site_is_public_or_a_declared_release() -> None:
    assert sendable(pb.DESCRIPTOR.message_types_by_name["Reply"]) == set(DECLARED)


def test_the_only_messages_a_site_sends_are_replies() -> None:
    assert [field.name for field in pb.Reply.DESCRIPTOR.fields] == ["accepted", "declined", "taught", "share"]
