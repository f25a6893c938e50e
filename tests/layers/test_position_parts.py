"""Laws of every position part: offsets, blocks, packed rows, precision, config, files, masks, XLA, gradients."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from keras import ops

from keras_transformer.layers import (
    AlibiBias,
    PositionalEncoding,
    PositionEmbedding,
    RelativePositionBias,
    RelativePositionEmbedding,
    RotaryEmbedding,
)

HEADS, WIDTH, BATCH = 3, 10, 2
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"

SCORES = {
    "t5": lambda **kw: RelativePositionBias(6, 13, bidirectional=True, num_heads=HEADS, **kw),
    "t5_causal": lambda **kw: RelativePositionBias(7, 11, bidirectional=False, num_heads=HEADS, **kw),
    "alibi": lambda **kw: AlibiBias(HEADS, alibi_bias_max=7, **kw),
    "shaw": lambda **kw: RelativePositionEmbedding(3, key_dim=WIDTH, embeddings_initializer="normal", **kw),
    "shaw_long": lambda **kw: RelativePositionEmbedding(23, key_dim=WIDTH, per_head=True, num_heads=HEADS, **kw),
    "music": lambda **kw: RelativePositionEmbedding(
        5, bidirectional=False, beyond="zero", per_head=True, num_heads=HEADS, key_dim=WIDTH, **kw
    ),
    "music_both": lambda **kw: RelativePositionEmbedding(2, beyond="zero", key_dim=WIDTH, **kw),
    "music_clip": lambda **kw: RelativePositionEmbedding(4, bidirectional=False, key_dim=WIDTH, **kw),
}
INPUTS = {
    "sinusoidal": lambda **kw: PositionalEncoding(max_wavelength=500.0, **kw),
    "learned": lambda **kw: PositionEmbedding(8192, initializer="normal", **kw),
    "rotary": lambda **kw: RotaryEmbedding(max_wavelength=500, scaling_factor=3.0, **kw),
    "rotary_part": lambda **kw: RotaryEmbedding(rotary_dim=6, interleaved=True, **kw),
    "rotary_dynamic": lambda **kw: RotaryEmbedding(rope_type="dynamic", scaling_factor=2.0, dynamic_length=8192, **kw),
    "rotary_yarn": lambda **kw: RotaryEmbedding(
        rope_type="yarn", scaling_factor=2.0, beta_fast=9.0, beta_slow=2.0, truncate=False, **kw
    ),
}
each_scores = pytest.mark.parametrize("name", SCORES)
each_inputs = pytest.mark.parametrize("name", INPUTS)
each = pytest.mark.parametrize("name", [*SCORES, *INPUTS])


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def made(name, /, **kwargs):
    return (SCORES | INPUTS)[name](**kwargs)


def queries(length, seed=0):
    return np.random.default_rng(seed).normal(size=(BATCH, length, HEADS, WIDTH)).astype("float32")


def apply(part, x, positions):
    """What the part makes of inputs or projected queries; those of a part that adds are `(B, T, D)`."""
    if hasattr(part, "add"):
        return part.add(x[:, :, 0], positions)
    return part.rotate(x, positions)


@each_scores
@pytest.mark.parametrize("offset", [0, 5, 8160])
def test_scores_of_a_block_are_a_block_of_the_scores(name, offset):
    part, query = made(name), queries(17)
    positions = offset + np.arange(17)
    full = numpy(part.scores(query, positions, positions))
    for rows, columns in [(slice(0, 17), slice(0, 17)), (slice(4, 11), slice(2, 15)), (slice(13, 14), slice(0, 5))]:
        block = numpy(part.scores(query[:, rows], positions[rows], positions[columns]))
        # The same products in another order; scores are below 10, but for those of `alibi`, which are equal.
        np.testing.assert_allclose(block, full[:, :, rows, columns], atol=2e-6)
    assert full.shape[1:] == (HEADS, 17, 17) and full.shape[0] in (1, BATCH)


@each_scores
def test_scores_depend_on_distances_alone(name):
    part, query = made(name), queries(7)
    near = numpy(part.scores(query, np.arange(7), np.arange(11)))
    far = numpy(part.scores(query, 8000 + np.arange(7), 8000 + np.arange(11)))
    np.testing.assert_array_equal(near, far)


@each_scores
@pytest.mark.parametrize("ranks", [(2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("rows", [1, BATCH])
def test_scores_of_positions_with_a_batch_axis_are_those_without(name, ranks, rows):
    part, query = made(name), queries(7)
    positions = [40 + np.arange(7), 37 + np.arange(13)]
    expected = numpy(part.scores(query, *positions))
    lifted = [p if rank == 1 else np.tile(p, (rows, 1)) for p, rank in zip(positions, ranks)]
    found = numpy(part.scores(query, *lifted))
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=2e-6)
    assert found.shape[0] in (1, BATCH)


@each_scores
def test_scores_of_packed_rows_are_those_of_their_texts(name):
    part, query = made(name), queries(11)
    packed = np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2]])
    found = numpy(part.scores(query, packed, packed))
    for row, cut in enumerate((4, 8)):
        for text in (slice(0, cut), slice(cut, 11)):
            length = text.stop - text.start
            alone = numpy(part.scores(query[row : row + 1, text], np.arange(length), np.arange(length)))
            np.testing.assert_allclose(found[row % len(found)][:, text, text], alone[0], atol=2e-6)


@each_inputs
def test_an_offset_is_a_slice_and_packed_rows_are_their_texts(name):
    part, x = made(name), queries(17)
    full = numpy(apply(part, x, np.arange(17)))
    np.testing.assert_array_equal(numpy(apply(part, x[:, 5:12], 5 + np.arange(7))), full[:, 5:12])
    np.testing.assert_array_equal(numpy(apply(part, x, np.arange(17)[None])), full)
    packed = np.array([[*range(6), *range(11)], [*range(12), *range(5)]])
    found = numpy(apply(part, x, packed))
    for row, cut in enumerate((6, 12)):
        again = numpy(apply(part, x[:, cut:], np.arange(17 - cut)))
        np.testing.assert_array_equal(found[row], np.concatenate([full[row, :cut], again[row]]))


@each_inputs
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_of_inputs_is_float32_rounded_once(name, dtype):
    part, x, positions = made(name), ops.cast(queries(5), dtype), 8187 + np.arange(5)
    found = apply(part, x, positions)
    exact = apply(part, ops.cast(x, "float32"), positions)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    np.testing.assert_array_equal(numpy(found), numpy(ops.cast(exact, dtype)))


@each_scores
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_of_scores_rounds_no_position(name, dtype):
    part, x, places = made(name), ops.cast(queries(5), dtype), (8187 + np.arange(5), 8179 + np.arange(13))
    found = part.scores(x, *places)
    exact = part.scores(ops.cast(x, "float32"), *places)
    of_query = isinstance(part, RelativePositionEmbedding)
    assert keras.backend.standardize_dtype(found.dtype) == (dtype if of_query else "float32")
    np.testing.assert_array_equal(numpy(found), numpy(ops.cast(exact, found.dtype)))


@each
def test_config_is_the_constructor(name):
    part = made(name, name="the_part", dtype="bfloat16")
    clone = type(part).from_config(part.get_config())
    assert clone.get_config() == part.get_config()
    assert (clone.name, clone.dtype_policy.name) == ("the_part", "bfloat16")


@each_scores
def test_a_score_part_in_a_saved_functional_model(name, tmp_path):
    part = made(name)
    query = keras.Input((None, HEADS, WIDTH))
    places = [keras.Input((None,), dtype="int32") for _ in range(2)]
    scores = part(query, *places)
    assert scores.shape[1:] == (HEADS, None, None) and scores.dtype == "float32"
    model = keras.Model([query, *places], scores)
    inputs = [queries(5), np.tile(np.arange(5), (2, 1)), np.tile(np.arange(7), (2, 1))]
    expected = numpy(model(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(inputs)), expected)
    assert expected.shape[1:] == (HEADS, 5, 7)


@each_inputs
def test_an_input_part_in_a_saved_functional_model_hands_on_the_mask(name, tmp_path):
    ids = np.array([[4, 2, 0, 0, 0], [1, 3, 5, 2, 0]])
    table = keras.layers.Embedding(7, WIDTH, mask_zero=True)
    model = keras.Sequential([keras.Input((None,)), table, made(name), keras.layers.GlobalAveragePooling1D()])
    expected = numpy(model(ids))
    padded = numpy(model(np.pad(ids, [(0, 0), (0, 4)])))
    np.testing.assert_allclose(padded, expected, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(ids)), expected)
    symbolic = made(name, dtype="bfloat16")(keras.Input((None, WIDTH), dtype="bfloat16"))
    assert symbolic.shape == (None, None, WIDTH) and symbolic.dtype == "bfloat16"


def test_the_mask_of_queries_is_not_one_of_scores():
    query = ops.convert_to_tensor(queries(5))
    query._keras_mask = ops.ones((BATCH, 5), "bool")
    scores = AlibiBias()(query, np.arange(5), np.arange(5))  # warnings are errors
    assert getattr(scores, "_keras_mask", None) is None


@pytest.mark.integration
@each
@pytest.mark.skipif(not ON_TENSORFLOW, reason="XLA is TensorFlow's here")
def test_a_graph_of_unknown_lengths_under_xla_equals_eager(name):
    import tensorflow as tf

    part, x = made(name), queries(7)

    def function(x, first, second):
        return part.scores(x, first, second) if name in SCORES else apply(part, x, first)

    positions = (tf.range(3, 10), tf.range(13))
    packed = (tf.constant([[0, 1, 2, 0, 1, 0, 1], [5, 6, 7, 8, 9, 10, 11]]), tf.tile(tf.range(13)[None], (2, 1)))
    for places in (positions, packed):
        # One graph for all lengths; XLA compiles it for those that come.
        shapes = [tf.TensorSpec((None, None, HEADS, WIDTH))] + [
            tf.TensorSpec([None] * p.ndim, tf.int32) for p in places
        ]
        compiled = tf.function(function, jit_compile=True, input_signature=shapes)
        np.testing.assert_allclose(numpy(compiled(x, *places)), numpy(function(x, *places)), atol=2e-6)


@pytest.mark.parametrize("name", [name for name in [*SCORES, "learned"] if name != "alibi"])
@pytest.mark.parametrize("rank", [1, 2])
def test_gradients_reach_the_table_and_are_those_of_differences(name, rank):
    part, x = made(name), queries(5)
    length = 19
    places = [np.arange(5), np.arange(length)]
    if rank == 2:
        places = [np.tile(p, (BATCH, 1)) for p in places]
    if name == "learned":
        part = PositionEmbedding(length, initializer="normal")
        part.build((None, None, WIDTH))
    weights = part.get_weights()
    shape = (BATCH, 5, WIDTH) if name == "learned" else (BATCH, HEADS, 5, length)
    upstream = ops.convert_to_tensor(np.random.default_rng(1).normal(size=shape), "float32")

    def loss(table):
        with keras.StatelessScope(state_mapping=[(part.weights[0], table)]):
            result = apply(part, x, places[0]) if name == "learned" else part.scores(x, *places)
        return ops.sum(result * upstream)

    (found,) = gradients(loss, *weights)
    # Linear in the table, so that a difference of any size is exact; one direction tries all entries at once.
    direction = np.random.default_rng(2).normal(size=weights[0].shape).astype("float32")
    base, moved = (float(ops.convert_to_numpy(loss(ops.convert_to_tensor(weights[0] + s * direction)))) for s in (0, 1))
    np.testing.assert_allclose((found * direction).sum(), moved - base, rtol=1e-4, atol=1e-4)
    assert np.isfinite(found).all()
    used = np.abs(found).reshape(-1, found.shape[-2], found.shape[-1]).max(axis=(0, 2)) > 0
    if name == "learned":
        assert used[:5].all() and not used[5:].any()
    elif name in ("shaw", "music_both"):  # all distances of the table occur, before the query and after it
        assert used.all()
    elif name == "t5":  # whose bucket of keys that are after the query by nothing is never used
        assert used.tolist() == [True, True, True, False, True, True]


@each
def test_positions_that_are_no_integers_are_refused(name):
    part, x = made(name), queries(3)
    for wrong, received in (
        (np.arange(3.0, dtype="float32"), "dtype=float32, shape=\\(3,\\)"),
        (np.int32(1), "shape=\\(\\)"),
    ):
        with pytest.raises(ValueError, match=received):
            part.scores(x, wrong, np.arange(3)) if name in SCORES else apply(part, x, wrong)
    if name in SCORES:
        with pytest.raises(ValueError, match="`key_positions` must be integers.*dtype=float32"):
            part.scores(x, np.arange(3), np.arange(3.0, dtype="float32"))


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"shaw", "music_both", "music_clip"}))
def test_a_table_for_other_heads_is_refused(name):
    with pytest.raises(ValueError, match="must have 3 heads, for which .* was made. Received: 5 heads"):
        made(name).scores(np.zeros((2, 3, 5, WIDTH), "float32"), np.arange(3), np.arange(3))


@pytest.mark.parametrize("heads", [0, 2.0, "three"])
@pytest.mark.parametrize("part", [AlibiBias, RelativePositionBias])
def test_numbers_of_heads_that_are_none_are_refused(part, heads):
    with pytest.raises(
        ValueError, match=f"`num_heads` must be a positive integer or None. Received: num_heads={heads}"
    ):
        part(num_heads=heads)


def test_a_part_without_heads_is_built_for_attention_or_at_its_first_scores():
    for part in (RelativePositionBias(), RelativePositionEmbedding(2, per_head=True)):
        assert not part.built
        part.build_for_attention(HEADS, WIDTH)
        assert part.built and part.num_heads is None
        assert part.weights[0].shape in ((32, HEADS), (HEADS, 5, WIDTH))
        clone = type(part).from_config(part.get_config())
        scores = clone.scores(queries(3), np.arange(3), np.arange(5))
        assert tuple(clone.weights[0].shape) == tuple(part.weights[0].shape) and tuple(scores.shape)[1:] == (
            HEADS,
            3,
            5,
        )
