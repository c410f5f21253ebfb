"""ONNX models run on the CPU by onnxruntime, which is told to report nothing to anybody.

From 1.29 on, official builds of onnxruntime for Linux send the name, the graph and hashes of every model that they open to their maker,
unless an environment variable forbids it before the library is loaded. Calling `disable_telemetry_events` comes too late: the library has
reported the process by then. So nothing else in limbeck imports onnxruntime.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import InferenceSession as InferenceSession  # noqa: PLC0414 - others take the type from here

SILENT = "ORT_DISABLE_TELEMETRY"


def open_session(model: bytes | Path, *, threads: int | None = None) -> InferenceSession:
    """A session of the model in these bytes or in this file. Raises whatever onnxruntime raises for one that it cannot read.

    threads: at most so many for an operator; by default one for each core.

    A process in which somebody loaded onnxruntime before keeps what the library was told then.
    """
    os.environ[SILENT] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
