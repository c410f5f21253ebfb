"""`limbeck predict` and `limbeck student`: use a finished student, calibrate it, say what it is for. Torch is not needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.base.errors import DataError, SettingError

if TYPE_CHECKING:
    from limbeck.server.exported import Student

app = typer.Typer(
    help="""A finished student: show what is known of it, calibrate it, say what it is for.

    \b
    Examples:
      limbeck student show runs/one
      limbeck student calibrate run --labels public-labels.npz
    """,
    no_args_is_help=True,
)

# Errors of rows that are shown.
SHOWN = 5
STUDENT = typer.Argument(metavar="STUDENT", help="A student's folder, its ONNX file, or the folder of a run.")


def predict(
    student: Annotated[Path, STUDENT],
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUTS", help="A table, an .npz file with an array x, or images: files, folders or both."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write: .csv, or .parquet; - is standard output.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    encoding: Annotated[
        Path | None, typer.Option(help="The public encoding, where it is not in the student's folder.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Of texts or photographs: your copy of the encoding's encoder, its folder or module:factory."),
    ] = None,
    texts: Annotated[bool, typer.Option("--texts", help="The file holds one text a line.")] = False,
    array: Annotated[str, typer.Option(help="The name of the array in an .npz file.")] = "x",
    keep: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Repeat this column of the table; may be given several times.")
    ] = None,
) -> None:
    """Predict the class of every row of a table or an array, of every image or text, with its probabilities.

    A row or a file that cannot be read gets no prediction but a sentence in the column "error", and the exit status is 1. Inputs of
    another shape or on another scale, a missing column and another encoding are refused as a whole.

    \b
    Examples:
      limbeck predict runs/one patients.csv -o predictions.csv --keep id
      limbeck predict runs/one/student images -o predictions.csv
      limbeck predict student.onnx inputs.npz -o -
    """
    from limbeck.base.printable import plain_console
    from limbeck.base.progress import bars
    from limbeck.server import predict_output, predicting
    from limbeck.server.exported import load_student

    predict_output.check(out, force=force)
    loaded = load_student(student)
    source = predicting.open_inputs(
        loaded, inputs, encoding=encoding, encoder=encoder, texts=texts, array=array, keep=keep or []
    )
    for note in source.notes:
        _say(note)
    failed: list[tuple[str, str]] = []
    count = 0
    with predict_output.writer(out, loaded, source) as write, bars(plain_console(stderr=True)) as progress:
        task = progress.add_task("Predictions", total=source.count)
        for batch, p_NK in predicting.predict_batches(loaded, source):
            write(batch, p_NK)
            failed += [(batch.names[index], why) for index, why in batch.errors.items()]
            count += len(batch.names)
            progress.update(task, completed=count)
    where = "" if out == predict_output.STANDARD else f"{out}: "
    _say(f"{where}{count - len(failed)} of {count} {source.what}s have a prediction.")
    if failed:
        shown = "; ".join(f"{source.what} {name}: {why}" for name, why in failed[:SHOWN])
        more = f"; and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        raise DataError(
            f"Expected a prediction for each of {count} {source.what}s, got none for {len(failed)}: {shown}{more}."
        )


@app.command()
def show(
    student: Annotated[Path, STUDENT],
    as_json: Annotated[bool, typer.Option("--json", help="Print the card's values as JSON.")] = False,
) -> None:
    """Print a student's model card: classes, inputs, privacy, figures, limits.

    \b
    Examples:
      limbeck student show runs/one
      limbeck student show student.onnx --json
    """
    from limbeck.server import card as cards
    from limbeck.server.exported import load_student

    loaded = load_student(student)
    card = loaded.card
    if card is None:
        raise DataError(f"Expected a student with a card in {loaded.path}, got one of limbeck 0.1.0, which has none.")
    print(card.to_json() if as_json else cards.page(card), end="\n" if as_json else "")


@app.command()
def describe(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="A student's folder, or the folder of a run.")],
    purpose: Annotated[str | None, typer.Option(help="What the student is for, and what it is not for.")] = None,
    data: Annotated[str | None, typer.Option(help="What the sites' records and the public inputs are.")] = None,
    licence: Annotated[str | None, typer.Option(help="Under which licence the student may be used.")] = None,
) -> None:
    """State what limbeck cannot know of a student; it goes into the model card and the metadata of the ONNX file.

    \b
    Examples:
      limbeck student describe run --licence "CC BY 4.0"
      limbeck student describe run --purpose "A second opinion in triage"
    """
    from dataclasses import replace

    from limbeck.server import delivery

    stated = {name: text for name, text in (("purpose", purpose), ("data", data), ("licence", licence)) if text is not None}
    if not stated:
        raise SettingError("Expected --purpose, --data or --licence, got none of them.")
    folder = delivery.find(student)
    delivery.amend(folder, replace(delivery.read_card(folder), **stated))  # type: ignore[arg-type]  # all three are texts
    print(f"{folder / delivery.PAGE}: {', '.join(stated)} stated")


@app.command()
def calibrate(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="A student's folder, or the folder of a run.")],
    labels: Annotated[
        Path,
        typer.Option(
            help="PUBLIC labelled inputs: a table, or an .npz file with arrays x and y, or y alone for the run's public inputs."
        ),
    ],
    label: Annotated[str | None, typer.Option(help="The table's column of labels.")] = None,
    transfer: Annotated[
        Path | None,
        typer.Option(help="With y alone: the .npz file of the run's public inputs, or the folder that holds it."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Of texts: your copy of the encoding's public encoder, its folder or module:factory.")
    ] = None,
) -> None:
    """Fit one temperature to labelled public inputs, so that the student's probabilities mean what they say; no prediction changes.

    The labels must be public: a temperature fitted to private records would reveal something about them. The temperature goes into the
    graph of the ONNX file, and the model card says how it was found. Where none is better than 1 beyond chance, none is set.

    \b
    Examples:
      limbeck student calibrate run --labels public-labels.npz
      limbeck student calibrate run --labels public-patients.csv --label outcome
    """
    from dataclasses import replace

    from limbeck.server import calibration, delivery, labelled
    from limbeck.server.exported import load_student

    folder = delivery.find(student)
    card = delivery.read_card(folder)
    loaded: Student = load_student(folder)
    found = labelled.read(loaded, card, labels, label=label, transfer=transfer, encoder=encoder)
    p_NK = calibration.sharpen(loaded.predict(found.x_N), 1 / card.logits_divided_by)
    fitted = calibration.fit(p_NK, found.y_N, held_out=found.held_out, what=found.what)
    delivery.amend(folder, replace(card, calibration=fitted))
    if found.left_out:
        _say(f"{found.left_out} inputs of {labels} are left out: no label of the student's classes, or no usable input.")
    if fitted is None:
        print(f"{folder}: no temperature is better than 1 beyond chance on {len(found.y_N)} inputs; none is set")
        return
    print(
        f"{folder}: temperature {fitted.temperature:.3f}; on {fitted.inputs} inputs log-loss {fitted.log_loss[0]:.3f} ->"
        f" {fitted.log_loss[1]:.3f} nats, calibration error {100 * fitted.error[0]:.1f} -> {100 * fitted.error[1]:.1f} %"
    )


def _say(sentence: str) -> None:
    from limbeck.base.printable import printable

    print(printable(sentence, 1000), file=sys.stderr)
