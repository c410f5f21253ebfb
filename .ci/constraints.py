"""Write constraints.txt anew: the same versions, each with the SHA-256 of the files that pip would take for them.

The files are those for this machine's Python, and for CPython 3.11 to 3.13 on Linux (x86-64), as the package index that pip is configured
with lists them. To take a newer version, change it in constraints.txt, and add what it newly needs, then run `make constraints`.
torch stands there without a hash, so that a local build of the same version can be taken for it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

FILE = Path(__file__).parents[1] / "constraints.txt"
WITHOUT_A_HASH = {"torch"}
PYTHONS = ("3.11", "3.12", "3.13")
GLIBC = (39, 34, 31, 28, 27, 26, 24, 17, 12, 5)
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + [
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
]
HEADER = """\
# The exact versions that limbeck is tested with, and the hashes of their files: pip takes no other file (make environment).
# Written by `make constraints`. torch has no hash, so that a local build, as for CPUs alone, can be taken for it: see the Makefile.

# To run limbeck.
"""
DEVELOPMENT = """
# For development and Flower's engine alone.
"""


def pinned(text: str) -> dict[str, str]:
    """Versions by the name of the package."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", text, re.MULTILINE))


def hashes(text: str) -> dict[str, list[str]]:
    """SHA-256 by the name of the package."""
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    return {entry.partition("==")[0]: re.findall(r"--hash=sha256:([0-9a-f]{64})", entry) for entry in entries}


def chosen(versions: dict[str, str], *options: str) -> dict[str, str]:
    """By normalised name, the hash of the file that pip would install, without installing it."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder) / "wanted.txt", Path(folder) / "report.json"
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        where = ["--target", str(Path(folder) / "target"), "--report", str(report), "--requirement", str(wanted)]
        subprocess.run([*pip, *options, *where], check=True)
        items: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return {normal(item["metadata"]["name"]): item["download_info"]["archive_info"]["hashes"]["sha256"] for item in items}


def normal(name: str) -> str:
    """The name as package indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(package: str) -> set[str]:
    """Normalised names of what an installed package needs to run, itself included; of limbeck no extra."""
    found: set[str] = set()
    todo = [Requirement(package)]
    while todo:
        requirement = todo.pop()
        key = f"{normal(requirement.name)}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found.add(key)
        for line in metadata.requires(requirement.name) or []:
            own = Requirement(line)
            if own.marker is None or any(own.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
                todo.append(own)
    return {key.partition("[")[0] for key in found}


def layout(versions: dict[str, str], found: dict[str, list[str]]) -> str:
    """The file: what limbeck needs to run, then the rest."""
    running = needed("limbeck")
    parts: dict[bool, list[str]] = {True: [HEADER], False: [DEVELOPMENT]}
    for name in sorted(versions, key=str.lower):
        ends = "".join(f" \\\n    --hash=sha256:{value}" for value in sorted(found[name]))
        parts[normal(name) in running].append(f"{name}=={versions[name]}{ends}\n")
    return "".join(parts[True] + parts[False])


def main() -> None:
    """Ask for every Python, and write."""
    versions = pinned(FILE.read_text())
    found: dict[str, set[str]] = {name: set() for name in versions}
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    others = [["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms] for python in PYTHONS]
    asked = {name: version for name, version in versions.items() if name not in WITHOUT_A_HASH}
    for options in ([], *others):
        by_name = chosen(asked, *options)
        for name in asked:
            found[name].add(by_name[normal(name)])
    FILE.write_text(layout(versions, {name: sorted(own) for name, own in found.items()}))


if __name__ == "__main__":
    main()
