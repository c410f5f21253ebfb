"""`limbeck teacher`: begin a net of one's own and learn what is wrong with it, or serve a finished model as a black-box teacher."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from limbeck.base.errors import DataError, SettingError

app = typer.Typer(
    help="A site's own teacher: a template and a test kit for nets, a server for finished models.", no_args_is_help=True
)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="The Python file to write.")] = Path("my_teacher.py")) -> None:
    """Write a template of a net to begin with."""
    from limbeck.client.teachers.kit import TEMPLATE

    if not path.stem.isidentifier() or path.suffix != ".py":
        raise SettingError(f"Expected a file name such as my_teacher.py, got {path.name!r}.")
    if path.exists():
        raise SettingError(f"Expected no file at {path} yet, found one.")
    path.write_text(TEMPLATE.replace("{module}", path.stem), encoding="utf-8")
    print(f"{path}: edit it, then: limbeck teacher check {path.stem}:build")


@app.command()
def check(
    factory: Annotated[
        str, typer.Argument(help="module:factory; the module is looked for in --folder, then among those installed.")
    ],
    shape: Annotated[str, typer.Option(help="Of one input: 1x28x28 for grey images, 54 for rows.")] = "1x28x28",
    classes: Annotated[int, typer.Option(min=2)] = 10,
    folder: Annotated[Path, typer.Option(help="Where the module's file is, such as the site's folder.")] = Path(),
) -> None:
    """Say what is wrong with a net, or that it can be trained; exit status 1 where it cannot."""
    from limbeck.client.teachers import architectures, kit

    try:
        sides = tuple(int(side) for side in shape.split("x"))
    except ValueError:
        sides = ()
    if len(sides) not in {1, 3} or min(sides) < 1:
        raise SettingError(f"Expected --shape such as 1x28x28 or 54, got {shape!r}.")
    net = architectures.build("custom", sides, classes, architectures.load_factory(factory, folder))
    problems = kit.examine(net, sides, classes)
    if problems:
        raise SettingError(
            "\n".join([f"{factory} cannot be trained under differential privacy:", *(f"- {each}" for each in problems)])
        )
    weights = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    print(f"{factory} can be trained: {weights:,} weights, {classes} classes, inputs of shape {shape}.")


@app.command()
def serve(
    onnx: Annotated[Path | None, typer.Option(help="An ONNX classifier.")] = None,
    sklearn: Annotated[
        Path | None,
        typer.Option(help="A scikit-learn classifier in a joblib or pickle file THAT YOU MADE: it can run any code."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODULE:FACTORY", help="Your own limbeck.client.serving.Model.")
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0 takes a free one.")] = "127.0.0.1:50051",
    inputs: Annotated[
        str | None, typer.Option(help="rows, images or texts; default: what an ONNX model takes, rows for scikit-learn.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="The names of an ONNX model's classes, one a line.")] = None,
    logits: Annotated[bool, typer.Option("--logits", help="An ONNX model's output is logits.")] = False,
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="Answer with labels, drawn from the probabilities.")
    ] = False,
    top_k: Annotated[int | None, typer.Option(help="Probabilities per input at most; default: all.")] = None,
    max_batch: Annotated[int, typer.Option(help="Inputs per batch at most.")] = 1024,
    cert: Annotated[Path | None, typer.Option(help="This server's certificate, PEM; with --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option("--client-ca", help="Answer only clients with a certificate of this authority, PEM.")
    ] = None,
    unsafe_plaintext: Annotated[
        bool, typer.Option("--unsafe-plaintext", help="Listen without TLS on an address that is not loopback.")
    ] = False,
    idle_seconds: Annotated[
        float, typer.Option(help="After which a stream is ended that sends no question or takes no answer.")
    ] = 120.0,
) -> None:
    """Serve a model as a black-box teacher. Its answers carry NO DP GUARANTEE. SIGTERM or Ctrl-C stops it gently."""
    from limbeck.client import serving
    from limbeck.protos.teacher import Inputs

    logging.getLogger(serving.__name__).setLevel(logging.INFO)
    if (onnx, sklearn, model).count(None) != 2:
        raise SettingError("Expected exactly one of --onnx, --sklearn and --model.")
    kinds = [kind.value for kind in Inputs]
    if inputs is not None and inputs not in kinds:
        raise SettingError(f"Expected --inputs out of {', '.join(kinds)}, got {inputs!r}.")
    wanted = Inputs(inputs) if inputs is not None else None
    if onnx is not None:
        try:
            names = labels.read_text(encoding="utf-8").splitlines() if labels is not None else None
        except OSError as error:
            raise DataError(f"Expected labels, one a line, in {labels}: {error}.") from error
        own = serving.onnx_model(onnx, inputs=wanted, labels=names, logits=logits)
    elif labels is not None or logits:
        raise SettingError("Expected --labels and --logits with --onnx only.")
    elif sklearn is not None:
        own = serving.sklearn_model(sklearn, inputs=wanted or Inputs.ROWS)
    elif wanted is not None:
        raise SettingError("Expected --inputs with --onnx or --sklearn only: your own Model says what it takes.")
    else:
        own = serving.user_model(str(model))
    teacher = serving.Teacher(own, labels_only=labels_only, top_k=top_k, max_batch=max_batch)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = serving.start(
        teacher,
        listen,
        certificate=cert,
        key=key,
        client_ca=client_ca,
        unsafe_plaintext=unsafe_plaintext,
        idle_seconds=idle_seconds,
    )
    about = teacher.description
    print(
        f"{about.model} at {server.address}: {len(about.labels)} classes, {about.inputs.value} in, {about.answers.value} out, "
        f"{'TLS' if cert else 'plaintext'}, no DP guarantee",
        flush=True,
    )
    stop.wait()
    server.stop()
