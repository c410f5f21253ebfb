"""Take the defences out one by one and see that a test notices: `make mutants`, or `python tests/mutants/run.py --help`.

A mutant is a small named change to one file, written down in `tests/mutants/<area>.toml` with the tests that must fail on it (README.md
there says how). Each is applied alone, to a copy of the tree, and those tests run. What comes of it:

- killed: pytest ended with 1, a test or its fixture failed on what the mutant does;
- survived: the tests passed, so nothing holds the code to that promise;
- does not apply: the entry no longer fits the tree, so it says nothing until somebody mends it;
- error: no verdict. The tests could not be collected or started (pytest ended with 2 to 5), or they failed because the mutant is not a
  program (a name that does not exist, a syntax or import error), or they hung. A mutant whose only effect may be that something waits for
  ever says `may_hang = true`, and then a hang kills it.

First the same tests run on the tree as it is: unless they pass, nothing that follows would mean anything. Exit status 1 if any mutant
survived, did not apply or had an error; 2 if the run could not be made.

Tests run in forks of a process that has imported the libraries, but nothing of limbeck, since those imports take longer than most tests.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import difflib
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table

ROOT = Path(__file__).parents[2]
FOLDER = Path("tests/mutants")
PACKAGES = (
    "base",
    "operators",
    "inputs",
    "plans",
    "protos",
    "client",
    "server",
    "deployment",
    "simulations",
    "experiments",
    "cli",
)
# Not gRPC, nor what loads it: limbeck.protos.tls has to come first.
LIBRARIES = (
    "torch",
    "numpy",
    "hypothesis",
    "pydantic",
    "cryptography.x509",
    "scipy.stats",
    "sklearn.linear_model",
    "opacus",
    "dp_accounting.pld",
)
KILLED, SURVIVED, STALE, ERROR = "killed", "survived", "does not apply", "error"
STYLES = {KILLED: "green", SURVIVED: "red", STALE: "red", ERROR: "yellow"}
NOT_A_PROGRAM = {"NameError", "UnboundLocalError", "SyntaxError", "IndentationError", "ImportError", "ModuleNotFoundError"}
BASELINE_SECONDS = 3600.0
PR_SET_CHILD_SUBREAPER = 36


# What is written down


@dataclass(frozen=True)
class Mutant:
    """One change: `old`, which occurs once in `file`, becomes `new`; one of `tests` has to fail on it."""

    area: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    may_hang: bool = False

    @property
    def title(self) -> str:
        """The area and the name, which is unique in it."""
        return f"{self.area}: {self.name}"

    def diff(self, root: Path) -> str:
        """The change as a unified diff."""
        before = (root / self.file).read_text()
        after = before.replace(self.old, self.new)
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), self.file, self.file, n=1, lineterm="")
        return "\n".join(lines)


@dataclass
class Verdict:
    """What came of a mutant."""

    name: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0


def read(root: Path, areas: Sequence[str] | None = None) -> tuple[list[Mutant], list[Verdict]]:
    """All mutants (of these areas) that apply to the tree at `root`, and what is wrong with the others."""
    mutants: list[Mutant] = []
    stale: list[Verdict] = []
    names: Counter[str] = Counter()
    for path in sorted((root / FOLDER).glob("*.toml")):
        if areas and path.stem not in areas:
            continue
        try:
            entries = tomllib.loads(path.read_text())["mutant"]
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
            stale.append(Verdict(path.name, STALE, f"Expected a TOML file with [[mutant]] entries: {error}"))
            continue
        for number, entry in enumerate(entries, 1):
            name = f"{path.stem}: {entry.get('name', f'entry {number}')}"
            names[name] += 1
            wrong = f"the name is taken: {name}" if names[name] > 1 else shape(entry) or misfit(entry, root)
            if wrong:
                stale.append(Verdict(name, STALE, f"{path.name}, entry {number}: {wrong}"))
            else:
                mutants.append(Mutant(path.stem, **{**entry, "tests": tuple(entry["tests"])}))
    return mutants, stale


def shape(entry: dict[str, Any]) -> str | None:
    """What is wrong with the form of an entry."""
    wanted = {"name": str, "file": str, "old": str, "new": str, "tests": list}
    for key, kind in wanted.items():
        if not isinstance(entry.get(key), kind) or (key != "new" and not entry[key]):
            return f"expected {key} as a {kind.__name__} that is not empty"
    if extra := entry.keys() - wanted.keys() - {"may_hang"}:
        return f"unknown keys: {', '.join(sorted(extra))}"
    if not all(isinstance(test, str) for test in entry["tests"]) or not selected(entry["tests"]):
        return f"expected tests as paths below tests/, with ::names or a last -k EXPRESSION where wanted: {entry['tests']}"
    return None if isinstance(entry.get("may_hang", False), bool) else "expected may_hang as true or false"


def misfit(entry: dict[str, Any], root: Path) -> str | None:
    """Why an entry does not apply to the tree."""
    path = root / entry["file"]
    if not path.is_file() or path.resolve().is_relative_to((root / "tests").resolve()):
        return f"expected a file of the tree outside of tests/: {entry['file']}"
    text = path.read_text()
    if (count := text.count(entry["old"])) != 1:
        return f"old occurs {count} times in {entry['file']}; expected once"
    if entry["old"] == entry["new"]:
        return "old and new are the same"
    if path.suffix == ".py":
        try:
            compile(text.replace(entry["old"], entry["new"]), entry["file"], "exec", dont_inherit=True)
        except SyntaxError as error:
            return f"the mutant is not Python: {error}"
    return next((f"there is no such test: {test}" for test in selected(entry["tests"]) if not exists(test, root)), None)


def selected(tests: Sequence[str]) -> list[str]:
    """The paths among pytest's arguments, which may end with -k and an expression; none where they are not as they should be."""
    paths = list(tests[:-2] if "-k" in tests[-2:-1] else tests)
    return paths if all(path.startswith("tests/") for path in paths) else []


