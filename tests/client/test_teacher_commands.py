"""`limbeck teacher`: the template passes, a broken net is told what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from limbeck.base.errors import SettingError
from limbeck.cli.main import app


def limbeck(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["teacher", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_a_template_is_written_and_can_be_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "limbeck teacher check mine:build" in limbeck("init", "mine.py")
    assert "mine:build can be trained: 2,762 weights, 10 classes" in limbeck("check", "mine:build")
    assert "54" in limbeck("check", "mine:build", "--shape", "54", "--classes", "2")
    with pytest.raises(SettingError, match=r"Expected no file at mine\.py yet"):
        limbeck("init", "mine.py")
    with pytest.raises(SettingError, match="file name such as"):
        limbeck("init", "not-a-module.txt")


def test_what_is_wrong_is_told_with_its_replacement(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from torch import nn\ndef build(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.Linear(64, classes))\n"
    )
    with pytest.raises(
        SettingError, match=r"(?s)cannot be trained.*'2' is BatchNorm1d, which mixes records; put nn.GroupNorm\(32, 64\)"
    ):
        limbeck("check", "bad:build", "--folder", str(tmp_path))


def test_a_net_with_dropout_is_told_why_it_cannot_be_trained(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from torch import nn\ndef build(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, classes))\n"
    )
    with pytest.raises(
        SettingError, match=r"(?s)cannot be trained.*'1' is Dropout with p = 0\.5: it draws for all records.*Leave it out"
    ):
        limbeck("check", "bad:build", "--folder", str(tmp_path))


@pytest.mark.parametrize("shape", ["28x28", "axb", "0", "1x-2x3"])
def test_a_shape_that_cannot_be_meant_is_refused(shape: str) -> None:
    with pytest.raises(SettingError, match="Expected --shape such as"):
        limbeck("check", "mine:build", "--shape", shape)
