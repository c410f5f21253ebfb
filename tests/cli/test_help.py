"""Help, version and shell completion: what each command shows of itself is complete, true and quick."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import typer.main
from typer.testing import CliRunner

from limbeck.cli import main

ROOT = typer.main.get_command(main.app)
# A terminal that has not been widened.
WIDTH = 80
HEAVY = {
    "torch",
    "opacus",
    "grpc",
    "flwr",
    "sklearn",
    "scipy",
    "matplotlib",
    "numpy",
    "onnxruntime",
    "pydantic",
    "cryptography",
}
# Shows the help of every command in one process, and prints which of the modules named are loaded then.
EVERY_HELP = """
import json, sys
from typer.testing import CliRunner
from limbeck.cli.main import app
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} & set(json.loads(sys.argv[2])))))
"""
# Runs a command that loads Flower, and with it gRPC, and prints whether older TLS is ruled out then.
A_COMMAND = """
import sys
from limbeck.cli.main import main
sys.argv[1:] = ["simulate", "nowhere"]
try:
    main()
except SystemExit:
    from limbeck.protos import tls
    print("grpc" in sys.modules, "flwr" in sys.modules, tls.in_force)
"""
# The command under its own name, as the console script starts it.
PROGRAM = "from limbeck.cli.main import app; app(prog_name='limbeck')"
# Completion for the shell that an option names, rather than for the one that started this process.
NAMED_SHELL = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
# What bash does when the Tab key is pressed at the end of a line.
COMPLETE = """
eval "$SCRIPT"
COMP_WORDS=($LINE) COMP_CWORD=$WORD
_limbeck_completion limbeck
printf '%s\\n' "${COMPREPLY[@]}"
"""


def walk(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group, with the words that lead to it."""
    yield words, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walk(inner, *words, name)


COMMANDS = dict(walk(ROOT))
every_command = pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(("limbeck", *words)))


def examples(command: click.Command) -> list[str]:
    """The lines of a command's section of examples, with continued lines joined."""
    _, heading, section = (command.help or "").partition("Examples:\n")
    assert heading, "there is no section of examples"
    return [line.strip() for line in section.replace("\\\n", " ").splitlines()]


def flat(text: str) -> str:
    """Text without line breaks, frames of tables and other differences in layout."""
    return re.sub(r"[\s│]+", "", text)


@every_command
def test_every_command_has_examples_of_its_own_and_each_can_be_parsed(words: tuple[str, ...]) -> None:
    lines = [shlex.split(line, comments=True) for line in examples(COMMANDS[words])]
    typed = [line[1:] for line in lines if line[0] == "limbeck"]
    assert typed
    for line in typed:
        assert tuple(line[: len(words)]) == words
        arguments = line[: line.index(">")] if ">" in line else line
        command = ROOT
        while isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        # Raises UsageError for an option that does not exist, or a value or an argument that is missing.
        command.make_context("limbeck", arguments)


@every_command
def test_help_shows_all_that_is_written_and_wraps_no_example(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    shown = CliRunner().invoke(main.app, [*words, "--help"], env={"COLUMNS": "400"}).output
    assert flat(command.help or "") in flat(shown)
    for parameter in command.params:
        # Square brackets are markup, and vanish.
        assert flat(getattr(parameter, "help", None) or "") in flat(shown)
    narrow = CliRunner().invoke(main.app, [*words, "--help"], env={"COLUMNS": str(WIDTH)}).output
    _, _, section = (command.help or "").partition("Examples:\n")
    for line in section.splitlines():
        assert line in narrow


@every_command
def test_every_command_argument_and_option_says_what_it_is(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    assert (command.help or "").partition("\n")[0].endswith(".")
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name


def test_no_help_loads_torch_grpc_or_any_other_large_library() -> None:
    run = [sys.executable, "-c", EVERY_HELP, json.dumps(list(COMMANDS)), json.dumps(sorted(HEAVY))]
    assert json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout) == []


def test_a_command_loads_grpc_for_tls_1_3_only_before_anything_else_loads_it() -> None:
    done = subprocess.run([sys.executable, "-c", A_COMMAND], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "True"], done.stderr
    leaves = [command for command in COMMANDS.values() if not isinstance(command, click.Group)]
    assert {type(command) for command in leaves} == {main.Command}


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(main.app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"limbeck {version('limbeck')}\n")


def bash(line: str, folder: Path) -> list[str]:
    """What completion in bash offers for the last word of a line, by the script that --show-completion prints.

    folder: for the command, as it is found in PATH.
    """
    (folder / "limbeck").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{PROGRAM}" "$@"\n')
    (folder / "limbeck").chmod(0o700)
    show = [str(folder / "limbeck"), "--show-completion", "bash"]
    script = subprocess.run(show, env=NAMED_SHELL, check=True, capture_output=True, text=True).stdout
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    values = {"PATH": path, "SCRIPT": script, "LINE": line, "WORD": str(line.count(" "))}
    press = ["bash", "-c", COMPLETE]
    done = subprocess.run(press, env={**os.environ, **values}, check=True, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("limbeck led", ["ledger"]),
        ("limbeck ledger re", ["restore"]),
        ("limbeck simulate --res", ["--resume"]),
        ("limbeck simulate digits-t", ["digits-tiny"]),
        ("limbeck sweep digits-t", ["digits-tiny"]),
        ("limbeck compare runs/one --measure rar", ["rarest_auprc"]),
    ],
)
def test_bash_completes_commands_options_and_scenarios(line: str, offered: list[str], tmp_path: Path) -> None:
    assert bash(line, tmp_path) == offered


def test_completion_is_installed_for_bash(tmp_path: Path) -> None:
    install = [sys.executable, "-c", PROGRAM, "--install-completion", "bash"]
    subprocess.run(install, env={**NAMED_SHELL, "HOME": str(tmp_path)}, check=True, capture_output=True)
    assert "limbeck" in (tmp_path / ".bashrc").read_text()
