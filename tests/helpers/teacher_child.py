"""A black-box teacher in a process of its own, to be killed, to be slow or to lie. Its answers depend on the input alone, so order shows.

It speaks through the generated stubs, not through limbeck's own service: `python teacher_child.py PORT HOW SIGN`; SIGN is a file that
it makes when it begins to hang, with the number of batches that it has answered.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np

from limbeck.protos import teacher_pb2, teacher_pb2_grpc

CLASSES = 4
TOO_LARGE = (16 << 20) + 1


class Scripted(teacher_pb2_grpc.TeacherServiceServicer):
    """Answers rows (x, ...) with probability (1 + x) / 10 for class 0 and the rest on class 1; `how` says what goes wrong."""

    def __init__(self, how: str, sign: Path) -> None:
        self.how, self.sign, self.batches = how, sign, 0

    def Describe(  # noqa: N802 - gRPC's name
        self, request: teacher_pb2.DescribeRequest, context: grpc.ServicerContext
    ) -> teacher_pb2.Description:
        model = "another" if self.how == "another model" else "scripted"
        own = teacher_pb2.Description(version=1, model=model, labels=["a", "b", "c", "d"], inputs="rows", max_batch=8)
        if self.how == "labels":
            own.answers, own.tempered = "labels", False
        else:
            own.answers, own.top_k = "probabilities", 2
        return own

    def Answer(  # noqa: N802 - gRPC's name
        self, batches: Iterator[teacher_pb2.Batch], context: grpc.ServicerContext
    ) -> Iterator[teacher_pb2.Answers]:
        for batch in batches:
            self.batches += 1
            if (self.how, self.batches) in {("slow once", 2), ("hangs after two", 3)}:
                self.sign.write_text(str(self.batches - 1))
                while context.is_active():
                    time.sleep(0.02)
                return
            answers = honest(batch)
            spoil(self.how, answers)
            yield answers
            if self.how == "breaks after each":
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone for a moment")
            if self.how == "one too many":
                yield answers


def honest(batch: teacher_pb2.Batch) -> teacher_pb2.Answers:
    x = np.frombuffer(batch.rows.values, "<f4").reshape(batch.count, -1)[:, 0]
    p = np.stack([(1 + x) / 10, 1 - (1 + x) / 10], 1).astype("<f4")
    top_k = teacher_pb2.TopK(
        k=2,
        ids=np.tile(np.array([0, 1], "<u4"), batch.count).tobytes(),
        probabilities=p.tobytes(),
        tails=np.zeros(batch.count, "<f4").tobytes(),
    )
    return teacher_pb2.Answers(first=batch.first, count=batch.count, top_k=top_k)


def spoil(how: str, answers: teacher_pb2.Answers) -> None:
    own = answers.top_k
    if how == "nan":
        own.probabilities = np.full(2 * answers.count, np.nan, "<f4").tobytes()
    elif how == "negative":
        own.probabilities = np.tile(np.array([1.5, -0.5], "<f4"), answers.count).tobytes()
    elif how == "mass":
        own.tails = np.ones(answers.count, "<f4").tobytes()
    elif how == "beyond the classes":
        own.ids = np.tile(np.array([0, CLASSES], "<u4"), answers.count).tobytes()
    elif how == "an id twice":
        own.ids = np.zeros(2 * answers.count, "<u4").tobytes()
    elif how == "more than top-k":
        own.k, own.ids = 3, np.tile(np.arange(3, dtype="<u4"), answers.count).tobytes()
        own.probabilities = np.tile(np.array([0.5, 0.5, 0], "<f4"), answers.count).tobytes()
    elif how == "too many rows":
        answers.count += 1
        own.ids += np.array([0, 1], "<u4").tobytes()
        own.probabilities += np.array([0.5, 0.5], "<f4").tobytes()
        own.tails += bytes(4)
    elif how == "too few bytes":
        own.probabilities = own.probabilities[:-1]
    elif how == "other inputs":
        answers.first += 1
    elif how == "labels unasked":
        answers.labels.draws = 1
    elif how == "oversize":
        own.ids = bytes(TOO_LARGE)


def main() -> None:
    """Serve until killed; prints the port."""
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)])
    teacher_pb2_grpc.add_TeacherServiceServicer_to_server(Scripted(sys.argv[2], Path(sys.argv[3])), server)
    print(server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
