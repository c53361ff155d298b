import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerscope.base.errors import UserError
from layerscope.data.sets import stratified_split


# A machine at work is no failure.
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    labels=st.lists(st.integers(0, 4), min_size=20, max_size=200),
    share=st.floats(0.05, 0.9),
)
def test_split_is_a_partition_of_the_wanted_size(labels, share):
    labels = np.array(labels, dtype=np.uint8)
    size = max(1, int(share * len(labels)))
    trained, validated = stratified_split(labels, size)
    assert len(validated) == size
    assert sorted([*trained, *validated]) == list(range(len(labels)))
    for label in np.unique(labels):
        exact = (labels == label).sum() * size / len(labels)
        assert abs((labels[validated] == label).sum() - exact) <= 1


def test_split_depends_on_labels_and_size_alone():
    labels = np.tile(np.arange(10, dtype=np.uint8), 50)
    first, again = stratified_split(labels, 50), stratified_split(labels.copy(), 50)
    assert (first[1] == again[1]).all()
    assert np.bincount(labels[first[1]]).tolist() == [5] * 10


def test_nothing_left_to_train_on_is_refused():
    with pytest.raises(UserError, match=r"data\.val_size=10"):
        stratified_split(np.zeros(10, dtype=np.uint8), 10)
