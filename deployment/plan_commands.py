"""`limbeck plan`: make, sign and show the plans of federations of real sites."""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import write_durably
from limbeck.base.printable import plain_console, printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from limbeck.inputs.dialects import Dialect
    from limbeck.plans.schema import Plan
    from limbeck.plans.settings import PlanSettings
    from limbeck.protos.messages import Offer

app = typer.Typer(
    help="""Plans for federations of real sites.

    \b
    Examples:
      limbeck plan settings default --out plan.toml
      limbeck plan make plan.toml --transfer public.npz --key plan.key
      limbeck plan show plan.pb
    """,
    no_args_is_help=True,
)

ENCODING = "encoding.json"
CLASSES_SHOWN = 20


def make(
    settings: PlanSettings,
    transfer: Path,
    key: Ed25519PrivateKey,
    *,
    out: Path,
    publish: Path,
    encoding: Path | None = None,
) -> Offer:
    """Write the signed plan of these settings to `out`, and its public inputs, alone, into the folder `publish` under their hash.

    - transfer: an NPZ file with an array x of public inputs; nothing else of it, such as labels, is taken over. They are published as
      bytes or float32, whatever type of array they come in.
    - key: the author's.
    - encoding: the file of the public encoding that made these rows of tables or texts; it is published too.

    Raises SettingError, DataError or WireError, and then nothing is written.
    """
    import numpy as np

    from limbeck.inputs import encodings, features
    from limbeck.inputs.transfer_set import digest, read_arrays
    from limbeck.plans import checks, public_inputs
    from limbeck.plans.author import make_plan
    from limbeck.protos import codec
    from limbeck.server import student

    if out.exists():
        raise SettingError(f"Expected no file at {out} yet, found one; it was left as it is.")
    (x_N,) = read_arrays(transfer, "x")
    if x_N.ndim < 2 or not len(x_N) or x_N.dtype.kind not in "buif":
        raise DataError(f"Expected public inputs (N, ...) of numbers in {transfer}, got {x_N.shape} of {x_N.dtype}.")
    encoding_hash, dimensions = None, None
    if encoding is not None:
        dimensions = encodings.load(encoding).dimensions
        encoding_hash = hashlib.sha256(encoding.read_bytes()).digest()
    x_N = public_inputs.normalised(x_N)
    checks.check_numbers(x_N)

    def of_public() -> features.Rows:
        return features.of_evidence(
            settings.teacher.features, features.compute(settings.teacher.features, x_N), settings.teacher.constant
        )

    plan = make_plan(
        settings,
        transfer_set=digest(x_N),
        samples=len(x_N),
        classes=settings.classes,
        encoding=encoding_hash,
        inputs=public_inputs.declared(x_N),
        features=of_public,
    )
    checks.check_plan(plan)
    checks.check_inputs(plan, x_N, dimensions=dimensions)
    # A student that cannot take these inputs would show only after all sites have paid for their answers.
    student.rehearse(plan, x_N)
    offer = codec.signed_offer(plan, key)
    buffer = io.BytesIO()
    np.savez(buffer, x=x_N)
    write_durably(publish / f"{plan.transfer_set.hex()}.npz", buffer.getvalue())
    if encoding is not None:
        write_durably(publish / ENCODING, encoding.read_bytes())
    write_durably(out, codec.encode_request(offer))
    return offer


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Counts that are asked of every site: "label_counts" or "record_count". noise_std: records."""

    kind: str
    noise_std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What `limbeck plan show` says of a plan. cost_epsilon: what one run costs a site, at the plan's delta, unit and adjacency, by PLD.

    second_opinion, opinion: what another accountant says of the same, as values and as a sentence.

    bytes_up: of one site's answers over all stages. inputs: kind and range of the public inputs; None where the plan does not say. doubts:
    what looks like a mistake and is allowed. plan_hash, author, transfer_set and encoding are in hexadecimal; author is None where
    nobody signed.
    """

    name: str
    plan_hash: str
    author: str | None
    transfer_set: str
    encoding: str | None
    samples: int
    classes: int
    class_names: tuple[str, ...]
    class_weights: tuple[float, ...]
    inputs: dict[str, object] | None
    teaching: dict[str, object]
    counts: Noise | None
    claimed_epsilon: float
    cost_epsilon: float
    second_opinion: dict[str, object]
    opinion: str
    delta: float
    unit: str
    adjacency: str
    softening: str
    tsallis_order: float | None
    truncation: dict[str, object]
    coding: str
    pooling: str
    stages: tuple[dict[str, float], ...]
    bytes_up: int
    student: dict[str, object]
    minimum_clients: int
    public_seed: int
    black_box_draws: int | None
    doubts: tuple[str, ...]


