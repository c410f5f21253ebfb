from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class Description(_message.Message):
    __slots__ = ("version", "model", "labels", "inputs", "answers", "top_k", "tempered", "max_batch")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TEMPERED_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    version: int
    model: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    inputs: str
    answers: str
    top_k: int
    tempered: bool
    max_batch: int
    def __init__(self, version: _Optional[int] = ..., model: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., inputs: _Optional[str] = ..., answers: _Optional[str] = ..., top_k: _Optional[int] = ..., tempered: _Optional[bool] = ..., max_batch: _Optional[int] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("width", "values")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    width: int
    values: bytes
    def __init__(self, width: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class Images(_message.Message):
    __slots__ = ("shape", "pixels")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    pixels: bytes
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., pixels: _Optional[bytes] = ...) -> None: ...

class Texts(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("first", "count", "draws", "temperature", "rows", "images", "texts")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    draws: int
    temperature: float
    rows: Rows
    images: Images
    texts: Texts
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., draws: _Optional[int] = ..., temperature: _Optional[float] = ..., rows: _Optional[_Union[Rows, _Mapping]] = ..., images: _Optional[_Union[Images, _Mapping]] = ..., texts: _Optional[_Union[Texts, _Mapping]] = ...) -> None: ...

class TopK(_message.Message):
    __slots__ = ("k", "ids", "probabilities", "tails")
    K_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    TAILS_FIELD_NUMBER: _ClassVar[int]
    k: int
    ids: bytes
    probabilities: bytes
    tails: bytes
    def __init__(self, k: _Optional[int] = ..., ids: _Optional[bytes] = ..., probabilities: _Optional[bytes] = ..., tails: _Optional[bytes] = ...) -> None: ...

class Labels(_message.Message):
    __slots__ = ("draws", "texts")
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    draws: int
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, draws: _Optional[int] = ..., texts: _Optional[_Iterable[str]] = ...) -> None: ...

class Answers(_message.Message):
    __slots__ = ("first", "count", "top_k", "labels")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    top_k: TopK
    labels: Labels
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., top_k: _Optional[_Union[TopK, _Mapping]] = ..., labels: _Optional[_Union[Labels, _Mapping]] = ...) -> None: ...
