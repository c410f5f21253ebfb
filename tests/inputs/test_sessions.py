"""Whoever runs a model tells nobody: onnxruntime reports every model to its maker unless it is forbidden before it is loaded."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = next((ROOT / "tests" / "old").rglob("student.onnx"))
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = {folder.partition("/")[0] for folder in SETTINGS["tool"]["setuptools"]["package-dir"].values()}
FILES = [path for folder in sorted(PACKAGES) for path in sorted((ROOT / folder).rglob("*.py"))]


def left_behind(code: str, home: Path) -> list[str]:
    """The files that a process leaves in its home, cache and temporary folder."""
    # No variable of a CI service, which would silence the library too.
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(home)}
    # Nothing that is reported leaves this machine, whatever the code does.
    environment |= dict.fromkeys(("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
    subprocess.run([sys.executable, "-c", code, str(MODEL)], env=environment, cwd=home, check=True, timeout=600)
    return [path.name for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "code",
    [
        "import sys; from pathlib import Path; from limbeck.inputs.sessions import open_session; open_session(Path(sys.argv[1]))",
        "import sys; import limbeck; limbeck.load_student(sys.argv[1])",
        "import sys; from pathlib import Path; from limbeck.client.serving import onnx_model; onnx_model(Path(sys.argv[1]))",
    ],
)
def test_a_model_is_opened_without_a_device_id_or_a_cache_of_reports(code: str, tmp_path: Path) -> None:
    assert left_behind(code, tmp_path) == []


def test_the_library_alone_leaves_both(tmp_path: Path) -> None:
    """If this fails, this version of the library reports nothing by itself, and the test above shows nothing."""
    code = "import sys; import onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
    assert "deviceid" in left_behind(code, tmp_path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_else_loads_onnxruntime(path: Path) -> None:
    loaded = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    allowed = str(path.relative_to(ROOT)) == "inputs/sessions.py"
    assert allowed or not any((name or "").partition(".")[0] == "onnxruntime" for name in loaded)
