"""`limbeck operators` as a person uses it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from limbeck.base.errors import SettingError
from limbeck.cli import families
from limbeck.cli.main import app
from limbeck.cli.operators import factory, known

MODULE = """
from limbeck.operators import Power, Separable

def too_warm(temperature):
    return Power(1.01 * temperature)

def shifted(temperature):
    return Separable(lambda p, t: p + t - 1, temperature)

NUMBER = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_operators.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["operators", *arguments], env={"COLUMNS": "160"})
    return result.exit_code, result.output


def test_a_sound_family_passes_and_what_was_not_checked_is_said() -> None:
    status, output = run("check", "mixing", "--rounds", "3")
    assert status == 0
    assert "broken" not in output
    assert "T to 0 not checked: the domain is T in [1, 1e+12]" in output
    assert "Majorisation: f_T rises in p" in output


def test_a_violation_is_exit_status_1_and_is_shown(user_module: None) -> None:
    status, output = run("check", "my_operators:too_warm", "--rounds", "3", "--float32")
    assert status == 1
    assert "4 identity at T = 1: p[" in output
    assert "p  = [" in output
    assert output.count("broken") == 1


def test_a_users_operator_is_imported_from_the_current_folder(user_module: None) -> None:
    import torch

    p_K = torch.tensor([0.7, 0.3], dtype=torch.float64)
    torch.testing.assert_close(
        factory("my_operators:shifted")(2.0)(p_K), torch.tensor([1.7 / 3, 1.3 / 3], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        ("softmax", "Expected MODULE:OBJECT or one of power, mixing"),
        ("no_such_module:f", "Expected an importable MODULE:OBJECT"),
        ("my_operators:absent", "Expected an importable MODULE:OBJECT"),
        ("my_operators:NUMBER", "to be a function from T to an operator, got 3"),
        ("top-k:many", "Expected a number after top-k:, got 'many'"),
        ("tsallis", "Expected a number after tsallis:"),
        ("nucleus:2", r"Expected mass in \(0, 1\]"),
    ],
)
def test_anything_else_is_refused(user_module: None, which: str, wanted: str) -> None:
    with pytest.raises(SettingError, match=wanted):
        factory(which)


def test_the_list_names_what_the_check_takes() -> None:
    status, output = run("list")
    assert status == 0
    examples = {"tsallis:Q": "tsallis:0.5", "top-k:K": "top-k:2", "nucleus:MASS": "nucleus:0.9"}
    for name in known():
        assert name in output
        factory(examples.get(name, name))(2.0)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_is_written(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"families.{ending}"
    status, output = run("plot", str(out))
    assert (status, output.strip()) == (0, str(out))
    assert out.read_bytes().startswith(b"\x89PNG" if ending == "png" else b"<?xml")


def test_a_picture_of_another_kind_or_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"\.png or \.svg"):
        families.draw(tmp_path / "families.gif")
    with pytest.raises(SettingError, match="Expected to write"):
        families.draw(tmp_path / "absent" / "families.png")
