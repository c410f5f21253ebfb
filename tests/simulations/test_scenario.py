"""A scenario that cannot be meant is refused with key, value and what was wanted."""

import pytest

from limbeck.base.errors import SettingError
from limbeck.simulations import data, scenario


@pytest.mark.parametrize("name", list(scenario.shipped()))
def test_what_ships_can_be_read_and_says_what_it_is(name: str) -> None:
    assert scenario.load(name).name == name
    assert len(scenario.shipped()[name]) > 20


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("privacy.epsilon=0", r"privacy.epsilon = 0: expected a number > 0"),
        ("privacy.epsilon=nan", r"privacy.epsilon = nan: expected a"),
        ("privacy.delta=1.0", r"privacy.delta = 1.0: expected a number < 1"),
        ("privacy.epsilonn=1", r"privacy.epsilonn: unknown key \(did you mean epsilon\?\)"),
        ("colour.red=1", r"colour: unknown key"),
        ("partition.clients=two", r"partition.clients = 'two': expected a whole number"),
        ("partition.clients=8.0", r"partition.clients = 8.0: expected a whole number"),
        ("partition.clients=true", r"partition.clients = True: expected a whole number"),
        ("stages.sparsity=1.0", r"stages.sparsity = 1.0: expected a number < 1"),
        (
            "release.softening=sparsemax",
            r"release.softening = 'sparsemax': expected one of 'power', 'mixing', 'hybrid', 'tsallis' or 'entropy-target'",
        ),
        ("student.augment=1", r"student.augment = 1: expected true, false or 'auto'"),
        ("stages.temperature=[1.0, 2.0]", r"expected one number, or stages.count = 4 of them"),
        ("run.minimum_clients=9", r"expected at most partition.clients = 8"),
        ("data.name=imagenet", r"data.name = 'imagenet': expected one of digits"),
        ("teacher.kind=custom", r"teacher.factory = None: expected 'module:factory'"),
        (
            "teacher.factory='a:b'",
            r"teacher.factory = 'a:b': expected 'module:factory' with teacher.kind = 'custom', and only then",
        ),
        ("release.softening=tsallis", r"release.tsallis_order = None: expected a number with release.softening = 'tsallis'"),
        ("release.tsallis_order=0.5", r"release.tsallis_order = 0.5: expected a number with release.softening = 'tsallis'"),
        ("nonsense", r"Expected an override such as"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(override: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        scenario.load("default", [override])


def test_no_more_steps_are_averaged_than_are_taken() -> None:
    with pytest.raises(SettingError, match=r"expected at most teacher\.steps = 60"):
        scenario.load("default", ["teacher.kind=linear", "teacher.average_last=61"])


@pytest.mark.parametrize("softening", ["mixing", "entropy-target", "tsallis"])
def test_a_family_that_only_softens_refuses_to_sharpen(softening: str) -> None:
    with pytest.raises(SettingError, match=f"expected at least 1 with release.softening = '{softening}'"):
        scenario.load("default", [f"release.softening={softening}", "stages.temperature=0.5"])


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingError, match=r"(?s)privacy.epsilon.*run.seed"):
        scenario.load("default", ["privacy.epsilon=-1", "run.seed=x"])


def test_a_missing_table_and_a_missing_file_are_named(tmp_path: object) -> None:
    with pytest.raises(SettingError, match="privacy: missing"):
        scenario.parse(
            {"name": "x", "data": {"name": "digits"}, "partition": {"clients": 2}, "teacher": {"normaliser": 1.0}}
        )
    with pytest.raises(SettingError, match="one of the scenarios"):
        scenario.load("no-such-file.toml")


def test_a_k_beyond_the_classes_and_too_many_clients_are_refused_against_the_data() -> None:
    dataset = data.load("digits", private=50, public=10, test=10)
    for override, message in [("release.k=11", "release.k = 11"), ("partition.clients=51", "partition.clients = 51")]:
        with pytest.raises(SettingError, match=message):
            scenario.check_against(scenario.load("digits-tiny", [override]), dataset)


def test_settings_survive_being_written_and_read() -> None:
    own = scenario.load("default", ["stages.temperature=[4.0, 3.0, 2.0, 1.0]"])
    assert scenario.Scenario.model_validate_json(own.model_dump_json()) == own
