"""Class names and ids."""

from __future__ import annotations

import pytest

from appliance.errors import LabelError
from appliance.labels import BACKGROUND_ID, Label, LabelMap


def test_ids_count_from_one_in_the_order_given():
    labels = LabelMap.of(["squash", Label("water"), "egg box"])
    assert labels.class_map == {"squash": 1, "water": 2, "egg box": 3}
    assert BACKGROUND_ID not in labels.class_map.values()
    for name, class_id in labels.class_map.items():
        assert labels.id_of(name) == class_id
        assert labels.name_of(class_id) == name


def test_a_map_is_a_collection_of_labels():
    labels = LabelMap(("a", "b"))
    assert len(labels) == 2
    assert list(labels) == [Label("a"), Label("b")]
    assert [str(label) for label in labels] == ["a", "b"]
    assert "a" in labels
    assert Label("b") in labels
    assert "c" not in labels
    assert labels == LabelMap.of(labels)
    assert hash(labels) == hash(LabelMap.of(labels))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "No classes"),
        (("a", ""), "no name"),
        (("a", "  "), "no name"),
        (("a", 3), "no name"),
        (("a", "b\x01"), r"cannot be shown .got 'b\\x01'"),
        (("\ud800",), "cannot be shown"),
        (("a", "b", "a"), "twice: a"),
    ],
)
def test_unusable_names_are_refused(names, message):
    with pytest.raises(LabelError, match=message):
        LabelMap(names)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(LabelError, match=r"c .expected one of a, b"):
        LabelMap(("a", "b")).id_of("c")


@pytest.mark.parametrize("class_id", [-1, 0, 3])
def test_an_unknown_id_is_answered_with_the_range(class_id):
    with pytest.raises(LabelError, match=f"got {class_id}, expected 1 to 2"):
        LabelMap(("a", "b")).name_of(class_id)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "milk",
            r"no list .got 'milk', expected a list of names.. Write \['milk'\] for a single one",
        ),
        (None, "no list .got None, expected a list of names.$"),
    ],
)
def test_a_text_is_no_list_of_its_letters(labels, message):
    with pytest.raises(LabelError, match=message):
        LabelMap.of(labels)
