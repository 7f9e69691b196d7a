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


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match="classes differ: only the model has 'dog'; only the data has 'eel'"):
        class_columns(("cat", "dog"), ("cat", "eel"))
    with pytest.raises(ValueError, match="class counts differ: the model has 2, the data have 3"):
        class_columns(("cat", "dog"), ("cat", "dog", "eel"))
