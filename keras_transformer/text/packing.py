"""Several examples in one row, so that nearly nothing is padded and there is one shape, compiled once."""

from typing import Any

import tensorflow as tf

from .pools import epochs

OPEN_ROWS = 64
"""Rows that a packer fills at the same time."""

EXAMPLES_OF_A_PACKER = 4096
"""So many examples at least make another packer worth while. Packers work side by side, each on rows of its own."""


def pack(
    dataset: tf.data.Dataset,
    batch_tokens: int,
    source_length: int = 128,
    target_length: int = 128,
    pool_size: int = 50_000,
    shuffle: bool = True,
    seed: int | None = None,
    pad_token_id: int = 0,
    initial_epoch: int = 0,
) -> tf.data.Dataset:
    """Batches of one shape, in whose rows examples stand one after the other and are told apart by segment ids.

    Examples are read into a pool of about `pool_size` and come up in random order. Each goes into the fullest of
    `OPEN_ROWS` open rows in which both of its sides have room; if there is none, the fullest row is closed and
    a new one opened. Memory holds two pools and does not grow with the dataset. Only the last batch of a pool is
    filled up, with rows that are all padding, so that each example comes through exactly once an epoch.

    Args:
        dataset: `(inputs, labels, weights)`, of which `inputs` holds `encoder_token_ids` and `decoder_token_ids`,
            vectors or ragged batches of vectors `(B, None)`, such as `shift` makes.
        batch_tokens: most positions of a batch, on each side.
        source_length, target_length: of a row's sides. Iterating raises `tf.errors.InvalidArgumentError` at an
            example with a longer side. The longer a row, the less of it stays empty, and the more attention costs.
        pool_size, shuffle, seed, pad_token_id, initial_epoch: as in `batch_by_tokens`.

    Returns:
        A dataset of `(inputs, labels, weights)`: what was there, now `(rows, source_length)` for `encoder_token_ids`
        and `(rows, target_length)` for the rest; and `encoder_segment_ids` and `decoder_segment_ids`, int32, which
        count the examples of a row from 1 and are 0 on padding. Models let positions restart in each segment.

    Example:

    >>> import tensorflow as tf
    >>> from keras_transformer import text
    >>> sources, targets = tf.ragged.constant([[7, 3], [8, 8, 3]]), tf.ragged.constant([[5], [6]])
    >>> pairs = tf.data.Dataset.from_tensor_slices((sources, targets)).map(lambda s, t: (s, tf.ensure_shape(t, [None])))
    >>> inputs, labels, weights = next(iter(text.pack(pairs.map(text.shift), 6, 6, 4, shuffle=False)))
    >>> inputs["encoder_token_ids"].numpy().tolist(), inputs["encoder_segment_ids"].numpy().tolist()
    ([[7, 3, 8, 8, 3, 0]], [[1, 1, 2, 2, 2, 0]])
    >>> labels.numpy().tolist(), inputs["decoder_segment_ids"].numpy().tolist()
    ([[5, 3, 6, 3]], [[1, 1, 2, 2]])
    """
    if source_length < 1 or target_length < 1:
        raise ValueError(
            f"source_length and target_length must be at least 1, received {source_length} and {target_length}."
        )
    rows = batch_tokens // max(source_length, target_length)
    if rows < 1:
        raise ValueError(
            f"batch_tokens must hold a row, of {max(source_length, target_length)} tokens, received {batch_tokens}: "
            "raise batch_tokens or shorten the rows."
        )
    _check_structure(dataset.element_spec)
    length_of = {"encoder_token_ids": source_length, "encoder_segment_ids": source_length}

    def packed(key: tf.Tensor, pool: Any) -> Any:
        inputs, labels, weights = pool
        sides = inputs["encoder_token_ids"], inputs["decoder_token_ids"]
        sizes = tf.stack([tf.cast(side.row_lengths(), tf.int32) for side in sides], axis=1)
        order = tf.range(tf.shape(sizes)[0])
        if shuffle:
            order = tf.random.experimental.stateless_shuffle(order, key)
        row, count = _rows(tf.gather(sizes, order), tf.constant([source_length, target_length]))
        if shuffle:
            row = tf.gather(tf.random.experimental.stateless_shuffle(tf.range(count), key + 1), row)
        by_row = tf.argsort(row, stable=True)
        order, row = tf.gather(order, by_row), tf.gather(row, by_row)
        count = -(-count // rows) * rows
        members = tf.math.bincount(row, minlength=count)
        segment = tf.range(tf.size(row)) - tf.gather(tf.cumsum(members, exclusive=True), row) + 1

        def dense(vectors: tf.RaggedTensor, length: int, fill: int = 0) -> tf.Tensor:
            tokens = tf.math.unsorted_segment_sum(vectors.row_lengths(), row, count)
            joined = tf.RaggedTensor.from_row_lengths(vectors.values, tokens, validate=False)
            return tf.reshape(joined.to_tensor(fill, shape=[None, length]), [-1, rows, length])

        def arranged(vectors: tf.RaggedTensor, length: int) -> tf.Tensor:
            return dense(tf.gather(vectors, order), length, pad_token_id if vectors.dtype.is_integer else 0)

        def segments(side: tf.RaggedTensor, length: int) -> tf.Tensor:
            side = tf.gather(side, order)
            return dense(side.with_values(tf.gather(segment, side.value_rowids())), length)

        result = {name: arranged(x, length_of.get(name, target_length)) for name, x in inputs.items()}
        for name, side in zip(("encoder_segment_ids", "decoder_segment_ids"), sides, strict=True):
            result[name] = segments(side, length_of.get(name, target_length))
        return result, arranged(labels, target_length), arranged(weights, target_length)

    def of_pools(pools: tf.data.Dataset) -> tf.data.Dataset:
        # While the batches of one pool are used the next is packed.
        ready = pools.map(packed).prefetch(1)
        return ready.flat_map(lambda *batches: tf.data.Dataset.from_tensor_slices(batches))

    return epochs(dataset, pool_size, of_pools, seed, initial_epoch)


def _check_structure(spec: Any) -> None:
    names = {"encoder_token_ids", "decoder_token_ids"}
    if not (isinstance(spec, tuple) and len(spec) == 3 and isinstance(spec[0], dict) and names <= set(spec[0])):
        raise ValueError(
            "dataset must hold (inputs, labels, weights) with encoder_token_ids and decoder_token_ids in inputs, "
            f"received {spec}: make it with shift."
        )


def _rows(sizes: tf.Tensor, room: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The row of each example, int32 `(N,)`, and the number of rows, for examples of `sizes` `(N, sides)`.

    Args:
        room: of a row, `(sides,)`.
    """
    largest = tf.reduce_max(sizes, axis=0)
    fits = tf.debugging.Assert(
        tf.reduce_all(largest <= room),
        ["an example is longer than a row, drop it or lengthen the rows: received sides up to", largest, "for", room],
    )
    count, sides = tf.shape(sizes)[0], sizes.shape[1]
    packers = tf.maximum(count // EXAMPLES_OF_A_PACKER, 1)
    with tf.control_dependencies([fits]):
        turns = -(-count // packers)
    # What is missing in the last turn are examples of size 0, which fit anywhere.
    sizes = tf.reshape(tf.pad(sizes, [[0, turns * packers - count], [0, 0]]), [turns, packers, 1, sides])
    each = tf.range(packers)

    def turn(number: tf.Tensor, used: tf.Tensor, row_of: tf.Tensor, opened: tf.Tensor, rows: tf.TensorArray) -> Any:
        """Each packer places one example: `used` `(packers, OPEN_ROWS, sides)`, `row_of` `(packers, OPEN_ROWS)`."""
        size = sizes[number]
        fullness = tf.reduce_sum(used, axis=-1)
        fullness_if_fits = tf.where(tf.reduce_all(used + size <= room, axis=-1), fullness, -1)
        place = tf.argmax(fullness_if_fits, axis=-1, output_type=tf.int32)
        has_room = tf.gather(fullness_if_fits, place, batch_dims=1)
        place = tf.where(has_room >= 0, place, tf.argmax(fullness, axis=-1, output_type=tf.int32))
        opens = has_room <= 0  # an empty row, or one that is closed for it
        chosen = tf.one_hot(place, OPEN_ROWS, on_value=True, off_value=False)
        used = tf.where((chosen & opens[:, None])[..., None], 0, used)
        used = used + tf.where(chosen[..., None], size, 0)
        row_of = tf.where(chosen & opens[:, None], opened[:, None], row_of)
        rows = rows.write(number, tf.gather(row_of, place, batch_dims=1))
        return number + 1, used, row_of, opened + tf.cast(opens, tf.int32), rows

    state = (
        tf.constant(0),
        tf.zeros([packers, OPEN_ROWS, sides], tf.int32),
        tf.zeros([packers, OPEN_ROWS], tf.int32),
        tf.zeros_like(each),
        tf.TensorArray(tf.int32, turns, element_shape=[None]),
    )
    _, _, _, opened, rows = tf.while_loop(lambda number, *_: number < turns, turn, state)
    row = rows.stack() + tf.cumsum(opened, exclusive=True)
    return tf.reshape(row, [-1])[:count], tf.reduce_sum(opened)
