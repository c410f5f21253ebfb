"""A student's folder, for whoever uses it: what stands in the ONNX file beside the weights, and the texts around it.

STUDENT/student.onnx           takes inputs as they come, gives calibrated probabilities; its metadata say what it is
STUDENT/student.safetensors    the weights alone, as trained
STUDENT/encoding.json          the public encoding, if the plan names one
STUDENT/labels.txt             names of the classes, one a line, in the order of the probabilities
STUDENT/MODEL_CARD.md          what is known of the student and what is not
STUDENT/export.json            sizes

Everything but the weights follows from the card (`limbeck.server.card`), which the ONNX file carries. Torch is not needed to write it anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from limbeck.base.errors import DataError, LimbeckError, RunError, SettingError
from limbeck.base.files import write_durably
from limbeck.base.printable import printable
from limbeck.inputs import encodings
from limbeck.server import card as cards
from limbeck.server.card import Card
from limbeck.server.exported import CARD, ENCODING, ONNX

WEIGHTS, LABELS, PAGE, EXPORT = "student.safetensors", "labels.txt", "MODEL_CARD.md", "export.json"
# Where a student's folder is within a run: of a simulation when it is finished, of a coordinator; of a simulation's coordinator.
FOLDERS = ("student", "server/student")
TEMPERATURE = "temperature"


def complete(model: ModelProto, card: Card) -> None:
    """Make a graph that turns prepared inputs into softmax(logits) the student that users get: inputs as they come are scaled within it,
    and logits are divided by a temperature, which `write` sets."""
    graph = model.graph
    softmax = next(node for node in graph.node if graph.output[0].name in node.output)
    if softmax.op_type != "Softmax":
        raise RunError(f"Expected a graph that ends in a softmax, got one that ends in {softmax.op_type}.")
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), TEMPERATURE))
    divide = helper.make_node("Div", [softmax.input[0], TEMPERATURE], ["calibrated"], name="calibrate")
    softmax.input[0] = "calibrated"
    at = list(graph.node).index(softmax)
    graph.node.insert(at, divide)
    if card.inputs.kind == "bytes":
        name = graph.input[0].name
        for node in graph.node:
            for place, own in enumerate(node.input):
                if own == name:
                    node.input[place] = "scaled"
        graph.initializer.append(numpy_helper.from_array(np.array(255, np.float32), "largest_byte"))
        graph.node.insert(0, helper.make_node("Div", ["numbers", "largest_byte"], ["scaled"], name="scale"))
        graph.node.insert(0, helper.make_node("Cast", [name], ["numbers"], name="cast", to=TensorProto.FLOAT))
        graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def write(folder: Path, model: ModelProto, card: Card, *, encoding: bytes | None = None) -> bytes:
    """Write the ONNX file with its metadata and the temperature of the card, and the texts beside it; returns the file's content.

    encoding: the content of the public encoding's file, whose hash is that of the card.
    """
    if encoding is not None and hashlib.sha256(encoding).hexdigest() != card.inputs.encoding:
        raise DataError(
            f"Expected the public encoding with SHA-256 {card.inputs.encoding}, got one with {hashlib.sha256(encoding).hexdigest()}."
        )
    if encoding is not None:
        write_durably(folder / ENCODING, encoding)
        card = replace(card, inputs=replace(card.inputs, reads=encodings.load(folder / ENCODING).reads))
    _set_temperature(model, card.logits_divided_by)
    helper.set_model_props(model, _metadata(card))
    content = model.SerializeToString()
    write_durably(folder / LABELS, "".join(f"{printable(name)}\n" for name in card.class_names).encode())
    write_durably(folder / PAGE, cards.page(card).encode())
    write_durably(folder / ONNX, content)
    return content


def amend(folder: Path, card: Card, *, encoding: bytes | None = None) -> None:
    """Write a student's folder anew with another card. Raises RunError or DataError where it holds no student that can be amended."""
    content = write(folder, _read(folder / ONNX), card, encoding=encoding)
    _update_sizes(folder, len(content))


