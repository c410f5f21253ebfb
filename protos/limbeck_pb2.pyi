from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LinearTeaching(_message.Message):
    __slots__ = ("features", "feature_norm", "steps", "learning_rate", "momentum", "clip", "noise_multiplier", "normaliser", "average_last")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NORM_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    NORMALISER_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_LAST_FIELD_NUMBER: _ClassVar[int]
    features: str
    feature_norm: float
    steps: int
    learning_rate: float
    momentum: float
    clip: float
    noise_multiplier: float
    normaliser: float
    average_last: int
    def __init__(self, features: _Optional[str] = ..., feature_norm: _Optional[float] = ..., steps: _Optional[int] = ..., learning_rate: _Optional[float] = ..., momentum: _Optional[float] = ..., clip: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., normaliser: _Optional[float] = ..., average_last: _Optional[int] = ...) -> None: ...

class NetTeaching(_message.Message):
    __slots__ = ("sampling_rate", "steps", "learning_rate", "momentum", "clip", "noise_multiplier", "normaliser", "physical_batch", "architecture")
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    NORMALISER_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_BATCH_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    sampling_rate: float
    steps: int
    learning_rate: float
    momentum: float
    clip: float
    noise_multiplier: float
    normaliser: float
    physical_batch: int
    architecture: str
    def __init__(self, sampling_rate: _Optional[float] = ..., steps: _Optional[int] = ..., learning_rate: _Optional[float] = ..., momentum: _Optional[float] = ..., clip: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., normaliser: _Optional[float] = ..., physical_batch: _Optional[int] = ..., architecture: _Optional[str] = ...) -> None: ...

class VotesTeaching(_message.Message):
    __slots__ = ("teachers", "queries", "features", "feature_norm", "steps", "learning_rate", "momentum", "noise_multiplier")
    TEACHERS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NORM_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    teachers: int
    queries: int
    features: str
    feature_norm: float
    steps: int
    learning_rate: float
    momentum: float
    noise_multiplier: float
    def __init__(self, teachers: _Optional[int] = ..., queries: _Optional[int] = ..., features: _Optional[str] = ..., feature_norm: _Optional[float] = ..., steps: _Optional[int] = ..., learning_rate: _Optional[float] = ..., momentum: _Optional[float] = ..., noise_multiplier: _Optional[float] = ...) -> None: ...

class EvidenceTeaching(_message.Message):
    __slots__ = ("features", "normaliser", "ridge", "noise_multiplier", "resolution", "constant", "noise_to_signal")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    NORMALISER_FIELD_NUMBER: _ClassVar[int]
    RIDGE_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    CONSTANT_FIELD_NUMBER: _ClassVar[int]
    NOISE_TO_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    features: str
    normaliser: float
    ridge: float
    noise_multiplier: float
    resolution: int
    constant: float
    noise_to_signal: float
    def __init__(self, features: _Optional[str] = ..., normaliser: _Optional[float] = ..., ridge: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., resolution: _Optional[int] = ..., constant: _Optional[float] = ..., noise_to_signal: _Optional[float] = ...) -> None: ...

class Privacy(_message.Message):
    __slots__ = ("epsilon", "delta", "unit", "adjacency")
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ADJACENCY_FIELD_NUMBER: _ClassVar[int]
    epsilon: float
    delta: float
    unit: str
    adjacency: str
    def __init__(self, epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., unit: _Optional[str] = ..., adjacency: _Optional[str] = ...) -> None: ...

class LabelCounts(_message.Message):
    __slots__ = ("noise_std", "noise")
    NOISE_STD_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    noise_std: float
    noise: str
    def __init__(self, noise_std: _Optional[float] = ..., noise: _Optional[str] = ...) -> None: ...

class RecordCount(_message.Message):
    __slots__ = ("noise_std",)
    NOISE_STD_FIELD_NUMBER: _ClassVar[int]
    noise_std: float
    def __init__(self, noise_std: _Optional[float] = ...) -> None: ...