def doubts_about(plan: Plan, *, folder: Path, labelled: Path | None = None) -> tuple[str, ...]:
    """What is allowed and looks like a mistake.

    - folder: where its public inputs are, under their hash; without them, only the plan is looked at.
    - labelled: an NPZ file that may hold labels of the public inputs as array y; they are looked at here and used for nothing.
    """
    from limbeck.inputs.transfer_set import read_arrays
    from limbeck.plans import doubts

    found = doubts.of_plan(plan)
    inputs = folder / f"{plan.transfer_set.hex()}.npz"
    if inputs.exists():
        found += doubts.of_inputs(plan, read_arrays(inputs, "x")[0])
    if labelled is not None:
        with suppress(DataError):
            found += doubts.of_labels(plan, read_arrays(labelled, "y")[0])
    return found


def describe(offer: Offer, *, transfer_sets: Path = Path("transfer-sets")) -> Description:
    """What an offered plan says, and what follows from it. transfer_sets: where its public inputs may be."""
    from limbeck.plans import accounting, schema, second_opinion
    from limbeck.protos import codec
    from limbeck.protos.messages import Ask

    plan = offer.plan
    plan_hash = codec.plan_hash(plan)
    kind = next(name for name, one in schema.TEACHINGS.items() if isinstance(plan.teaching, one))
    questions = [Ask(plan_hash=plan_hash, stage=stage, first=0, count=plan.samples) for stage in range(len(plan.stages))]
    counts = plan.counts
    cost = accounting.epsilon(((plan.teaching, counts),), plan.privacy.delta)
    opinion = second_opinion.of(((plan.teaching, counts),), plan.privacy.delta)
    doubt = opinion.disagreement(cost)
    noise = None
    if counts is not None:
        asked = "label_counts" if isinstance(counts, schema.LabelCounts) else "record_count"
        noise = Noise(kind=asked, noise_std=counts.noise_std)
    return Description(
        name=plan.name,
        plan_hash=plan_hash.hex(),
        author=offer.author.hex() or None,
        transfer_set=plan.transfer_set.hex(),
        encoding=plan.encoding.hex() if plan.encoding is not None else None,
        samples=plan.samples,
        classes=plan.classes,
        class_names=plan.class_names,
        class_weights=plan.class_weights,
        inputs={**asdict(plan.inputs), "kind": plan.inputs.kind.value} if plan.inputs is not None else None,
        teaching={"kind": kind, **asdict(plan.teaching)},
        counts=noise,
        claimed_epsilon=plan.privacy.epsilon,
        cost_epsilon=cost,
        second_opinion=opinion.values,
        opinion=opinion.sentence,
        delta=plan.privacy.delta,
        unit=plan.privacy.unit.value,
        adjacency=plan.privacy.adjacency.value,
        softening=plan.family.value,
        tsallis_order=plan.tsallis_order,
        truncation={"kind": "top-k" if isinstance(plan.truncation, schema.TopK) else "sampled", **asdict(plan.truncation)},
        coding=plan.coding.value,
        pooling=plan.pooling.value,
        stages=tuple(asdict(stage) for stage in plan.stages),
        bytes_up=sum(codec.share_bytes(plan, question) for question in questions),
        student={**asdict(plan.student), "loss": plan.student.loss.value},
        minimum_clients=plan.minimum_clients,
        public_seed=plan.public_seed,
        black_box_draws=plan.black_box.draws if plan.black_box is not None else None,
        doubts=(*([doubt] if doubt else []), *doubts_about(plan, folder=transfer_sets)),
    )


