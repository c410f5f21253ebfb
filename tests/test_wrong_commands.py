"""Commands in the wrong order, or about files that are missing, unreadable, folders or taken: one message, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Runs each line in one process. Prints the exit status of each and what it wrote to standard error, and the files that the first ones left.
EACH = """
import contextlib, hashlib, io, json, sys, traceback
from pathlib import Path
from limbeck.cli.main import main
outcomes, files = {}, {}
first, *lines = sys.argv[1:]
for number, line in enumerate(lines):
    if number == int(first):
        files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in Path().rglob("*") if path.is_file()}
    sys.argv[1:] = line.split()
    errors, status = io.StringIO(), 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            status = end.code
        except BaseException:
            status = "raised " + traceback.format_exc()
    outcomes[line] = (status, errors.getvalue())
print(json.dumps([outcomes, files]))
"""
# Each with what the message must name.
LINES = {
    "site run nowhere": "nowhere/site.toml",
    "site run folder": "folder/site.toml",
    "site run garbage": "garbage",
    "site run half": "half/keys/a.key",
    "site encode half": "records.encoding",
    "serve absent.pb": "coordinator.toml",
    "serve absent.pb --settings coordinator/coordinator.toml": "coordinator/server.key",
    "serve folder --settings folder": "folder",
    "serve garbage --settings garbage": "garbage",
    "doctor absent": "absent",
    "doctor folder": "folder",
    "status absent": "absent",
    "status garbage": "garbage",
    "ledger show absent": "absent",
    "ledger show folder": "folder/site.toml",
    "ledger show garbage": "garbage",
    "ledger verify half": "half/records.npz.ledger",
    "ledger export garbage": "garbage",
    "transcript show folder": "folder/site.toml",
    "transcript show garbage": "garbage",
    "transcript show half --message 1": "1",
    "policy check absent.pb half": "absent.pb",
    "policy check garbage policy.toml": "garbage",
    "policy check folder policy.toml": "folder",
    "policy explain half": "half/policy.toml",
    "policy explain garbage": "garbage",
    "policy init absent/policy.toml": "absent/policy.toml",
    "policy init garbage": "garbage",
    "keys init --server localhost authority": "authority",
    "keys init --server localhost garbage": "garbage",
    "keys init --server localhost dangling": "dangling",
    "keys init --server -bad- new": "-bad-",
    "keys node x --keys absent": "absent/ca.pem",
    "keys node ../x --keys authority": "../x",
    "keys node x --keys garbage": "garbage/ca.pem",
    "keys approve absent.csr x --keys authority": "absent.csr",
    "keys approve garbage x --keys authority": "garbage",
    "keys rotate nobody --keys authority": "nobody",
    "keys revoke nobody --keys authority": "nobody",
    "keys sign absent.pb --key authority/ca.key": "absent.pb",
    "keys sign folder --key authority/ca.key": "folder",
    "keys plan authority/ca.key": "authority/ca.key",
    "keys show absent": "absent",
    "keys show garbage": "garbage",
    "keys show folder": "folder/ca.pem",
    "keys request ../x --out new": "../x",
    "keys request x --out garbage": "garbage",
    "deploy init --server localhost --clients a --out garbage": "garbage",
    "deploy init --server localhost --clients a --out folder": "folder",
    "deploy init --server localhost --clients a --out dangling": "dangling",
    "deploy init --server localhost --clients a --out garbage/new": "garbage",
    "deploy init --server localhost --clients a,A --out new": "a, A",
    "flower register x.pem --folder absent": "absent",
    "flower supernode absent --superlink localhost:1 --ca a --key b": "absent/site.toml",
    "flower superlink --ca a --certificate b --key c": "c",
    "flower run absent.pb --transfer-sets folder --out new": "superlink",
    "report absent": "absent/metrics.json",
    "simulate nowhere": "nowhere",
    "simulate --resume --out absent": "absent/scenario.json",
    "simulate digits-tiny --out garbage": "garbage",
    "plan make absent.toml --transfer absent --key absent --out new --publish new": "absent.toml",
    "plan show absent": "absent",
    "plan show garbage": "garbage",
    "plan show folder": "folder",
    "plan settings nowhere": "nowhere",
    "plan settings digits-tiny --out garbage": "garbage",
    "teacher serve --sklearn folder": "folder",
    "teacher serve --model x:y": "x:y",
    "teacher init garbage": "garbage",
    "operators plot absent/x.png": "absent/x.png",
}


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, tuple[object, str]], bool]:
    """What each line printed, and whether every file that existed before is unchanged."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "garbage").write_bytes(bytes(range(256)))
    for name in ("folder", "half", "coordinator"):
        (folder / name).mkdir()
    (folder / "dangling").symlink_to("nowhere")
    link = 'address = "localhost:1"\ncertificate = "keys/a.pem"\nkey = "keys/a.key"\n'
    (folder / "half" / "site.toml").write_text(f'name = "a"\ntransfer_sets = "t"\n[link]\n{link}')
    (folder / "coordinator" / "coordinator.toml").write_text('listen = "127.0.0.1:0"\nsites = ["a"]\n')
    first = ["keys init authority --server localhost", "policy init policy.toml"]
    run = [sys.executable, "-c", EACH, str(len(first)), *first, *LINES]
    done = subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True)
    outcomes, before = json.loads(done.stdout)
    assert {outcomes[line][0] for line in first} == {0}
    assert "authority/ca.key" in before
    after = contents(folder)
    return outcomes, {name: after.get(name) for name in before} == before


@pytest.mark.parametrize("line", LINES)
def test_an_invalid_command_is_answered_by_one_message(line: str, said: tuple[dict[str, tuple[object, str]], bool]) -> None:
    status, errors = said[0][line]
    assert status == 1, (status, errors)
    assert "Traceback" not in errors
    # A daemon says it in its log.
    (message,) = [part for part in errors.split("\n") if re.match(r"limbeck: |\S+Z ERROR ", part)]
    assert re.match(r"(limbeck:|\S+Z ERROR) Expected ", message) or "Expected " in errors
    assert LINES[line] in errors


def test_no_invalid_command_changes_a_file(said: tuple[dict[str, tuple[object, str]], bool]) -> None:
    assert said[1]
