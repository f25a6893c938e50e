"""Groups of rows of like length: each row once, little padding, and none too large."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_transformer.tasks.batches import in_groups  # noqa: E402

LENGTHS = [3, 0, 7, 2, 31, 7, 1, 0, 5, 3, 2]


def groups_of(lengths, batch_tokens):
    """The groups, and what `in_groups` returns; each row gives its place as often as it has tokens."""
    groups = []

    def noted(places):
        groups.append(places.tolist())
        return places

    # As the tasks run it: in a graph that does not know how many rows come.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)
    def graph(lengths):
        def read(places):
            places = tf.ensure_shape(tf.numpy_function(noted, [places], tf.int32), [None])
            return tf.repeat(tf.cast(places, tf.float32), tf.gather(lengths, places))[:, None] * [1.0, -1.0]

        return in_groups(lengths, batch_tokens, read, 2)

    values, order = graph(tf.constant(lengths, tf.int32))
    return groups, values.numpy(), order.numpy().tolist()


@pytest.mark.parametrize("batch_tokens", [1, 6, 14, 31, 1000])
def test_each_row_is_read_once_among_rows_of_its_length(batch_tokens):
    groups, values, order = groups_of(LENGTHS, batch_tokens)
    read = [place for group in groups for place in group]
    assert sorted(read) == [place for place, length in enumerate(LENGTHS) if length]
    assert order[: len(read)] == read and sorted(order) == list(range(len(LENGTHS)))
    lengths = [LENGTHS[place] for place in read]
    assert lengths == sorted(lengths, reverse=True)
    for group, following in zip(groups, [*groups[1:], None]):
        longest = LENGTHS[group[0]]
        assert len(group) == 1 or len(group) * longest <= batch_tokens
        assert following is None or (len(group) + 1) * longest > batch_tokens  # no group could hold one more
    np.testing.assert_array_equal(values[:, 0], np.repeat(read, lengths))
    np.testing.assert_array_equal(values[:, 1], -values[:, 0])


def test_rows_of_one_length_keep_their_order():
    assert groups_of([3] * 7, 9)[0] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("lengths", [[], [0, 0, 0]])
def test_no_tokens_no_groups(lengths):
    groups, values, order = groups_of(lengths, 7)
    assert groups == [] and values.shape == (0, 2) and order == list(range(len(lengths)))