def exists(test: str, root: Path) -> bool:
    """Whether the file is there and some test file defines the last name: a class of tests may come from another file."""
    path, *names = test.partition("[")[0].split("::")
    if not (root / path).is_file():
        return (root / path).is_dir() and not names
    sources = [root / path, *(root / "tests" / "helpers").glob("*.py")]
    return all(
        any(re.search(rf"\b(def|class) {re.escape(name)}\b", source.read_text()) for source in sources) for name in names
    )


# A worker: one copy of the tree, tests in forks of a process that has everything loaded


@dataclass
class Ending:
    """How a run of pytest ended: `code` is None for a hang."""

    code: int | None
    failures: list[tuple[str, str]] = field(default_factory=list)
    output: str = ""
    seconds: float = 0.0


class Recorder:
    """A pytest plugin that notes which tests failed, and on what kind of error."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Note a failure."""
        report = yield
        if report.failed and call.excinfo is not None:
            self.failures.append((item.nodeid, call.excinfo.type.__name__))
        return report


class Worker:
    """One copy of the tree and the runs of pytest in it."""

    def __init__(self, root: Path, work: Path, libraries: Sequence[str]) -> None:
        self.home = Path(tempfile.mkdtemp(dir=work))
        self.tree = self.home / "tree"
        self._tick = 0
        copy_tree(root, self.tree)
        # What tests leave behind when they are ended becomes our child, so that we can end it too.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for name in libraries:
            importlib.import_module(name)
        loaded = [name for name in sys.modules if name.partition(".")[0] in {"limbeck", "grpc"}]
        threads = len(os.listdir("/proc/self/task"))
        if loaded or threads != 1:
            raise RuntimeError(
                f"Cannot fork: expected one thread and nothing of limbeck or gRPC, got {threads} and {loaded}"
            )

    def judge(self, mutant: Mutant, patience: float) -> Verdict:
        """Run the mutant's tests on it."""
        path = self.tree / mutant.file
        original = path.read_text()
        self._write(path, original.replace(mutant.old, mutant.new))
        try:
            ending = self.run(["-x", *mutant.tests], patience)
        finally:
            self._write(path, original)
        return Verdict(mutant.title, *verdict(ending, mutant.may_hang, patience), ending.seconds)

    def _write(self, path: Path, text: str) -> None:
        """Write source with a time of its own: Python takes a compiled file of the same time and size for current."""
        path.write_text(text)
        self._tick += 1
        os.utime(path, (self._tick, self._tick))

    def run(self, arguments: Sequence[str], patience: float) -> Ending:
        """Run pytest in a fork, for at most `patience` seconds; nothing that it started stays."""
        for old in ("result.json", "output.txt"):
            (self.home / old).unlink(missing_ok=True)
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            self._pytest(arguments)
        try:
            status = wait(pid, started + patience)
        finally:
            end_all(pid)
        ending = Ending(None if status is None else os.waitstatus_to_exitcode(status), seconds=time.monotonic() - started)
        ending.output = (self.home / "output.txt").read_text(errors="replace")
        with contextlib.suppress(FileNotFoundError):
            ending.failures = [(test, kind) for test, kind in json.loads((self.home / "result.json").read_text())]
        return ending

    def _pytest(self, arguments: Sequence[str]) -> None:
        """In the fork: become `python -m pytest` in the copy, and never come back."""
        code = 70
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(os.open(self.home / "output.txt", os.O_WRONLY | os.O_CREAT, 0o600), 1)
            os.dup2(1, 2)
            os.chdir(self.tree)
            links = str(self.tree / ".types")
            elsewhere = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            os.environ["PYTHONPATH"] = links
            sys.path[:] = [str(self.tree), links, *(path for path in sys.path if path not in elsewhere)]
            sys.argv[:] = ["pytest"]
            recorder = Recorder()
            # The libraries are loaded already, so pytest cannot rewrite the assertions of those that want it.
            quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
            code = int(pytest.main([*quiet, f"--basetemp={self.home / 't'}", *arguments], plugins=[recorder]))
            (self.home / "result.json").write_text(json.dumps(recorder.failures))
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def copy_tree(root: Path, tree: Path) -> None:
    """Copy what git tracks or would track, or everything where git is not used, with the links by which `limbeck` is found."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, check=False
    )
    names = (
        listed.stdout.decode().split("\0") if listed.returncode == 0 else [str(p.relative_to(root)) for p in root.rglob("*")]
    )
    for name in names:
        if name and (root / name).is_file() and not {".types", "__pycache__"} & set(Path(name).parts):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)
    (tree / ".types" / "limbeck").mkdir(parents=True)
    for name in (*PACKAGES, "limbeck/__init__.py"):
        if (tree / name).exists():
            (tree / ".types" / "limbeck" / Path(name).name).symlink_to(tree / name)


def wait(pid: int, deadline: float) -> int | None:
    """A child's status when it has ended; None at the deadline."""
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.01)
    return None


