"""`limbeck deploy`, `limbeck doctor`, `limbeck status`, `limbeck watch`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.base.printable import plain_console, printable, printable_lines
from limbeck.deployment.defaults import CONNECT_SECONDS, COORDINATOR_PORT, DAYS, WATCH_PORT

if TYPE_CHECKING:
    from rich.console import Console

    from limbeck.deployment.status import Status
    from limbeck.deployment.superlink_status import SuperLinkStatus

# By the values of SiteState, which is not imported for the start of a command.
STATE_STYLES = {"answered": "green", "declined": "yellow", "left out": "red", "lost": "red", "absent": "yellow"}
NODE_STYLES = {"online": "green", "registered": "yellow", "offline": "red"}
UNHEALTHY = 1
LOG_LINES = 8

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or the folder that contains it.")]
TestFile = Annotated[
    Path | None,
    typer.Option("--test", metavar="FILE.npz", help="Public labelled inputs, x and y, on which students are measured."),
]

deploy_app = typer.Typer(no_args_is_help=True)


@deploy_app.callback()
def deploy() -> None:
    """Ready-made folders for a coordinator and its sites.

    \b
    Examples:
      limbeck deploy init --server limbeck.example.org --clients north,south \\
        --out federation
    """


@deploy_app.command("init")
def init(
    server: Annotated[
        list[str], typer.Option(help="A DNS name of the coordinator; sites connect to the first. Repeat for more.")
    ],
    clients: Annotated[str, typer.Option(help="The names of the sites, separated by commas.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    server_ip: Annotated[list[str], typer.Option(help="An IP address of the coordinator; repeat for more.")] = [],  # noqa: B006
    port: Annotated[int, typer.Option(help="The port on which the coordinator listens.")] = COORDINATOR_PORT,
    listen: Annotated[str, typer.Option(help="The address on which it listens.")] = "0.0.0.0",
    days: Annotated[int, typer.Option(min=1, help="Days for which certificates are valid.")] = DAYS,
    own_keys: Annotated[
        bool, typer.Option("--own-keys", help="Every site makes its own key, which never leaves the site.")
    ] = False,
    home: Annotated[str, typer.Option(help="The parent of the folders that the services use.")] = "/srv/limbeck",
) -> None:
    """Write one folder for the coordinator and one for each site: settings, keys, policy, start script, systemd unit, Containerfile.

    \b
    Examples:
      limbeck deploy init --server limbeck.example.org --clients north,south \\
        --out federation
      limbeck deploy init --server localhost --server-ip 127.0.0.1 --clients a,b \\
        --out trial --own-keys --days 30
    """
    from limbeck.deployment import bringup

    federation = bringup.Federation(
        server=tuple(server),
        sites=tuple(name.strip() for name in clients.split(",")),
        addresses=tuple(server_ip),
        port=port,
        listen=listen,
        days=days,
        own_keys=own_keys,
        home=home,
    )
    author = bringup.init(federation, out, now=datetime.now(UTC))
    print(f"{out / 'authority'}: the certificate authority; take it off this machine, its ca.key names sites")
    print(f"{out / 'author' / 'plan.key'}: signs plans; its public key, for policies: {author}")
    print(f"{out / 'coordinator'}: to be taken to {server[0]}; its README.md says what is still to be done")
    for name in federation.sites:
        print(f"{out / 'sites' / name}: to be taken to {name}; its README.md says what is still to be done")


def doctor(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a site, a coordinator or an authority.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    no_network: Annotated[bool, typer.Option("--no-network", help="Open no connections.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Most seconds for each step of a connection.")] = CONNECT_SECONDS,
) -> None:
    """Check everything that can be checked here, and say what to do about it. Exit status 1 if a check failed.

    Changes nothing and reads no record.

    \b
    Examples:
      limbeck doctor federation/sites/north
      limbeck doctor federation/coordinator --no-network --json
    """
    from limbeck.base.findings import as_table
    from limbeck.deployment import doctor as doctors

    findings = doctors.examine(folder, now=datetime.now(UTC), network=not no_network, seconds=seconds)
    if as_json:
        lines = [finding.to_json() for finding in findings]
        print(json.dumps({"folder": str(folder), "healthy": doctors.healthy(findings), "findings": lines}, indent=1))
    else:
        plain_console().print(as_table(findings))
    if not doctors.healthy(findings):
        raise typer.Exit(UNHEALTHY)


def status(
    run: RunFolder,
    test: TestFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show once how far a run has come: phase, stages, sites, what it costs them, bytes, the end of the log.

    \b
    Examples:
      limbeck status run
      limbeck status run --test labelled.npz --json
    """
    from limbeck.deployment import status as statuses
    from limbeck.deployment import superlink_status
    from limbeck.deployment.tested import TestData

    folder = statuses.locate(run)
    note = superlink_status.read_note(folder)
    superlink = superlink_status.ask(note) if note is not None else None
    current = statuses.read(folder, TestData(test) if test is not None else None, superlink)
    if as_json:
        print(json.dumps(statuses.to_json(current), indent=1))
        return
    _show(plain_console(), current)


