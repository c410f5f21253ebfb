"""`limbeck plan make`: the plan of a scenario for a federation of real sites, about a given set of public inputs, without a simulation."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import write_durably
from limbeck.base.progress import bars
from limbeck.inputs import encoders, encodings, tables
from limbeck.inputs.transfer_set import digest, read_arrays
from limbeck.plans import accounting, checks
from limbeck.protos import codec, signing
from limbeck.protos.messages import Offer
from limbeck.server import student
from limbeck.simulations.prepare import ENCODING, make_plan
from limbeck.simulations.scenario import Scenario, load

app = typer.Typer(help="Plans for federations of real sites.", no_args_is_help=True)


def make(
    scenario: Scenario,
    transfer: Path,
    key: Ed25519PrivateKey,
    *,
    classes: int,
    out: Path,
    publish: Path,
    encoding: Path | None = None,
) -> Offer:
    """Write the signed plan of a scenario to `out`, and its public inputs, alone, into the folder `publish` under their hash.

    transfer: an NPZ file with an array x of public inputs; nothing else of it, such as labels, is taken over. encoding: the file of the
    public encoding that made these rows of tables or texts; it is published too. [data] and [partition] of the scenario, which
    describe a simulation, do not matter. Raises SettingError or DataError, and then nothing is written.
    """
    if out.exists():
        raise SettingError(f"Expected no file at {out} yet, found one; it was left as it is.")
    (x_N,) = read_arrays(transfer, "x")
    if x_N.ndim < 2 or not len(x_N) or x_N.dtype.kind not in "buif":
        raise DataError(f"Expected public inputs (N, ...) of numbers in {transfer}, got {x_N.shape} of {x_N.dtype}.")
    if scenario.release.truncation == "top-k" and scenario.release.k > classes:
        raise SettingError(f"release.k = {scenario.release.k}: expected at most the {classes} classes.")
    plan = make_plan(scenario, transfer_set=digest(x_N), samples=len(x_N), classes=classes)
    if encoding is not None:
        encodings.load(encoding)
        plan = replace(plan, encoding=hashlib.sha256(encoding.read_bytes()).digest())
    checks.check_plan(plan)
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


@app.command("encode")
def encode_command(
    texts: Annotated[Path, typer.Argument(help="PUBLIC texts: a .csv or .parquet table.")],
    encoder: Annotated[str, typer.Option(help="The folder of a Hugging Face model, or module:factory.")],
    column: Annotated[str, typer.Option(help="The column of texts, in this table and in those of the sites.")] = "text",
    name: Annotated[str | None, typer.Option(help="What to call the encoder; by default its folder's name.")] = None,
    tokens: Annotated[int, typer.Option(min=8, help="That a text is cut to.")] = 128,
    out: Annotated[Path, typer.Option(help="Where the rows go, for --transfer.")] = Path("public.npz"),
    encoding: Annotated[Path, typer.Option(help="Where the public encoding goes, for --encoding.")] = Path(ENCODING),
) -> None:
    """Make rows of public texts by a frozen public encoder, and the encoding by which every site makes rows of its own."""
    for path in (out, encoding):
        if path.exists():
            raise SettingError(f"Expected no file at {path} yet, found one; it was left as it is.")
    cells = tables.read(texts, public=True).texts(column)
    own = encoders.describe(encoder, Path(), column=column, name=name or Path(encoder).name, tokens=tokens)
    with bars(Console(stderr=True)) as bar:
        task = bar.add_task("Public texts", total=None)
        rows = encoders.encode(
            own,
            cells,
            encoders.open_encoder(own, encoder, Path()),
            kept=out.parent / "encoded",
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    buffer = io.BytesIO()
    np.savez(buffer, x=rows)
    write_durably(out, buffer.getvalue())
    encodings.save(own, encoding)
    print(f"{out}: {len(rows)} rows of {own.dimensions} numbers; {encoding}: the public encoding, by {own.model}")


@app.command("make")
def make_command(
    scenario: Annotated[str, typer.Argument(help="A scenario's name or a TOML file.")],
    transfer: Annotated[Path, typer.Option(help="An NPZ file with the public inputs as array x.")],
    classes: Annotated[int, typer.Option(min=2, help="How many classes the sites' labels have.")],
    key: Annotated[Path, typer.Option(help="The author's private key, as `limbeck keys plan` made it.")],
    out: Annotated[Path, typer.Option(help="Where the plan goes.")] = Path("plan.pb"),
    publish: Annotated[
        Path,
        typer.Option(help="The folder for the inputs under their hash, to be given to the coordinator and to all sites."),
    ] = Path("transfer-sets"),
    encoding: Annotated[
        Path | None,
        typer.Option(help="The public encoding that made rows of tables or texts; sites read their records by it."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as privacy.epsilon=1.")
    ] = None,
) -> None:
    """Make and sign a plan: the schedule's noise is calibrated to the scenario's epsilon, and the public inputs are bound by their hash."""
    offer = make(
        load(scenario, set_ or []),
        transfer,
        signing.read_key(key),
        classes=classes,
        out=out,
        publish=publish,
        encoding=encoding,
    )
    plan, own = offer.plan, offer.plan.privacy
    cost = accounting.epsilon(((plan.teaching, plan.counts),), own.delta)
    print(f"{out}: plan {plan.name!r}, {codec.plan_hash(plan).hex()}")
    print(f"signed by {offer.author.hex()}")
    print(f"costs each site epsilon = {cost:.4g} at delta = {own.delta:g}, per {own.unit.value}, {own.adjacency.value}")
    print(
        f"{publish / (plan.transfer_set.hex() + '.npz')}: {plan.samples} public inputs, for the coordinator and every site"
    )
    if encoding is not None:
        print(f"{publish / ENCODING}: the public encoding, for every site, as records.encoding of its site.toml")
