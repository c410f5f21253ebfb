"""`limbeck teacher`: write and check a network of your own, or serve a finished model as a black-box teacher."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.base import logs
from limbeck.base.errors import DataError, SettingError
from limbeck.base.logs import LogFormat, LogLevel

if TYPE_CHECKING:
    from limbeck.client.teachers.kit import Replaced

app = typer.Typer(
    help="""A site's own teacher: a template and a check for networks, and a server for finished models.

    \b
    Examples:
      limbeck teacher init my_teacher.py
      limbeck teacher check my_teacher:build --shape 1x28x28
      limbeck teacher serve --onnx model.onnx
    """,
    no_args_is_help=True,
)

FormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="How the log is written: text, or json for one object per line.")
]
LevelOption = Annotated[LogLevel, typer.Option("--log-level", help="The least important entries of the log.")]


@app.command()
def init(path: Annotated[Path, typer.Argument(help="The Python file to write.")] = Path("my_teacher.py")) -> None:
    """Write a template of a network to start from. Never overwrites a file.

    \b
    Examples:
      limbeck teacher init
      limbeck teacher init site/my_teacher.py
    """
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
        str, typer.Argument(help="module:factory; the module is looked up in --folder, then among installed modules.")
    ],
    shape: Annotated[str, typer.Option(help="Shape of one input: 1x28x28 for grey images, 54 for rows.")] = "1x28x28",
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10,
    folder: Annotated[Path, typer.Option(help="The folder of the module's file, such as the site's folder.")] = Path(),
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a module whose nets have the layers replaced that Opacus would replace, if those can be trained.",
        ),
    ] = None,
) -> None:
    """Say whether a network can be trained under differential privacy, and if not, what is wrong with it (exit status 1).

    Beside limbeck's own examination, which decides, it shows what Opacus's ModuleValidator says, and the layers that it would replace.

    \b
    Examples:
      limbeck teacher check my_teacher:build
      limbeck teacher check my_teacher:build --folder site --shape 54 --classes 2
      limbeck teacher check my_teacher:build --fix my_fixed_teacher.py
    """
    from limbeck.client.teachers import architectures, kit

    try:
        sides = tuple(int(side) for side in shape.split("x"))
    except ValueError:
        sides = ()
    if len(sides) not in {1, 3} or min(sides) < 1:
        raise SettingError(f"Expected --shape such as 1x28x28 or 54, got {shape!r}.")
    net = architectures.build("custom", sides, classes, architectures.load_factory(factory, folder))
    problems, objections = kit.examine(net, sides, classes), kit.validator_says(net)
    fixed, replaced = kit.proposal(net)
    left = kit.examine(fixed, sides, classes) if replaced else problems
    if fix is not None and replaced and not left:
        _write_fixed(fix, factory, replaced)
        print(f'{fix}: {factory} with these layers replaced; in site.toml: teacher = "{fix.stem}:build"')
        print("\n".join(f"- {layer}" for layer in replaced))
        return
    if problems:
        said = [f"{factory} cannot be trained under differential privacy:", *(f"- {each}" for each in problems)]
        said += ["Opacus's validator says:", *(f"- {each}" for each in objections)] if objections else []
        if replaced:
            said += ["Opacus's fixer would replace:", *(f"- {each}" for each in replaced)]
            said += (
                ["and then this would be wrong:", *(f"- {each}" for each in left)]
                if left
                else [f"and then it can be trained: limbeck teacher check {factory} --fix FILE writes such a module."]
            )
        elif not objections:
            said.append("Opacus's validator, which looks at classes of layers only, finds nothing.")
        raise SettingError("\n".join(said))
    if fix is not None:
        raise SettingError(f"Expected layers to replace in {factory}, found none that limbeck or Opacus would replace.")
    for each in objections:
        print(f"Opacus's validator would replace it, limbeck need not, since it maps the whole net over records: {each}")
    weights = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    print(f"{factory} can be trained: {weights:,} weights, {classes} classes, inputs of shape {shape}.")


def _write_fixed(path: Path, factory: str, replaced: Sequence[Replaced]) -> None:
    from limbeck.client.teachers.kit import FIXED

    if not path.stem.isidentifier() or path.suffix != ".py":
        raise SettingError(f"Expected a file name such as my_fixed_teacher.py, got {path.name!r}.")
    text = FIXED.format(factory=factory, stem=path.stem, replaced="\n".join(str(each) for each in replaced))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SettingError(f"Expected no file at {path} yet, found one; it was left as it is.") from None


@app.command()
def serve(
    onnx: Annotated[Path | None, typer.Option(help="An ONNX classifier.")] = None,
    sklearn: Annotated[
        Path | None,
        typer.Option(
            help="A scikit-learn classifier in a joblib or pickle file THAT YOU MADE: loading it can run any code."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODULE:FACTORY", help="A limbeck.client.serving.Model of your own.")
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The address to listen on; port 0: any free port.")
    ] = "127.0.0.1:50051",
    inputs: Annotated[
        str | None, typer.Option(help="rows, images or texts; default: what the ONNX model takes, or rows for scikit-learn.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A file with the names of the ONNX model's classes, one per line.")
    ] = None,
    logits: Annotated[bool, typer.Option("--logits", help="The ONNX model's output is logits, not probabilities.")] = False,
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="Answer with labels drawn from the probabilities.")
    ] = False,
    top_k: Annotated[int | None, typer.Option(help="Most probabilities in an answer to one input; default: all.")] = None,
    max_batch: Annotated[int, typer.Option(help="Most inputs in one batch.")] = 1024,
    cert: Annotated[Path | None, typer.Option(help="This server's certificate (PEM); needs --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    client_ca: Annotated[
        Path | None, typer.Option("--client-ca", help="Answer only clients with a certificate from this authority (PEM).")
    ] = None,
    unsafe_plaintext: Annotated[
        bool, typer.Option("--unsafe-plaintext", help="Allow listening without TLS on an address other than loopback.")
    ] = False,
    idle_seconds: Annotated[
        float, typer.Option(help="Close a stream that has sent no question, or read no answer, for this many seconds.")
    ] = 120.0,
    log_format: FormatOption = LogFormat.TEXT,
    log_level: LevelOption = LogLevel.INFO,
) -> None:
    """Serve a model as a black-box teacher. Its answers carry NO DP GUARANTEE. SIGTERM or Ctrl-C stops it cleanly.

    \b
    Examples:
      limbeck teacher serve --onnx model.onnx --labels labels.txt
      limbeck teacher serve --sklearn model.joblib --labels-only
      limbeck teacher serve --model my_model:build --listen 0.0.0.0:50051 \\
        --cert server.pem --key server.key --client-ca ca.pem
    """
    from limbeck.client import serving
    from limbeck.protos.teacher import Inputs

    logs.begin_daemon(log_format, log_level)
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
            raise DataError(f"Expected labels, one per line, in {labels}: {error}.") from error
        served = serving.onnx_model(onnx, inputs=wanted, labels=names, logits=logits)
    elif labels is not None or logits:
        raise SettingError("Expected --labels and --logits with --onnx only.")
    elif sklearn is not None:
        served = serving.sklearn_model(sklearn, inputs=wanted or Inputs.ROWS)
    elif wanted is not None:
        raise SettingError("Expected --inputs with --onnx or --sklearn only: your own Model declares its inputs.")
    else:
        served = serving.user_model(str(model))
    teacher = serving.Teacher(served, labels_only=labels_only, top_k=top_k, max_batch=max_batch)
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