def in_words(plan: Description) -> list[tuple[str, str]]:
    """What a plan says, for people: pairs of a topic and a sentence or two."""
    names = ", ".join(plan.class_names[:CLASSES_SHOWN]) + (", ..." if len(plan.class_names) > CLASSES_SHOWN else "")
    kept = "the {k} most probable classes".format(**plan.truncation) if plan.truncation["kind"] == "top-k" else ""
    temperatures = _span([stage["temperature"] for stage in plan.stages], "g")
    sparsities = _span([stage["sparsity"] for stage in plan.stages], ".1%")
    order = f" of order {plan.tsallis_order:g}" if plan.tsallis_order is not None else ""
    counts = (
        []
        if plan.counts is None
        else [
            (
                "counts",
                f"{plan.counts.kind} with discrete Gaussian noise, standard deviation {plan.counts.noise_std:.4g} records",
            )
        ]
    )
    black_box = (
        []
        if plan.black_box_draws is None
        else [("black-box teachers", "permitted where the owner allows them; for those sites NO epsilon holds")]
    )
    stored = "" if plan.inputs is None else ", {kind} from {low:g} to {high:g}".format_map(plan.inputs)
    weights = (
        []
        if not plan.class_weights
        else [
            (
                "class weights",
                ", ".join(f"{weight:g}" for weight in plan.class_weights[:CLASSES_SHOWN])
                + (", ..." if len(plan.class_weights) > CLASSES_SHOWN else "")
                + ": by which a record of each class counts before it is clipped",
            )
        ]
    )
    encoded = [] if plan.encoding is None else [("public encoding", plan.encoding)]
    return [
        ("plan", plan.name),
        ("hash", plan.plan_hash),
        ("author", plan.author or "nobody: the plan is not signed"),
        ("classes", f"{plan.classes}: {names}" if names else f"{plan.classes}, without names"),
        ("public inputs", f"{plan.samples}{stored}, SHA-256 {plan.transfer_set}"),
        *encoded,
        (
            "cost to a site",
            f"epsilon = {plan.cost_epsilon:.4g} at delta = {plan.delta:g}, per {plan.unit}, {plan.adjacency}"
            f" (claimed: {plan.claimed_epsilon:g}); {plan.opinion}",
        ),
        ("teacher", "{}: {}".format(plan.teaching["kind"], _pairs(plan.teaching))),
        *weights,
        *counts,
        *black_box,
        (
            "answers",
            f"{plan.softening}{order} softening at T = {temperatures}, then {kept or '{draws} draws'.format(**plan.truncation)};"
            f" {plan.bytes_up} bytes per site in all",
        ),
        ("pooling", plan.pooling),
        ("stages", f"{len(plan.stages)}, sparsity {sparsities}"),
        ("student", "{}: {}".format(plan.student["architecture"], _pairs(plan.student))),
        ("sites", f"at least {plan.minimum_clients}"),
        ("public seed", str(plan.public_seed)),
        *(("warning", doubt) for doubt in plan.doubts),
    ]


def _span(values: list[float], form: str) -> str:
    """One value where all are the same, otherwise all in turn, or first and last of many."""
    if len(set(values)) == 1:
        return format(values[0], form)
    shown = [format(value, form) for value in values]
    return ", ".join(shown) if len(shown) <= 10 else f"{shown[0]}, ..., {shown[-1]}"


def _pairs(settings: dict[str, object]) -> str:
    """Settings but for the kind, as "name value"."""
    shown = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if name not in {"kind", "architecture"})