def end_all(group: int) -> None:
    """End a group of processes and whatever else the tests left to this one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    while left := children():
        for child in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def children() -> list[int]:
    """This process's children."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name, in brackets, which may hold anything: the state and the parent.
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                pids.append(int(path.parent.name))
    return pids


def verdict(ending: Ending, may_hang: bool, patience: float) -> tuple[str, str]:
    """What a run of pytest says about a mutant, and why."""
    if ending.code is None:
        return (KILLED, "hangs") if may_hang else (ERROR, f"hangs: no end within {patience:.0f} s")
    if ending.code == 0:
        return SURVIVED, ""
    if ending.code != 1 or not ending.failures:
        return ERROR, f"pytest ended with {ending.code}\n{ending.output[-2000:]}"
    test, kind = ending.failures[0]
    if kind in NOT_A_PROGRAM:
        return ERROR, f"not a program: {kind} in {test}\n{ending.output[-2000:]}"
    return KILLED, f"{kind} in {test}"


# In each process of the pool

_worker: Worker | None = None


def _set_up(root: Path, work: Path, libraries: Sequence[str]) -> None:
    global _worker  # noqa: PLW0603 - one per process, made by the pool's initialiser
    _worker = Worker(root, work, libraries)


def _judge(mutant: Mutant, patience: float) -> Verdict:
    assert _worker is not None
    return _worker.judge(mutant, patience)


def _baseline(tests: Sequence[str], patience: float) -> Ending:
    assert _worker is not None
    return _worker.run(tests, patience)


# The command


def by_file(mutants: Sequence[Mutant]) -> list[list[str]]:
    """Every test that is named, once, in a list for each file, or for each file and expression."""
    expressions = sorted({mutant.tests for mutant in mutants if "-k" in mutant.tests})
    tests = sorted({test for mutant in mutants for test in mutant.tests if "-k" not in mutant.tests})
    files: dict[str, list[str]] = {}
    for test in tests:
        files.setdefault(test.partition("::")[0], []).append(test)
    return [[path] if path in named else named for path, named in files.items()] + [list(own) for own in expressions]


