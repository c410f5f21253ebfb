"""The documentation names only what exists: links, paths, modules, tests, and commands with their options."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer

from limbeck.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "tests" / "mutants" / "README.md"]
# Not a repository path, although it begins like one: what a SuperLink serves, what a run or a site's folder holds.
ELSEWHERE = ("server/student", "server/record.json", "server/events.jsonl", "server/checkpoints")
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", flags=re.M | re.S)


@cache
def tracked() -> list[str]:
    """Every file of the repository that git tracks or would track."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout.splitlines()


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def quoted(page: Path) -> list[str]:
    """What stands in backticks, on one line or broken over two."""
    return [" ".join(text.split()) for text in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def slug(heading: str) -> str:
    """The anchor that a heading gets on a forge's page."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M) if path.suffix == ".md" else []
        if not path.exists() or (anchor and anchor not in map(slug, headings)):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    files = tracked()
    folders = {name.split("/")[0] for name in files if "/" in name}
    named = [text for text in quoted(page) if text.split("/")[0] in folders and "/" in text and " " not in text]
    assert not [text for text in named if not text.startswith(ELSEWHERE) and not any(ROOT.glob(text.rstrip("/")))]


def test_code_templates_and_settings_name_pages_that_exist() -> None:
    wrong = []
    for name in tracked():
        if not name.endswith((".py", ".j2", ".toml", ".proto", ".md")) or not (ROOT / name).exists():
            continue
        for target in re.findall(r"\bdocs/[\w.-]+\.(?:md|png)\b", (ROOT / name).read_text(encoding="utf-8")):
            if not (ROOT / target).exists():
                wrong.append((name, target))
    assert not wrong


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [page.name for page in PAGES if page.parent == ROOT / "docs" and page.name != "index.md"]
    assert not [name for name in pages if f"]({name}" not in index]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_and_name_of_the_package_that_a_page_names_exists(page: Path) -> None:
    run = re.findall(r"python -m (limbeck[\w.]*)", page.read_text(encoding="utf-8"))
    assert not [name for name in run if importlib.util.find_spec(name) is None]
    named = {
        text for text in quoted(page) if re.fullmatch(r"limbeck(\.\w+)+", text) and not re.search(r"\.(service|toml)$", text)
    }
    assert not [name for name in sorted(named) if not resolves(name)]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def test_every_test_that_the_pitfalls_name_exists() -> None:
    wrong = []
    text = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and not line.startswith("| pitfall")]
    assert len(rows) >= 80
    for pitfall, _, tests, _ in rows:
        if tests == "the same two":
            continue
        # Names stand behind their file's; those before any file's are the conformance suite's.
        stems = ["teacher_conformance", *re.findall(r"`(test_\w+)`", tests)]
        for stem, names in zip(stems, re.split(r"`test_\w+`", tests), strict=True):
            content = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob(f"{stem}.py"))
            if not content:
                wrong.append((pitfall, stem, "no such file"))
            for name in re.findall(r"[a-z0-9…]+_[a-z0-9_…]*", names):
                pattern = re.escape(name).replace("…", r"\w*")
                if not re.search(rf"def test_{pattern}\(", content):
                    wrong.append((pitfall, stem, name))
    assert not wrong


# Commands


def lines(page: Path) -> Iterator[str]:
    """Every command line of limbeck in the blocks of a page that a shell would run."""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in {"sh", "console", "bash"}:
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                yield from re.findall(r"(?:^|[$(]\s*|&& |site \w\$ +)(limbeck (?:[^#&|)]|\$\(|\\.)*)", line.strip())


@cache
def limbeck() -> click.Command:
    """The command, as click has it."""
    return typer.main.get_command(app)


def parsed(line: str, *, whole: bool) -> None:
    """Raise click.UsageError unless the line names a command and its options; whole: with everything that it requires."""
    words = shlex.split(re.sub(r"\s[<>].*| (?:2>&1).*", "", line.replace("[", "").replace("]", "").replace("…", "")))[1:]
    command = limbeck()
    context = click.Context(command, info_name="limbeck")
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            break
        chosen = command.get_command(context, words[0])
        if chosen is None:
            raise click.UsageError(f"no command {words[0]!r} in {line!r}")
        command, context = chosen, click.Context(chosen, info_name=words[0], parent=context)
        words = words[1:]
    if isinstance(command, click.Group):
        if whole and not words:
            raise click.UsageError(f"a command is missing in {line!r}")
        return
    values, rest, _ = command.make_parser(context).parse_args(words)
    if rest:
        raise click.UsageError(f"{rest} are too many in {line!r}")
    if whole:
        # What was not given is click's own marker, or None.
        given = {name for name, value in values.items() if isinstance(value, (str, list, tuple)) and value}
        missing = [param.name for param in command.params if param.required and param.name not in given]
        if missing:
            raise click.UsageError(f"{missing} are missing in {line!r}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_of_a_page_is_one_that_limbeck_takes(page: Path) -> None:
    wrong = []
    # Those that are only mentioned may leave out what they require.
    mentioned = [text for text in quoted(page) if text.startswith("limbeck ")]
    for line, whole in [*((line, True) for line in lines(page)), *((line, False) for line in mentioned)]:
        try:
            parsed(line, whole=whole)
        except click.UsageError as error:
            wrong.append(error.format_message())
    assert not wrong


def test_a_wrong_command_option_or_argument_in_a_page_would_be_found() -> None:
    for line in (
        "limbeck simulat",
        "limbeck ledger shw SITE",
        "limbeck doctor --netwrk x",
        "limbeck doctor a b",
        "limbeck policy check",
    ):
        with pytest.raises(click.UsageError):
            parsed(line, whole=True)
    assert len(list(lines(ROOT / "README.md"))) > 15, "commands are looked for in the pages"
