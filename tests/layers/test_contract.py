"""What holds for every public layer: one check a test, over the table of `contract_cases`."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys

import contract_cases
import keras
import numpy as np
import pytest
from autodiff import weight_gradients
from contract_cases import CASES, NOT_LAYERS, T, built, call, cast, constructor, make, outputs, randomised
from keras import ops
from tiers import slow_but

from keras_transformer import layers

BACKEND = keras.backend.backend()
KERAS_OWNS = {"output_shape", *constructor(keras.layers.Layer), "activity_regularizer"}
# The relative error of one rounding. Results err by at most 4 times that, of the largest number in them; through the
# three sublayers of a block 2.4 was measured.
HALF_PRECISION = {"float16": 2.0**-11, "bfloat16": 2.0**-8}

each = pytest.mark.parametrize(
    "name", slow_but([name for name in CASES if name not in ("encoder block", "decoder block")], CASES)
)
FIRST = set({case.layer: name for name, case in reversed(CASES.items())}.values())


def first_of_each_layer(names):
    """Quick for the first case of each layer; the others are slow."""
    return pytest.mark.parametrize("name", slow_but(FIRST & set(names), names))


on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="a fact about TensorFlow")


# ---- the table is whole


def test_every_public_layer_is_in_the_table():
    names = {case.layer.__name__ for case in CASES.values()}
    assert names.isdisjoint(NOT_LAYERS)
    assert names | set(NOT_LAYERS) == set(layers.__all__)
    public = {name: getattr(layers, name) for name in layers.__all__}
    kinds = {name for name, x in public.items() if isinstance(x, type) and issubclass(x, keras.layers.Layer)}
    assert names == kinds - {"TokenDropout"}  # whose inputs are ids, which have no gradient and no half precision


@pytest.mark.parametrize("kind", dict.fromkeys(case.layer for case in CASES.values()), ids=lambda kind: kind.__name__)
def test_every_argument_is_away_from_its_default(kind):
    defaults = constructor(kind)
    given = [case.arguments() for case in CASES.values() if case.layer is kind]
    away = {name for arguments in given for name, value in arguments.items() if value != defaults[name]}
    assert away == set(defaults)


def test_every_argument_of_a_call_is_away_from_its_default():
    for kind in dict.fromkeys(case.layer for case in CASES.values()):
        defaults = {name: p.default for name, p in inspect.signature(kind.call).parameters.items()}
        expected = set(defaults) - {"self", "training", "mask"}
        cases = [{**case.inputs, **case.call} for case in CASES.values() if case.layer is kind]
        away = {n for case in cases for n, x in case.items() if isinstance(x, (np.ndarray, dict)) or x != defaults[n]}
        assert away == expected, kind


# ---- the config is the constructor


@each
def test_config_round_trips_through_json(name):
    layer = make(CASES[name], name="the_layer", dtype="bfloat16", trainable=False)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    clone = keras.saving.deserialize_keras_object(config)
    assert clone.get_config() == layer.get_config()
    assert (clone.name, clone.dtype_policy.name, clone.trainable) == ("the_layer", "bfloat16", False)
    assert set(constructor(CASES[name].layer)) <= set(layer.get_config())


@each
def test_config_is_untouched_by_build_and_call(name):
    case = CASES[name]
    layer = make(case)
    before = json.dumps(layer.get_config())
    call(layer, case, cast(case.inputs, "float32"))
    assert json.dumps(layer.get_config()) == before


@each
def test_each_argument_is_an_attribute(name):
    case = CASES[name]
    arguments = case.arguments()
    layer = case.layer(**arguments)
    for argument in set(constructor(case.layer)) - KERAS_OWNS:
        attribute = getattr(layer, argument)
        value = arguments.get(argument)
        if isinstance(value, (bool, int, float, tuple)):
            assert attribute == value
        elif argument == "position" and value is not None:
            assert attribute is value  # shared, not cloned


# ---- symbolic, eager, graph and XLA


def symbolic_inputs(case, dtype, dynamic):
    # JAX cannot tell whether an unknown number of tokens fits into a cache.
    lengths = () if BACKEND == "jax" and "cache" in case.inputs else (T, contract_cases.S)

    def symbolic(x):
        shape = (None, *(None if size in lengths else size for size in x.shape[1:]))
        return keras.Input(
            batch_shape=shape[: x.ndim] if dynamic else x.shape,
            dtype=dtype if x.dtype == "float32" else str(x.dtype),
        )

    return keras.tree.map_structure(symbolic, case.inputs)


@each
def test_symbolic_shapes_and_dtypes_are_the_real_ones(name):
    case, layer = CASES[name], built(name, "mixed_bfloat16")
    real = call(layer, case, cast(case.inputs, layer.compute_dtype))
    static, dynamic = (call(layer, case, symbolic_inputs(case, layer.compute_dtype, d)) for d in (False, True))
    keras.tree.assert_same_structure(static, real)
    keras.tree.assert_same_structure(dynamic, real)
    for x, known, unknown in zip(*map(keras.tree.flatten, (real, static, dynamic))):
        assert known.shape == tuple(x.shape)
        assert len(unknown.shape) == len(x.shape)
        assert all(a in (None, b) for a, b in zip(unknown.shape, x.shape))
        assert known.dtype == unknown.dtype == keras.backend.standardize_dtype(x.dtype)
        if not any(size in (T, contract_cases.S) for size in x.shape[-1:]):
            assert unknown.shape[-1:] == tuple(x.shape[-1:])


def assert_compiled_equals_eager(name, jit_compile):
    import tensorflow as tf

    case, layer = CASES[name], built(name)
    inputs = cast(case.inputs, "float32")
    expected = outputs(call(layer, case, inputs))
    found = outputs(tf.function(lambda inputs: call(layer, case, inputs), jit_compile=jit_compile)(inputs))
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max(initial=0)))


@pytest.mark.integration
@on_tensorflow
@each
def test_a_graph_equals_eager(name):
    assert_compiled_equals_eager(name, jit_compile=False)


@pytest.mark.integration
@on_tensorflow
@first_of_each_layer(CASES)
def test_xla_equals_eager(name):
    assert_compiled_equals_eager(name, jit_compile=True)


# ---- gradients and precision


@each
def test_a_gradient_reaches_every_weight(name):
    case, layer = CASES[name], built(name)
    inputs = cast(case.inputs, "float32")
    rng = np.random.default_rng(0)
    upstream = [ops.convert_to_tensor(rng.normal(size=x.shape), "float32") for x in outputs(call(layer, case, inputs))]

    def loss():
        results = keras.tree.flatten(call(layer, case, inputs))
        return sum(ops.sum(ops.cast(x, "float32") * u) for x, u in zip(results, upstream))

    if not layer.trainable_weights:
        pytest.skip("has no weights")
    found = dict(zip((w.path for w in layer.trainable_weights), weight_gradients(layer.trainable_weights, loss)))
    largest = {path: float(np.abs(gradient).max()) for path, gradient in found.items()}
    unreached = {path for path, size in largest.items() if not 1e-4 < size < np.inf}
    assert {end for end in case.unreached if any(path.endswith(end) for path in unreached)} == set(case.unreached)
    assert [path for path in unreached if not path.endswith(tuple(case.unreached))] == []


@each
@pytest.mark.parametrize("dtype", HALF_PRECISION)
def test_half_precision_is_near_float64(name, dtype):
    case, half = CASES[name], built(name, dtype)
    # JAX has float64 only if told so when it starts, and Keras on PyTorch makes float32 of it in its products.
    wide = "float64" if BACKEND == "tensorflow" else "float32"
    exact = built(name, wide)
    for weight, rounded in zip(exact.weights, half.weights):
        weight.assign(ops.cast(rounded, wide))
    inputs = cast(case.inputs, dtype)
    found = call(half, case, inputs)
    expected = call(exact, case, keras.tree.map_structure(lambda x: ops.cast(x, wide) if is_float(x) else x, inputs))
    for a, b in zip(outputs(found), outputs(expected)):
        assert np.abs(a - b).max() <= 4 * HALF_PRECISION[dtype] * np.abs(b).max()


def is_float(x):
    return "float" in keras.backend.standardize_dtype(x.dtype)


# ---- files


def functional(layer, case):
    """A Functional model of the layer alone. Inputs are a flat list, since Keras sorts the keys of dicts."""
    inputs = symbolic_inputs(case, "float32", dynamic=True)
    return keras.Model(keras.tree.flatten(inputs), call(layer, case, inputs))


@keras.saving.register_keras_serializable(package="contract")
class Subclassed(keras.Model):
    """What a user writes who subclasses: a layer, called with the model's inputs and with constants."""

    def __init__(self, layer, first, constants, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.first = first
        self.constants = constants

    def call(self, inputs):
        others = {name: x for name, x in inputs.items() if name != self.first}
        return self.layer(inputs[self.first], **others, **self.constants)

    def get_config(self):
        return {**super().get_config(), "layer": self.layer, "first": self.first, "constants": self.constants}

    @classmethod
    def from_config(cls, config):
        return cls(**keras.saving.deserialize_keras_object(config))


def assert_survives(model, inputs, path):
    expected = outputs(model(inputs))
    model.save(path)
    found = outputs(keras.models.load_model(path)(inputs))
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


@pytest.mark.integration
@each
def test_a_functional_model_is_saved_and_loaded(name, tmp_path):
    case = CASES[name]
    inputs = keras.tree.flatten(cast(case.inputs, "float32"))
    assert_survives(functional(built(name), case), inputs, tmp_path / "model.keras")


@pytest.mark.integration
@pytest.mark.parametrize("name", sorted(FIRST))
def test_a_subclassed_model_is_saved_and_loaded(name, tmp_path):
    case = CASES[name]
    inputs = {key: x for key, x in case.inputs.items() if isinstance(x, np.ndarray) and x.dtype == "float32"}
    constants = {key: x for key, x in case.inputs.items() if key not in inputs}
    model = Subclassed(make(case), next(iter(case.inputs)), {**constants, **case.call})
    model(inputs)
    randomised(model)
    assert_survives(model, inputs, tmp_path / "model.keras")


# ---- masks that Keras carries along

MASKED = {
    "attention of masks and scores": {"query": "query_mask", "value": "value_mask", "key": "key_mask"},
    "encoder block": {"inputs": "padding_mask"},
    "decoder block": {"decoder_sequence": "decoder_padding_mask", "encoder_sequence": "encoder_padding_mask"},
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_of_the_inputs_count_as_those_of_the_call(name):
    case, layer = CASES[name], built(name)
    inputs = cast(case.inputs, "float32")
    expected = outputs(call(layer, case, inputs))
    without = {key: x for key, x in inputs.items() if key not in MASKED[name].values()}
    unmasked = outputs(call(layer, case, without))
    for tensor, argument in MASKED[name].items():
        without[tensor]._keras_mask = inputs[argument]
    changed = []
    real = contract_cases.padding(T, *case.inputs[next(iter(MASKED[name].values()))].sum(1))
    for a, b, c in zip(outputs(call(layer, case, without)), expected, unmasked):
        if a.ndim == 4:  # scores, of which the queries are the third axis
            a, b, c = (np.swapaxes(x, 1, 2) for x in (a, b, c))
        # What becomes of a padded position is nobody's business: a mask that Keras carries hides it as a query too.
        np.testing.assert_allclose(a[real], b[real], atol=1e-6)
        changed.append(np.abs(a - c)[real].max())
    assert max(changed) > 1e-3


@each
def test_the_mask_of_the_first_input_is_passed_on(name):
    case, layer = CASES[name], built(name)
    inputs = cast(case.inputs, "float32")
    first, *_ = inputs.values()
    first._keras_mask = ops.convert_to_tensor(contract_cases.padding(T, 5, 3))
    result, *_ = keras.tree.flatten(call(layer, case, inputs))  # warnings are errors
    if isinstance(layer, (layers.AlibiBias, layers.RelativePositionBias, layers.RelativePositionEmbedding)):
        assert getattr(result, "_keras_mask", None) is None  # that of queries is none of scores
    else:
        assert result._keras_mask is first._keras_mask


# ---- LoRA and int8


def projections(layer):
    """The built layers within `layer` that Keras can adapt and quantize."""
    found = {}
    for values in vars(layer).values():
        for x in values if isinstance(values, list) else [values]:
            if isinstance(x, (keras.layers.Dense, keras.layers.EinsumDense)) and x.built:
                found[id(x)] = x
            elif isinstance(x, keras.layers.Layer):
                found |= {id(inner): inner for inner in projections(x)}
    return list(found.values())


PROJECTING = [name for name, case in CASES.items() if case.layer.__name__.endswith(("Attention", "Block", "Forward"))]


@first_of_each_layer(PROJECTING)
def test_lora_of_each_projection_counts(name):
    case, layer = CASES[name], built(name)
    inputs = cast(case.inputs, "float32")
    before = outputs(call(layer, case, inputs))[0]
    found = projections(layer)
    for projection in found:
        projection.kernel_constraint = None  # which Keras refuses to combine with it
        projection.enable_lora(2)
    np.testing.assert_allclose(outputs(call(layer, case, inputs))[0], before, atol=1e-6)  # it starts at zero
    assert not any(w.trainable for w in layer.weights if w.name == "kernel")
    for projection in found:
        projection.lora_kernel_b.assign(np.ones(projection.lora_kernel_b.shape))
        after = outputs(call(layer, case, inputs))[0]
        assert np.abs(after - before).max() > 1e-3
        before = after
    assert len(found) == sum("kernel" in w.path.split("/")[-1] and "lora" not in w.name for w in layer.weights)


# Keras's `quantize` warns of each layer that has nothing to quantize, its own `InputLayer` too.
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
@pytest.mark.integration
@pytest.mark.parametrize("name", slow_but(["attention over an axis", "gated feed-forward"], PROJECTING))
def test_a_quantized_model_is_near_its_own_before_and_is_saved_and_loaded(name, tmp_path):
    case, layer = CASES[name], built(name)
    model = functional(layer, case)
    inputs = keras.tree.flatten(cast(case.inputs, "float32"))
    before = outputs(model(inputs))[0]
    model.quantize("int8")
    assert {projection.quantization_mode for projection in projections(layer)} == {"int8"}
    after = outputs(model(inputs))[0]
    # A kernel's numbers are off by 1/254 of the largest in their channel, as are those of what it is multiplied by.
    assert 0 < np.abs(after - before).max() < 0.05 * np.abs(before).max()
    assert_survives(model, inputs, tmp_path / "model.keras")


# ---- the three backends

INSTALLED = [
    name
    for name, package in {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}.items()
    if importlib.util.find_spec(package)
]


@pytest.mark.slow
@on_tensorflow  # once, not again on each of the backends
def test_backends_agree(tmp_path):
    results = {}
    for backend in INSTALLED:
        done = subprocess.run(
            [sys.executable, contract_cases.__file__, str(tmp_path / f"{backend}.npz")],
            env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        results[backend] = np.load(tmp_path / f"{backend}.npz")
    expected = results.pop("tensorflow")
    if not results:
        pytest.skip("neither JAX nor PyTorch is installed")
    for found in results.values():
        assert found.files == expected.files
        for name in expected.files:
            # float32 sums in another order, through at most three sublayers; dropout falls on the same elements.
            np.testing.assert_allclose(
                found[name], expected[name], atol=2e-5 * max(1, np.abs(expected[name]).max(initial=0)), err_msg=name
            )
