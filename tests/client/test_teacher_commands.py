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


OWN_CLASS = """
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.flat, self.first = nn.Flatten(), nn.Linear(784, 64)
        self.norm = nn.BatchNorm1d(64{affine})
        self.last = nn.Linear(64, classes)
    def forward(self, x):
        return self.last(self.norm(self.first(self.flat(x))))
def build(shape, classes):
    return Net(classes)
"""


def test_opacus_says_and_replaces_what_its_validator_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_CLASS.format(affine=""))
    with pytest.raises(SettingError) as raised:
        limbeck("check", "mine:build")
    assert "Opacus's validator says:\n- Layer 'norm' is BatchNorm1d: BatchNorm cannot support training" in str(raised.value)
    assert "- Layer 'norm': BatchNorm1d(64, eps=" in str(raised.value)
    assert "-> GroupNorm(32, 64, eps=1e-05, affine=True" in str(raised.value)
    assert "\nand then it can be trained: " in str(raised.value)
    said = limbeck("check", "mine:build", "--fix", "better.py")
    assert 'in site.toml: teacher = "better:build"' in said
    assert "better:build can be trained: 51,018 weights" in limbeck("check", "better:build")
    with pytest.raises(SettingError, match=r"Expected no file at better\.py yet"):
        limbeck("check", "mine:build", "--fix", "better.py")
    with pytest.raises(SettingError, match="file name such as"):
        limbeck("check", "mine:build", "--fix", "not-a-module.txt")
    with pytest.raises(SettingError, match="Expected layers to replace in better:build, found none"):
        limbeck("check", "better:build", "--fix", "best.py")


def test_limbecks_own_rules_stay_the_stricter_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus looks at layers with weights only, and only at what class they are of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_CLASS.format(affine=", affine=False"))
    with pytest.raises(SettingError, match=r"(?s)'norm' is BatchNorm1d, which mixes records.*finds nothing\."):
        limbeck("check", "mine:build", "--fix", "better.py")
    (tmp_path / "both.py").write_text(
        OWN_CLASS.format(affine="").replace("nn.Flatten()", "nn.Sequential(nn.Flatten(), nn.Dropout())")
    )
    with pytest.raises(SettingError, match=r"(?s)and then this would be wrong:\n- Layer 'flat\.1' is Dropout"):
        limbeck("check", "both:build", "--fix", "better.py")
    assert not (tmp_path / "better.py").exists()


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