def progress_bar(console: Console) -> Progress:
    """As elsewhere in limbeck."""
    return Progress(
        TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def run_all(mutants: Sequence[Mutant], root: Path, options: argparse.Namespace, console: Console) -> list[Verdict] | None:
    """The verdict on each mutant; None, with the reason printed, if the tests fail without any."""
    work = Path(tempfile.mkdtemp(prefix="mutants-"))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(options.jobs, context, _set_up, (root, work, options.preload))
    try:
        with progress_bar(console) as progress:
            files = by_file(mutants)
            bar = progress.add_task("Tests without a mutant", total=len(files))
            endings: list[Future[Ending]] = [pool.submit(_baseline, tests, BASELINE_SECONDS) for tests in files]
            for ending in as_completed(endings):
                progress.advance(bar)
                if ending.result().code != 0:
                    console.print("The tests fail, or cannot run, without any mutant:", style="red")
                    console.print(ending.result().output[-6000:], markup=False, highlight=False)
                    return None
            bar = progress.add_task("Mutants", total=len(mutants))
            verdicts: list[Future[Verdict]] = [pool.submit(_judge, mutant, options.patience) for mutant in mutants]
            for done in as_completed(verdicts):
                progress.advance(bar)
                if done.result().outcome != KILLED:
                    console.print(
                        f"{done.result().outcome}: {done.result().name}", style=STYLES[done.result().outcome], markup=False
                    )
            return [done.result() for done in verdicts]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(work, ignore_errors=True)


def report(verdicts: Sequence[Verdict], mutants: Sequence[Mutant], root: Path, console: Console) -> None:
    """Print all that is not as it should be, and the sums."""
    known = {mutant.title: mutant for mutant in mutants}
    for one in verdicts:
        if one.outcome == KILLED:
            continue
        console.print(f"[{STYLES[one.outcome]}]{one.outcome}[/]: {escape(one.name)}", highlight=False)
        if one.detail:
            console.print(one.detail, markup=False, highlight=False)
        if one.outcome == SURVIVED:
            mutant = known[one.name]
            console.print(f"tests: {' '.join(mutant.tests)}", markup=False, highlight=False)
            console.print(Syntax(mutant.diff(root), "diff", background_color="default"))
    counts = Counter(one.outcome for one in verdicts)
    table = Table("outcome", "mutants", "seconds", title=f"{len(verdicts)} mutants")
    for outcome, style in STYLES.items():
        seconds = sum(one.seconds for one in verdicts if one.outcome == outcome)
        table.add_row(outcome, str(counts[outcome]), f"{seconds:.0f}", style=style if counts[outcome] else None)
    console.print(table)
    slowest = sorted(verdicts, key=lambda one: -one.seconds)[:5]
    console.print(
        "Slowest: " + "; ".join(f"{one.name} ({one.seconds:.0f} s)" for one in slowest), markup=False, highlight=False
    )


def share(text: str) -> tuple[int, int]:
    """`i/n`: the i-th of n parts, from 1."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected i/n with 1 <= i <= n: {text}")
    return int(match[1]), int(match[2])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        description="Apply the mutants of tests/mutants/*.toml one by one; print those that no test notices."
    )
    parser.add_argument(
        "--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="mutants whose name has a match"
    )
    parser.add_argument(
        "--area", action="append", metavar="NAME", help="mutants of tests/mutants/NAME.toml (may be repeated)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes, each with its own copy of the tree")
    parser.add_argument("--shard", type=share, default=(1, 1), metavar="i/n", help="the i-th of n parts")
    parser.add_argument("--list", action="store_true", help="print the names, and run nothing")
    parser.add_argument(
        "--patience", type=float, default=300.0, metavar="SECONDS", help="after which a mutant's tests count as hanging"
    )
    parser.add_argument("--preload", nargs="*", default=LIBRARIES, metavar="MODULE", help="what to import before the forks")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree")
    options = parser.parse_args(arguments)
    console = Console()
    # One thread of computation in each process: more would wait for each other, and a fork must have only one.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root = options.root.resolve()
    mutants, stale = read(root, options.area)
    part, parts = options.shard
    chosen = [mutant for mutant in mutants if options.only.search(mutant.title)][part - 1 :: parts]
    stale = [one for one in stale if options.only.search(one.name)]
    if options.list:
        for mutant in chosen:
            console.print(mutant.title, markup=False, highlight=False)
        return 0
    if not chosen and not stale:
        console.print("No mutant fits these options.", style="red")
        return 2
    verdicts = run_all(chosen, root, options, console) if chosen else []
    if verdicts is None:
        return 2
    verdicts += stale
    report(verdicts, chosen, root, console)
    return 0 if all(one.outcome == KILLED for one in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