@app.command("show")
def show_command(
    path: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan's file, plan.pb.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what a plan asks of sites, what it costs them, and what the coordinator will do.

    Nothing is checked against a site's policy: that is `limbeck policy check`. Where the public inputs lie in the folder `transfer-sets`
    beside the plan, they are looked at too: what is allowed and looks like a mistake is shown as a warning.

    \b
    Examples:
      limbeck plan show plan.pb
      limbeck plan show plan.pb --json
    """
    from limbeck.protos import plan_file

    description = describe(plan_file.read(path), transfer_sets=path.parent / "transfer-sets")
    if as_json:
        print(json.dumps(asdict(description), indent=1))
        return
    console = plain_console()
    for topic, sentence in in_words(description):
        console.print(f"{topic:<18} {printable(sentence)}", highlight=False, markup=False, soft_wrap=True)


@app.command("encode")
def encode_command(
    public: Annotated[
        Path,
        typer.Argument(
            metavar="PUBLIC",
            help="A PUBLIC table: .csv, .tsv, .txt, each also .gz, .parquet or .xlsx; with --encoder also a folder of images.",
        ),
    ],
    label: Annotated[
        str | None, typer.Option(help="The column of labels if the table has one; it is neither read nor written.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="A column to leave out; repeat for more.")] = None,
    as_: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            metavar="COLUMN=KIND",
            help="What a column is: number, category, hashed, boolean, text, date, day-first or month-first. Repeat for more.",
        ),
    ] = None,
    zero_is_missing: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A number that cannot be zero; repeat for more.")
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=NUMBER", help='A number that means "not known", such as 999; repeat for more.'),
    ] = None,
    words: Annotated[int, typer.Option(min=1, help="Most words of a column of free text.")] = 200,
    delimiter: Annotated[str | None, typer.Option(help="What separates the cells; default: what the rows show.")] = None,
    decimal: Annotated[str | None, typer.Option(help="The decimal sign, . or ,; default: what the rows show.")] = None,
    text_encoding: Annotated[
        str | None, typer.Option(help="The encoding of the text, such as windows-1252; default: what the bytes show.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encode one column of texts, or images, by a frozen encoder: the folder of a Hugging Face model, or for"
            " images of an ONNX model; or module:factory."
        ),
    ] = None,
    column: Annotated[
        str, typer.Option(help="With --encoder: the column of texts, here and in the sites' tables.")
    ] = "text",
    name: Annotated[str | None, typer.Option(help="With --encoder: its name; default: the name of its folder.")] = None,
    tokens: Annotated[int, typer.Option(min=8, help="With --encoder: most tokens of a text; longer texts are cut.")] = 128,
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="With --encoder and images: height and width to which they are scaled; default: what it takes."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write the rows to, for --transfer.")] = Path("public.npz"),
    encoding: Annotated[Path, typer.Option(help="The file to write the public encoding to, for --encoding.")] = Path(
        ENCODING
    ),
) -> None:
    """Encode a public table, and write the encoding by which every site encodes its records.

    The columns' means, levels and words are those of this table, so it must be PUBLIC. What each column is taken for is printed,
    with the reason; --as overrides it.

    \b
    Examples:
      limbeck plan encode public.csv --label diagnosis --drop name
      limbeck plan encode public.csv --as visited=day-first \\
        --zero-is-missing chol --missing bmi=999
      limbeck plan encode public.csv --encoder all-MiniLM-L6-v2/
      limbeck plan encode public.csv --encoder encoders:load --out rows.npz
      limbeck plan encode photographs/ --encoder efficientnet-lite0/
    """
    for path in (out, encoding):
        if path.exists():
            raise SettingError(f"Expected no file at {path} yet, found one; it was left as it is.")
    if out.resolve() == encoding.resolve():
        raise SettingError(f"Expected two files for rows and encoding, got {out} for both.")
    if encoder is not None and public.is_dir():
        _encode_images(public, encoder, name or Path(encoder).name, image_size, out, encoding)
        return
    if image_size is not None:
        raise SettingError(f"Expected --image-size with --encoder and a folder of images, got {public}.")
    dialect = _dialect(public, delimiter, decimal, text_encoding)
    if encoder is not None:
        if label is not None or drop or as_ or zero_is_missing or missing:
            raise SettingError("Expected --encoder with --column alone, got settings of a table's columns.")
        _encode_texts(public, dialect, encoder, column, name or Path(encoder).name, tokens, out, encoding)
        return
    kinds = dict(_pairs_of(as_, "--as", "KIND"))
    codes: dict[str, list[float]] = {}
    for own, number in _pairs_of(missing, "--missing", "NUMBER"):
        codes.setdefault(own, []).append(_to_number(number, "--missing"))
    for line in encode_table(
        public,
        dialect,
        label=label,
        drop=drop or [],
        kinds=kinds,
        zero_is_missing=zero_is_missing or [],
        missing_codes=codes,
        words=words,
        out=out,
        encoding=encoding,
    ):
        print(line)


def encode_table(
    public: Path,
    dialect: Dialect,
    *,
    label: str | None,
    drop: Sequence[str],
    kinds: Mapping[str, str],
    zero_is_missing: Sequence[str],
    missing_codes: Mapping[str, Sequence[float]],
    words: int,
    out: Path,
    encoding: Path,
) -> list[str]:
    """Fit the encoding of a public table, write it and its rows, and say what each column was taken for, in lines of 80 characters.

    - label, drop: columns that are not looked at and not written.
    - kinds, zero_is_missing, missing_codes: see `columns.examine`.
    - words: see `encodings.fit`.

    Raises DataError or SettingError, and then nothing is written.
    """
    import numpy as np

    from limbeck.inputs import columns, encodings, tables

    table = tables.read(public, public=True, dialect=dialect)
    if not len(table):
        raise DataError(f"Expected public records in {public}, found a header alone.")
    examined = columns.examine(
        table, drop=drop, label=label, kinds=kinds, zero_is_missing=zero_is_missing, missing_codes=missing_codes
    )
    fitted = encodings.fit(table, examined, words=words)
    rows_ND = fitted(table)
    buffer = io.BytesIO()
    np.savez(buffer, x=rows_ND)
    write_durably(out, buffer.getvalue())
    encodings.save(fitted, encoding)
    left_out = [
        (own.name, f"({own.kind}: {own.why}){''.join(f' ! {warning}' for warning in own.warnings)}")
        for own in examined
        if own.is_left_out
    ]
    left_out += [(name, "(as you said)") for name in drop]
    left_out += [(label, "(the label)")] if label is not None else []
    said = [f"{public}: {len(table)} rows, {len(table.columns)} columns; {dialect.describe()}"]
    lines = [*_wrapped(said[0]), "", *columns.describe([own for own in examined if not own.is_left_out], len(table)), ""]
    for name, why in left_out:
        lines += _wrapped(f"left out: {name} {why}")
    if label is None:
        lines += _wrapped("No column is the label. If the table has one, say so by --label: it must not be encoded.")
    if any(own.warnings for own in examined):
        lines += _wrapped("! --as, --zero-is-missing and --missing say what a column is and which numbers mean not known.")
    lines += _wrapped(f"{out}: {len(rows_ND)} rows of {fitted.dimensions} numbers")
    lines += _wrapped(f"{encoding}: the public encoding, SHA-256 {encodings.digest(fitted).hex()}")
    lines += _wrapped(f"Next: limbeck plan make plan.toml --key plan.key --transfer {out} --encoding {encoding}")
    return lines


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(printable(sentence, 1000), 80, subsequent_indent="  ", break_on_hyphens=False)


def _dialect(public: Path, delimiter: str | None, decimal: str | None, text_encoding: str | None) -> Dialect:
    """What the rows of a public table show, but for what somebody says of it."""
    from limbeck.inputs import tables

    if not tables.is_table(public):
        raise DataError(f"Expected a table, named {', '.join(sorted(tables.SUFFIXES))}, got {public}.")
    found = tables.detect_dialect(public)
    said = {"delimiter": delimiter, "decimal": decimal, "text_encoding": text_encoding}
    return replace(found, **{key: value for key, value in said.items() if value is not None})


def _pairs_of(values: list[str] | None, option: str, what: str) -> list[tuple[str, str]]:
    """Column and value of each "column=value"; a column's name may contain the sign."""
    pairs = [value.rpartition("=") for value in values or []]
    for column, _, value in pairs:
        if not column or not value:
            raise SettingError(f"Expected {option} COLUMN={what}, got {column or value!r}.")
    return [(column, value) for column, _, value in pairs]


def _to_number(text: str, option: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SettingError(f"Expected a number as {option} COLUMN=NUMBER, got {text!r}.")
    return number


def _encode_texts(
    public: Path, dialect: Dialect, encoder: str, column: str, name: str, tokens: int, out: Path, encoding: Path
) -> None:
    """One column of texts through a frozen encoder."""
    import numpy as np
    from rich.console import Console

    from limbeck.base.progress import bars
    from limbeck.inputs import encoders, encodings, tables

    cells = tables.read(public, public=True, dialect=dialect).texts(column)
    described = encoders.describe(encoder, Path(), column=column, name=name, tokens=tokens)
    with bars(Console(stderr=True)) as bar:
        task = bar.add_task("Public texts", total=None)
        rows = encoders.encode(
            described,
            cells,
            encoders.open_encoder(described, encoder, Path()),
            kept=out.parent / "encoded",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    buffer = io.BytesIO()
    np.savez(buffer, x=rows)
    write_durably(out, buffer.getvalue())
    encodings.save(described, encoding)
    print(
        f"{out}: {len(rows)} rows of {described.dimensions} numbers; {encoding}: the public encoding, by {described.model}"
    )


def _encode_images(public: Path, encoder: str, name: str, size: tuple[int, int] | None, out: Path, encoding: Path) -> None:
    """All images below a folder through a frozen encoder, in the order of their paths."""
    import numpy as np
    from rich.console import Console

    from limbeck.base.progress import bars
    from limbeck.inputs import encoders, encodings, images

    described = encoders.describe_images(encoder, Path(), name=name, size=size)
    files = images.files(public)
    if not files:
        raise DataError(f"Expected images ({', '.join(sorted(images.SUFFIXES))}) below {public}, found none.")
    pixels = []
    for file in files:
        try:
            pixels.append(images.colour(images.contents(file), *described.size))
        except Exception as error:  # whatever a decoder raises
            raise DataError(f"Expected an image at {file}, got {images.why_unread(error)}.") from error
    with bars(Console(stderr=True)) as bar:
        task = bar.add_task("Public images", total=None)
        rows = encoders.encode_images(
            described,
            np.stack(pixels),
            encoders.open_encoder(described, encoder, Path()),
            kept=out.parent / "encoded",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    buffer = io.BytesIO()
    np.savez(buffer, x=rows)
    write_durably(out, buffer.getvalue())
    encodings.save(described, encoding)
    print(
        f"{out}: {len(rows)} rows of {described.dimensions} numbers; {encoding}: the public encoding, by {described.model}"
    )


@app.command("make")
def make_command(
    settings: Annotated[Path, typer.Argument(metavar="SETTINGS", help="The plan's settings, a TOML file.")],
    transfer: Annotated[Path, typer.Option(help="An NPZ file with the public inputs as array x.")],
    key: Annotated[Path, typer.Option(help="The author's private key, which `limbeck keys plan` made.")],
    out: Annotated[Path, typer.Option(help="The file to write the plan to.")] = Path("plan.pb"),
    publish: Annotated[
        Path,
        typer.Option(help="The folder for the public inputs, named by their hash, for the coordinator and all sites."),
    ] = Path("transfer-sets"),
    encoding: Annotated[
        Path | None,
        typer.Option(help="The public encoding that made these rows of tables or texts; sites encode their records by it."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as privacy.epsilon=1.")
    ] = None,
) -> None:
    """Make and sign a plan. Its noise is calibrated to the epsilon of the settings; it names the public inputs by their hash.

    With teacher.kind = "evidence", what is "auto" in teacher and stages follows from the public inputs, the noise and
    run.expected_clients. What is printed as advice says where the plan's kind of teacher fits; it knows no record.

    `limbeck plan settings SCENARIO` writes settings to start from.

    \b
    Examples:
      limbeck plan make plan.toml --transfer public.npz --key plan.key
      limbeck plan make plan.toml --transfer rows.npz --key plan.key \\
        --encoding encoding.json --set privacy.epsilon=1
    """
    from limbeck.plans import accounting, advice, second_opinion
    from limbeck.plans.settings import load
    from limbeck.protos import codec, signing

    offer = make(load(settings, set_ or []), transfer, signing.read_key(key), out=out, publish=publish, encoding=encoding)
    plan: Plan = offer.plan
    privacy = plan.privacy
    schedules = ((plan.teaching, plan.counts),)
    cost, opinion = accounting.epsilon(schedules, privacy.delta), second_opinion.of(schedules, privacy.delta)
    print(f"{out}: plan {plan.name!r}, {codec.plan_hash(plan).hex()}")
    print(f"signed by {offer.author.hex()}")
    print(
        f"costs each site epsilon = {cost:.4g} at delta = {privacy.delta:g}, per {privacy.unit.value}, {privacy.adjacency.value};"
        f" {opinion.sentence}"
    )
    if disagreement := opinion.disagreement(cost):
        print(f"warning: {disagreement}", file=sys.stderr)
    inputs = publish / (plan.transfer_set.hex() + ".npz")
    print(f"{inputs}: {plan.samples} public inputs, for the coordinator and every site")
    if encoding is not None:
        print(f"{publish / ENCODING}: the public encoding, for every site, as records.encoding of its site.toml")
    for sentence in advice.of_plan(plan):
        print(f"advice: {sentence}")
    for doubt in doubts_about(plan, folder=publish, labelled=transfer):
        print(f"warning: {doubt}", file=sys.stderr)
