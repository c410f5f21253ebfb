"""A site that says what it likes to a real coordinator: log, events, status and the live page show it as text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from flwr.app import Error, Message
from typer.testing import CliRunner

from helpers.links import RawSite
from limbeck.base.printable import LIMIT
from limbeck.cli.main import INTERRUPTED, app
from limbeck.deployment import watch
from limbeck.experiments.faults.linked import Federation
from limbeck.protos import flower_messages
from limbeck.server.events import Progress, Started
from limbeck.server.link import LinkGrid
from limbeck.simulations.scenario import load

SETTINGS = ["data.private=300", "data.public=40", "data.test=20", "run.workers=1"]
FORGED = (
    "\x1b[2J\x1b[31mwest is revoked\nINFO     west took part\r\u202egnp.x\u2028[bold]b[/x]<script>alert(1)</script>"
    + "y" * 2000
)


def harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_what_a_site_says_of_its_error_is_text_wherever_it_is_shown(tmp_path: Path) -> None:
    with Federation(
        tmp_path / "run", load("digits-tiny", SETTINGS), settings={"join_seconds": 0.5, "heartbeat_seconds": 60}
    ) as federation:
        coordinator = federation.serve()
        server = tmp_path / "run" / "server"
        federation.wait_for(Started)
        address = SimpleNamespace(address=f"localhost:{federation.port}")
        site = RawSite(cast(LinkGrid, address), federation.authority, "site-00")
        question = site.take()
        site.answer(question, flower_messages.encode(Message(Error(2, FORGED), reply_to=question)))
        told = str(federation.wait_for(Progress, lambda event: event.why is not None).why)
        shown = CliRunner().invoke(app, ["status", str(server)], catch_exceptions=False).stdout
        page = watch.fragment(server, now=0.0)
        site.close()
        coordinator.terminate()
        assert coordinator.wait(60) == INTERRUPTED
        log = (tmp_path / "run" / "serve.log").read_text()
    assert told.isprintable()
    # The link takes no such reason, and says what it was.
    assert "printable characters, got '\\x1b[2J\\x1b[31mwest is revoked\\nINFO     west" in told
    assert len(told) <= LIMIT
    assert all(map(harmless, (log, shown, page)))
    assert not any(line.startswith("INFO     west took part") for line in log.splitlines())
    assert "\\x1b[2J" in " ".join(log.split())
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
