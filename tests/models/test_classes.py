"""Classes are the same by their names, not by their numbers."""

import pytest

from mutual.models import class_columns


def test_the_same_order_needs_nothing():
    assert class_columns(("cat", "dog"), ("cat", "dog")) is None


def test_another_order_is_mapped_by_name():
    assert class_columns(("cat", "dog", "eel"), ("eel", "cat", "dog")) == [2, 0, 1]


def test_numbers_are_no_names():
    assert class_columns(("0", "1"), ("cat", "dog")) is None
    assert class_columns(("cat", "dog"), ("0", "1")) is None


def test_numbers_that_are_names_too_are_mapped_by_name():
    """Folders named 0 to 10 stand in the order of their letters."""
    folders, numbers = tuple(sorted(map(str, range(11)))), tuple(map(str, range(11)))
    assert class_columns(folders, numbers) == [folders.index(name) for name in numbers]
    assert class_columns(numbers, folders) == [numbers.index(name) for name in folders]


def test_a_name_that_two_classes_have_tells_nothing():
    assert class_columns(("cat", "cat", "dog"), ("cat", "cat", "dog")) is None
    with pytest.raises(ValueError, match="classes differ, and cannot be matched by name: the model has 'cat' twice"):
        class_columns(("cat", "cat", "dog"), ("cat", "dog", "dog"))


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match="classes differ: only the model has 'dog'; only the data has 'eel'"):
        class_columns(("cat", "dog"), ("cat", "eel"))
    with pytest.raises(ValueError, match="class counts differ: the model has 2, the data have 3"):
        class_columns(("cat", "dog"), ("cat", "dog", "eel"))
