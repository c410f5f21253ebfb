"""The package is what its folders are: every sub-package is listed, and a wheel works on its own."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_code_is_a_listed_package() -> None:
    tops = [name.removeprefix("limbeck.") for name in SETTINGS["tool"]["importlinter"]["root_packages"]]
    folders = {path.parent for top in tops for path in (ROOT / top).rglob("__init__.py")}
    expected = {"limbeck." + ".".join(folder.relative_to(ROOT).parts): str(folder.relative_to(ROOT)) for folder in folders}
    assert SETTINGS["tool"]["setuptools"]["package-dir"] == expected
    assert sorted(SETTINGS["tool"]["setuptools"]["packages"]) == sorted(expected)


def test_a_wheel_installed_elsewhere_runs_a_scenario(tmp_path: Path) -> None:
    """Built from a copy of what git tracks, unpacked into a folder of its own, run from an empty one."""
    source, site, home = tmp_path / "source", tmp_path / "site", tmp_path / "home"
    home.mkdir()
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("limbeck-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--target", str(site), str(wheel)], check=True)
    # The editable install must not be what is found: `site` comes first, and the run says which file it used.
    code = (
        "import sys; import limbeck.operators; assert limbeck.operators.__file__.startswith(sys.argv[1]), limbeck.operators.__file__;"
        "from limbeck.cli.main import app;"
        "app(['simulate', 'digits-tiny', '--out', 'run', '--set', 'student.epochs=1', '--set', 'data.public=60'], standalone_mode=False)"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run([sys.executable, "-c", code, str(site)], cwd=home, env=environment, check=True, timeout=1200)
    assert (home / "run" / "report.html").stat().st_size > 50_000
