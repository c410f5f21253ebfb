"""A label is that of a class by one rule, whatever it is written in and whatever other labels there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.base.errors import SettingError
from limbeck.inputs import labels
from limbeck.inputs.labels import Values, find_classes, folder_classes, label_rule

SEX = label_rule(["female", "male"], (), 2)
COUNTED = label_rule(None, (), 3)
SICK = label_rule(None, ("no disease", "disease"), 2)
YES = label_rule(["no", "yes"], (), 2)


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        ("female", 0),
        (" Female", 0),
        ("FEMALE ", 0),
        ("Male", 1),
        ("f", None),
        ("", None),
        (None, None),
        ("1", None),
        (1, None),
        (np.str_("male"), 1),
        (b"male", 1),
        (b"\xff", None),
    ],
)
def test_a_word_is_a_class_whatever_its_case_and_the_blanks_around_it(cell: object, label: int | None) -> None:
    assert SEX(cell) == label


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        ("1", 1),
        ("1.0", 1),
        (" 1.00 ", 1),
        ("1,0", 1),
        ("01", 1),
        ("+1", 1),
        ("1,000", None),
        ("1.5", None),
        ("3", None),
        ("-1", None),
        ("True", 1),
        ("false", 0),
        ("yes", 1),
        (True, 1),
        (np.False_, 0),
        (1.0, 1),
        (np.float32(2), 2),
        (np.float16(0.5), None),
        (2 + 0j, 2),
        (2 + 1j, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
        (np.uint64(2), 2),
        (np.datetime64("2026-01-01"), None),
        ([1], None),
        (object(), None),
        ("nan", None),
    ],
)
def test_a_number_is_a_class_whatever_it_is_written_in(cell: object, label: int | None) -> None:
    assert COUNTED(cell) == label


@pytest.mark.parametrize(
    ("cell", "label"),
    [("yes", 1), ("Y", 1), ("TRUE", 1), ("on", 1), ("1.0", 1), (0, 0), (False, 0), ("off", 0), ("2", None)],
)
def test_words_of_truth_stand_for_each_other(cell: object, label: int | None) -> None:
    assert YES(cell) == label


def test_words_of_truth_mean_no_more_than_themselves_where_the_classes_are_not_a_pair_of_them() -> None:
    letters = label_rule(list("fnty"), (), 4)
    assert [letters(cell) for cell in ("f", "N", "t", "y", "true", "1")] == [0, 1, 2, 3, None, None]
    assert label_rule(["f", "m"], (), 2)("no") is None
    assert label_rule(["1", "2"], (), 2)("true") is None


def test_names_that_differ_in_case_or_digits_alone_are_told_apart_as_they_are_written() -> None:
    rule = label_rule(["a", "A", "1", "1.0"], (), 4)
    assert [rule(cell) for cell in ("a", "A ", "1", "1.0", "01", 1)] == [0, 1, 2, 3, None, 2]


def test_unicode_that_looks_the_same_is_the_same() -> None:
    assert label_rule(["\u00e9toile", "stra\u00dfe"], (), 2)("E\u0301TOILE") == 0
    assert label_rule(["\u00e9toile", "stra\u00dfe"], (), 2)("STRASSE") == 1


def test_a_plans_names_are_the_labels_where_the_settings_give_none() -> None:
    assert [SICK(cell) for cell in ("Disease", "no disease", 1, 0, "1")] == [1, 0, None, None, None]
    assert [label_rule(None, ("3", "8"), 2)(cell) for cell in (3, "8.0", 0)] == [0, 1, None]
    assert labels.in_words(("no disease", "disease"))
    assert labels.in_words(("0", "one"))
    assert not labels.in_words(("3", "8"))
    assert labels.setting_line(("no", "yes")) == "classes = [0, 1] (here 0 = no, 1 = yes)"


def test_the_settings_come_before_the_plans_names_and_may_give_a_class_several_values() -> None:
    rule = label_rule([0, [1, 2, "severe"]], ("no disease", "disease"), 2)
    assert [rule(cell) for cell in (0, "1.0", 2, "SEVERE", "disease")] == [0, 1, 1, 1, None]
    assert str(rule) == "one of 0, 1/2/severe"
    assert str(COUNTED) == "whole numbers from 0 to 2"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a"], "data.classes for the plan's 2 classes, got 1"),
        (["a", []], "a value or values of class 1 in data.classes, got none"),
        (["a", "NA"], "class 1 in data.classes, got 'NA', which means missing"),
        (["a", ["b", "a"]], "'a' once in data.classes, got it for classes 0 and 1"),
    ],
)
def test_values_that_name_no_classes_are_refused(values: Sequence[Values], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        label_rule(values, (), 2, setting="data.classes")


def test_a_label_that_means_missing_has_no_class_even_if_a_plan_has_one_of_that_name() -> None:
    assert label_rule(None, ("None", "some"), 2)("None") is None


@given(st.lists(st.sampled_from(["no", "Yes", "1.0", 0, None, "x", True, 0.5, b"yes"])))
def test_no_label_changes_what_another_means(cells: list[object]) -> None:
    alone = [label if (label := YES(cell)) is not None else -1 for cell in cells]
    assert YES.all(cells, -1).tolist() == alone
    assert YES.all(np.array(cells, object), -1).tolist() == alone


@pytest.mark.parametrize("kind", ["i1", "u8", "f2", "f8", "c16", "U3", "S3", "O"])
def test_the_labels_of_an_array_are_the_same_whatever_its_type(kind: str) -> None:
    assert COUNTED.all(np.array([0, 2, 1, 3]).astype(kind), -1).tolist() == [0, 2, 1, -1]
    assert COUNTED.all(np.array([], kind), -1).tolist() == []


# Folders of images


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (["dog", "cat"], [1, 0]),
        (["Dog"], [1]),
        (["cat", "Cat", "dog"], [0, 0, 1]),
        (["cat", "cow"], None),
        (["0", "1"], [0, 1]),
        (["1", "2"], None),
        (["cat", "1"], None),
        (["0"], None),
        ([], None),
    ],
)
def test_a_folder_is_a_class_by_its_name_or_all_are_by_their_numbers(folders: list[str], found: list[int] | None) -> None:
    assert folder_classes(folders, label_rule(None, ("cat", "dog"), 2)) == found


def test_folders_are_counted_as_numbers_and_not_as_texts() -> None:
    folders = sorted(str(number) for number in range(12))
    assert folders[2] == "10"
    assert folder_classes(folders, label_rule(None, (), 12)) == [int(name) for name in folders]
    assert folder_classes(["cat", "dog"], label_rule(None, (), 2)) is None
    assert folder_classes(["0", "1"], label_rule(["cat", "dog"], (), 2)) is None
    assert folder_classes([], label_rule(["cat", "dog"], (), 2)) == []
    assert folder_classes([str(number) for number in range(1, 13)], label_rule(None, (), 12)) is None
    assert folder_classes(["0", "1", "x"], label_rule(None, (), 2)) is None


# Finding the classes of data that may be looked at


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["10", "9", "2", "9"], ("2", "9", "10")),
        (["1.0", "0.0", None, "1"], ("0", "1")),
        (["b", "A", " b", "B", "b"], ("A", "b")),
        ([1, 0, 2, 1], ("0", "1", "2")),
        ([True, False], ("False", "True")),
        (["left, upper", "right, upper"], ("left, upper", "right, upper")),
        (["1.5", "2"], ("1.5", "2")),
        (["x", "3", "NA", "?"], ("3", "x")),
    ],
)
def test_classes_are_found_in_their_natural_order(cells: list[object], found: tuple[str, ...]) -> None:
    assert find_classes(cells) == found


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([str(number / 7) for number in range(30)], r"30 distinct numbers .* \(regression\) is not built"),
        (list(range(500)), r"500 distinct numbers .* \(regression\) is not built"),
        ([f"{number},5" for number in range(30)], r"\(regression\) is not built"),
        (["action|drama", "drama", "action", "action|comedy"], r"separated by '\|', as in .* \(multi-label\) are not built"),
        (["a;b", "b;c", "a;c", "a;b;c"], r"separated by ';'"),
        ([f"patient {number}" for number in range(60)], r"a column of names or texts"),
        (["a", "a", None], r"at least 2 classes, got 'a'"),
        ([], r"at least 2 classes, got none"),
    ],
)
def test_a_column_that_holds_no_classes_is_refused_with_a_sentence(cells: list[object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        find_classes(cells)