class TopK(_message.Message):
    __slots__ = ("k",)
    K_FIELD_NUMBER: _ClassVar[int]
    k: int
    def __init__(self, k: _Optional[int] = ...) -> None: ...

class Sampled(_message.Message):
    __slots__ = ("draws",)
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    draws: int
    def __init__(self, draws: _Optional[int] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("sparsity", "temperature")
    SPARSITY_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    sparsity: float
    temperature: float
    def __init__(self, sparsity: _Optional[float] = ..., temperature: _Optional[float] = ...) -> None: ...

class Student(_message.Message):
    __slots__ = ("architecture", "loss", "epochs", "batch", "learning_rate", "weight_decay", "augment", "relabel", "sharpen", "refine", "mixup", "choose_augment")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    AUGMENT_FIELD_NUMBER: _ClassVar[int]
    RELABEL_FIELD_NUMBER: _ClassVar[int]
    SHARPEN_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    MIXUP_FIELD_NUMBER: _ClassVar[int]
    CHOOSE_AUGMENT_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    loss: str
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    augment: bool
    relabel: float
    sharpen: float
    refine: str
    mixup: float
    choose_augment: bool
    def __init__(self, architecture: _Optional[str] = ..., loss: _Optional[str] = ..., epochs: _Optional[int] = ..., batch: _Optional[int] = ..., learning_rate: _Optional[float] = ..., weight_decay: _Optional[float] = ..., augment: _Optional[bool] = ..., relabel: _Optional[float] = ..., sharpen: _Optional[float] = ..., refine: _Optional[str] = ..., mixup: _Optional[float] = ..., choose_augment: _Optional[bool] = ...) -> None: ...

class BlackBoxTeaching(_message.Message):
    __slots__ = ("draws",)
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    draws: int
    def __init__(self, draws: _Optional[int] = ...) -> None: ...

class PublicInputs(_message.Message):
    __slots__ = ("kind", "low", "high")
    KIND_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    kind: str
    low: float
    high: float
    def __init__(self, kind: _Optional[str] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("version", "name", "transfer_set", "samples", "classes", "family", "top_k", "sampled", "coding", "pooling", "stages", "linear", "net", "votes", "evidence", "label_counts", "privacy", "student", "minimum_clients", "public_seed", "record_count", "black_box", "encoding", "tsallis_order", "class_names", "inputs", "class_weights")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_SET_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    CODING_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    LINEAR_FIELD_NUMBER: _ClassVar[int]
    NET_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    LABEL_COUNTS_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_CLIENTS_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_SEED_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    BLACK_BOX_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    TSALLIS_ORDER_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CLASS_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    version: int
    name: str
    transfer_set: bytes
    samples: int
    classes: int
    family: str
    top_k: TopK
    sampled: Sampled
    coding: str
    pooling: str
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    linear: LinearTeaching
    net: NetTeaching
    votes: VotesTeaching
    evidence: EvidenceTeaching
    label_counts: LabelCounts
    privacy: Privacy
    student: Student
    minimum_clients: int
    public_seed: int
    record_count: RecordCount
    black_box: BlackBoxTeaching
    encoding: bytes
    tsallis_order: float
    class_names: _containers.RepeatedScalarFieldContainer[str]
    inputs: PublicInputs
    class_weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, version: _Optional[int] = ..., name: _Optional[str] = ..., transfer_set: _Optional[bytes] = ..., samples: _Optional[int] = ..., classes: _Optional[int] = ..., family: _Optional[str] = ..., top_k: _Optional[_Union[TopK, _Mapping]] = ..., sampled: _Optional[_Union[Sampled, _Mapping]] = ..., coding: _Optional[str] = ..., pooling: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ..., linear: _Optional[_Union[LinearTeaching, _Mapping]] = ..., net: _Optional[_Union[NetTeaching, _Mapping]] = ..., votes: _Optional[_Union[VotesTeaching, _Mapping]] = ..., evidence: _Optional[_Union[EvidenceTeaching, _Mapping]] = ..., label_counts: _Optional[_Union[LabelCounts, _Mapping]] = ..., privacy: _Optional[_Union[Privacy, _Mapping]] = ..., student: _Optional[_Union[Student, _Mapping]] = ..., minimum_clients: _Optional[int] = ..., public_seed: _Optional[int] = ..., record_count: _Optional[_Union[RecordCount, _Mapping]] = ..., black_box: _Optional[_Union[BlackBoxTeaching, _Mapping]] = ..., encoding: _Optional[bytes] = ..., tsallis_order: _Optional[float] = ..., class_names: _Optional[_Iterable[str]] = ..., inputs: _Optional[_Union[PublicInputs, _Mapping]] = ..., class_weights: _Optional[_Iterable[float]] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("plan", "author", "signature")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    author: bytes
    signature: bytes
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., author: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Teach(_message.Message):
    __slots__ = ("plan_hash",)
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    plan_hash: bytes
    def __init__(self, plan_hash: _Optional[bytes] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("plan_hash", "stage", "first", "count")
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    plan_hash: bytes
    stage: int
    first: int
    count: int
    def __init__(self, plan_hash: _Optional[bytes] = ..., stage: _Optional[int] = ..., first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("offer", "teach", "ask")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    TEACH_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    offer: Offer
    teach: Teach
    ask: Ask
    def __init__(self, offer: _Optional[_Union[Offer, _Mapping]] = ..., teach: _Optional[_Union[Teach, _Mapping]] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("plan_hash", "site", "guarantee", "replies")
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    GUARANTEE_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    plan_hash: bytes
    site: str
    guarantee: str
    replies: int
    def __init__(self, plan_hash: _Optional[bytes] = ..., site: _Optional[str] = ..., guarantee: _Optional[str] = ..., replies: _Optional[int] = ...) -> None: ...

class Declined(_message.Message):
    __slots__ = ("plan_hash", "reason", "site")
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    plan_hash: bytes
    reason: str
    site: str
    def __init__(self, plan_hash: _Optional[bytes] = ..., reason: _Optional[str] = ..., site: _Optional[str] = ...) -> None: ...

class Taught(_message.Message):
    __slots__ = ("plan_hash", "label_counts", "record_count", "guarantee")
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    LABEL_COUNTS_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    GUARANTEE_FIELD_NUMBER: _ClassVar[int]
    plan_hash: bytes
    label_counts: _containers.RepeatedScalarFieldContainer[int]
    record_count: int
    guarantee: str
    def __init__(self, plan_hash: _Optional[bytes] = ..., label_counts: _Optional[_Iterable[int]] = ..., record_count: _Optional[int] = ..., guarantee: _Optional[str] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("plan_hash", "stage", "first", "count", "ids", "codes", "tails")
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    TAILS_FIELD_NUMBER: _ClassVar[int]
    plan_hash: bytes
    stage: int
    first: int
    count: int
    ids: bytes
    codes: bytes
    tails: bytes
    def __init__(self, plan_hash: _Optional[bytes] = ..., stage: _Optional[int] = ..., first: _Optional[int] = ..., count: _Optional[int] = ..., ids: _Optional[bytes] = ..., codes: _Optional[bytes] = ..., tails: _Optional[bytes] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("accepted", "declined", "taught", "share")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    TAUGHT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    accepted: Accepted
    declined: Declined
    taught: Taught
    share: Share
    def __init__(self, accepted: _Optional[_Union[Accepted, _Mapping]] = ..., declined: _Optional[_Union[Declined, _Mapping]] = ..., taught: _Optional[_Union[Taught, _Mapping]] = ..., share: _Optional[_Union[Share, _Mapping]] = ...) -> None: ...