def watch(
    run: RunFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0: any free port.")] = WATCH_PORT,
    test: TestFile = None,
) -> None:
    """Show a run as a live, read-only web page on this machine, until Ctrl-C. RUN need not exist yet.

    The same is at /status.json as JSON, and at /metrics in Prometheus' text format.

    \b
    Examples:
      limbeck watch run
      limbeck watch run --port 0 --test labelled.npz
    """
    from limbeck.deployment import watch as watching
    from limbeck.deployment.tested import TestData

    with watching.serve(run, port=port, test=TestData(test) if test is not None else None) as server:
        print(f"http://{watching.ADDRESS}:{server.server_port}/", flush=True)
        server.serve_forever()


def _show(console: Console, run: Status) -> None:
    from rich.text import Text

    from limbeck.base.listing import listing
    from limbeck.deployment import status as statuses
    from limbeck.deployment.tested_table import show_tested

    def say(text: str, style: str = "") -> None:
        console.print(Text(printable_lines(text), style=style), soft_wrap=True)

    say(f"{run.name}  {run.plan_hash[:16]}", "bold")
    active = run.active
    progress = f": {active.phase.title}, {active.done} of {active.total}" if active is not None and active.total else ""
    say(f"{run.state}{progress or (f': {active.phase.title}' if active else '')}{': ' + run.why if run.why else ''}")
    for warning in run.warnings:
        say(f"warning: {warning}", STATE_STYLES["left out"])
    if run.stages:
        headers = ["stage", "sites", "sparse %", "up", "down", "seconds", "loss"]
        listing(
            console,
            headers,
            [
                [
                    str(stage.number),
                    str(stage.clients),
                    f"{100 * stage.sparsity:.1f}",
                    statuses.size(stage.bytes_up),
                    statuses.size(stage.bytes_down),
                    f"{stage.seconds:.1f}",
                    f"{stage.loss:.4f}" if stage.loss is not None else "-",
                ]
                for stage in run.stages
            ],
            right=headers,
        )
        say("")
    if run.tested is not None:
        show_tested(console, run.tested, [(f"stage {stage.number}", stage.scores) for stage in run.stages])
        say("")
    if run.clients:
        listing(
            console,
            ["site", "state", "stages", "up", "down", "guarantee", "why"],
            [
                [
                    printable(client.name),
                    Text(printable(client.state), style=STATE_STYLES.get(client.state, "")),
                    str(client.stages),
                    statuses.size(client.bytes_up),
                    statuses.size(client.bytes_down),
                    client.guarantee.value if client.guarantee is not None else "-",
                    printable(client.reason),
                ]
                for client in run.clients
            ],
            wrap="why",
            below=["why"],
            right=["stages", "up", "down"],
        )
        say("")
    counted = ", ".join(f"{count} {state}" for state, count in run.counts.items()) or "nobody has replied yet"
    say(f"Sites: {counted}. Messages: {statuses.size(run.bytes_up)} up, {statuses.size(run.bytes_down)} down.")
    if run.privacy is not None:
        cost = run.privacy
        say(
            f"The plan costs each site epsilon = {cost.epsilon:.4g} at delta = {cost.delta:g}, per {cost.unit}, {cost.adjacency};"
            f" {cost.sites} have answered under it."
        )
        if cost.without:
            say(
                f"No guarantee holds for the records of {', '.join(cost.without)}: a black-box teacher answers there,"
                " or noise is seeded.",
                "bold red",
            )
    if run.superlink is not None:
        _show_superlink(console, run.superlink)
    for line in run.log[-LOG_LINES:]:
        say(f"{statuses.clock(line.time)}  {line.text}", "red" if line.warning else "dim")


def _show_superlink(console: Console, superlink: SuperLinkStatus) -> None:
    from rich.text import Text

    from limbeck.base.listing import Cell, listing
    from limbeck.deployment import status as statuses

    if superlink.error:
        console.print(Text(printable(f"The SuperLink does not answer: {superlink.error}"), style="yellow"), soft_wrap=True)
        return
    details = f", {superlink.details}" if superlink.details else ""
    line = f"SuperLink: run {superlink.run} is {superlink.state}{details}; {superlink.online} of {len(superlink.nodes)} nodes online."
    console.print(Text(printable(line), style="bold red" if superlink.failed else ""), soft_wrap=True)
    rows: list[list[Cell]] = [
        [
            printable(node.name),
            Text(printable(node.state), style=NODE_STYLES.get(node.state, "")),
            statuses.clock(node.since) if node.since is not None else "-",
        ]
        for node in superlink.nodes
    ]
    listing(console, ["node", "state", "since"], rows)