def deliver(source: Path, target: Path, card: Card) -> None:
    """Write the student of the folder `source` into another one, with another card."""
    encoding = source / ENCODING
    content = write(target, _read(source / ONNX), card, encoding=encoding.read_bytes() if encoding.is_file() else None)
    for name in (WEIGHTS, EXPORT):
        write_durably(target / name, (source / name).read_bytes())
    _update_sizes(target, len(content))


def read_card(folder: Path) -> Card:
    """The card of the student in a folder. Raises RunError if there is none, DataError if it cannot be read or has no card."""
    properties = {own.key: own.value for own in _read(folder / ONNX).metadata_props}
    if CARD not in properties:
        raise DataError(f"Expected a student with a card in {folder}, got one of limbeck 0.1.0, which has none.")
    return cards.read(properties[CARD])


def with_what_was_stated(folder: Path, tensors: bytes, card: Card) -> Card:
    """The card with the calibration, and what somebody stated, of the same student in a folder that is about to be written anew.

    tensors: the content of its file of weights.
    """
    try:
        if (folder / WEIGHTS).read_bytes() != tensors:
            return card
        before = read_card(folder)
    except (OSError, LimbeckError):
        return card
    if before.plan_hash != card.plan_hash:
        return card
    return replace(
        card,
        calibration=before.calibration,
        measured=before.measured,
        purpose=before.purpose,
        data=before.data,
        licence=before.licence,
    )


def find(path: Path) -> Path:
    """The student's folder in `path`, which is one or the folder of a run. Raises RunError."""
    for folder in (path, *(path / place for place in FOLDERS)):
        if (folder / ONNX).is_file():
            return folder
    raise RunError(f"Expected a finished student in {path}, found none.")


def _read(path: Path) -> ModelProto:
    try:
        return ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise RunError(f"Expected a student at {path}: {error.strerror}.") from error
    except Exception as error:  # protobuf's own
        raise DataError(f"Expected a student in {path}, got a file that is no ONNX model: {error}.") from error


def _set_temperature(model: ModelProto, temperature: float) -> None:
    for initializer in model.graph.initializer:
        if initializer.name == TEMPERATURE:
            initializer.CopyFrom(numpy_helper.from_array(np.array(temperature, np.float32), TEMPERATURE))
            return
    raise SettingError("Expected a student whose graph has a temperature, got one of limbeck 0.1.0, which has none.")


def _metadata(card: Card) -> dict[str, str]:
    """The card, and its values under keys of their own, for whoever reads them without limbeck."""
    spent = {site.name: site.epsilon for site in card.sites if site.epsilon is not None}
    claimed = card.claimed
    values = {
        CARD: card.to_json(),
        "limbeck_version": card.limbeck,
        "limbeck_plan": card.plan_hash,
        "limbeck_classes": json.dumps(card.class_names, ensure_ascii=False),
        "limbeck_input": card.inputs.kind,
        "limbeck_temperature": f"{card.logits_divided_by:.9g}",
        "limbeck_epsilon": str(card.epsilon),
        "limbeck_epsilon_claimed": f"{claimed.value:.9g}",
        "limbeck_delta": f"{claimed.delta:g}",
        "limbeck_unit": claimed.unit,
        "limbeck_adjacency": claimed.adjacency,
        "limbeck_epsilon_spent": json.dumps(spent, ensure_ascii=False) if spent else "",
        "limbeck_encoding": card.inputs.encoding or "",
        "limbeck_licence": card.licence or "",
    }
    return {key: value for key, value in values.items() if value}


def _update_sizes(folder: Path, onnx: int) -> None:
    path = folder / EXPORT
    if path.is_file():
        sizes = json.loads(path.read_text(encoding="utf-8"))
        write_durably(path, json.dumps({**sizes, "onnx": onnx}, indent=1).encode())
