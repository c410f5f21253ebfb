"""`limbeck flower`: limbeck over Flower's SuperLink and SuperNodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.base import logs
from limbeck.base.errors import DataError
from limbeck.base.logs import LogFormat, LogLevel
from limbeck.base.printable import printable
from limbeck.deployment.defaults import RUNTIME_PORT

app = typer.Typer(
    help="""Run over Flower's SuperLink and SuperNodes (docs/superlink.md).

    \b
    Examples:
      limbeck flower register keys/nodes/north/north.pem
      limbeck flower run plan.pb --transfer-sets transfer-sets --out run
    """,
    no_args_is_help=True,
)

Folder = Annotated[
    Path, typer.Option("--folder", metavar="DIR", help="The folder for database, logs and secrets of this side.")
]
Ca = Annotated[Path, typer.Option(metavar="FILE", help="The authority's certificate (PEM).")]

FormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="How the log is written: text, or json for one object per line.")
]
LevelOption = Annotated[LogLevel, typer.Option("--log-level", help="The least important entries of the log.")]


@app.command("superlink")
def superlink(
    ca: Ca,
    certificate: Annotated[Path, typer.Option(metavar="FILE", help="The coordinator's certificate (PEM).")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="Its private key (PEM).")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8000,
    folder: Folder = Path("superlink"),
    log_format: FormatOption = LogFormat.TEXT,
    log_level: LevelOption = LogLevel.INFO,
) -> None:
    """At the coordinator: keep a SuperLink running, with TLS, registered nodes only, and apps in processes that know its secret.

    \b
    Examples:
      limbeck flower superlink --host 0.0.0.0 --ca server/ca.pem \\
        --certificate server/server.pem --key server/server.key
    """
    from limbeck.deployment import flower, supervisor

    logs.begin_daemon(log_format, log_level)
    tls = flower.Tls(ca=ca, certificate=certificate, key=key)
    processes = flower.superlink(folder, host=host, port=port, tls=tls)
    flower.connect(folder, address=f"{flower.reached_at(host, certificate)}:{port}", ca=ca)
    print(f"SuperLink on {host}:{port}; logs in {folder / 'logs'}", flush=True)
    supervisor.until_told(processes)


@app.command("register")
def register(
    certificates: Annotated[list[Path], typer.Argument(metavar="NAME.pem...", help="The certificates of the sites.")],
    folder: Folder = Path("superlink"),
) -> None:
    """At the coordinator: allow sites to take part, identified by the keys of their certificates.

    \b
    Examples:
      limbeck flower register north.pem south.pem
    """
    from limbeck.deployment import flower

    for path in certificates:
        print(f"{path}: node {flower.register(folder, path)}")


@app.command("supernode")
def supernode(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder.")],
    superlink: Annotated[str, typer.Option(metavar="HOST:PORT", help="The coordinator's SuperLink.")],
    ca: Ca,
    key: Annotated[Path, typer.Option(metavar="FILE", help="The site's private key (PEM).")],
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", help="The folder for logs and secrets; default: SITE/supernode."),
    ] = None,
    runtime_port: Annotated[
        int, typer.Option(min=1, max=65535, help="A free port on loopback; each node on a machine needs one of its own.")
    ] = RUNTIME_PORT,
    delay: Annotated[float, typer.Option(min=0, help="Seconds before a process that ended is started again.")] = 10.0,
    log_format: FormatOption = LogFormat.TEXT,
    log_level: LevelOption = LogLevel.INFO,
) -> None:
    """At a site: keep a SuperNode running. It runs any code that the SuperLink sends: prefer `limbeck site run`.

    \b
    Examples:
      limbeck flower supernode site --superlink limbeck.example.org:8000 \\
        --ca keys/ca.pem --key keys/north.key
    """
    from limbeck.deployment import flower, supervisor

    logs.begin_daemon(log_format, log_level)
    processes = flower.supernode(
        site, folder or site / "supernode", superlink=superlink, ca=ca, key=key, runtime_port=runtime_port, delay=delay
    )
    print(f"SuperNode for {site}; logs in {processes.logs}", flush=True)
    supervisor.until_told(processes)


@app.command("run")
def run(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.pb", help="A signed plan.")],
    transfer_sets: Annotated[Path, typer.Option(metavar="DIR", help="The folder with its public inputs.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The run's folder; if it contains finished stages, the run continues.")
    ],
    clients: Annotated[
        int | None, typer.Option(min=1, help="How many sites to wait for; default: the plan's minimum.")
    ] = None,
    folder: Folder = Path("superlink"),
) -> None:
    """At the coordinator: run a plan over the SuperLink's nodes, and wait until it ends.

    \b
    Examples:
      limbeck flower run plan.pb --transfer-sets transfer-sets --out run
    """
    from rich.console import Console
    from rich.markup import escape

    from limbeck.deployment import flower
    from limbeck.deployment.superlink_status import Note
    from limbeck.protos import codec
    from limbeck.server import bundle as bundles

    flower.check_connected(folder)
    try:
        offer = codec.decode_offer(plan.read_bytes())
    except OSError as error:
        raise DataError(f"Expected a signed plan at {plan}: {error}.") from error
    config = bundles.run_config(
        plan=plan, transfer_sets=transfer_sets, folder=out, clients=clients or offer.plan.minimum_clients
    )
    run_id = flower.start(folder, bundles.write(folder / "bundle", config))
    Note(folder=folder, run=run_id).write(out)
    with Console().status(f"run {run_id}") as status:
        flower.wait(folder, run_id, progress=lambda reported: status.update(f"run {run_id}: {escape(printable(reported))}"))
    print(f"Run {run_id} completed: {out}")
