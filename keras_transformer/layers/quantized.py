"""Quantized sublayers that a saved model still has when it is loaded.

`keras.Model.quantize` goes down to the `Dense`, `EinsumDense` and embedding layers and quantizes those. They are made
by the layers that hold them, whose own configs know nothing of it: without more, loading makes them of floats again,
and then has no place for the weights of the file (as with `keras.layers.MultiHeadAttention` 3.15).
"""

import keras


class QuantizableLayer(keras.layers.Layer):
    """A layer that makes its sublayers in `build`: its build config says which of them are quantized."""

    def get_build_config(self):
        found = quantizations(self)
        config = super().get_build_config()
        return {**(config or {}), "quantized": found} if found else config

    def build_from_config(self, config):
        super().build_from_config(config)
        quantize(self, (config or {}).get("quantized", {}))


class QuantizableModel(keras.Model):
    """A model that makes its layers in `__init__`, and so is built before anyone looks at a build config."""

    def get_config(self):
        found = quantizations(self)
        return {**super().get_config(), **({"quantized": found} if found else {})}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        arguments = {name: value for name, value in config.items() if name != "quantized"}
        model = super().from_config(arguments, custom_objects)
        quantize(model, config.get("quantized", {}))
        return model


def quantizations(owner):
    """How each sublayer of `owner` is quantized that is: `{"attribute/attribute": {"mode": ..., "config": ...}}`."""
    return {
        path: {
            "mode": layer.quantization_mode,
            "config": keras.saving.serialize_keras_object(layer.quantization_config),
        }
        for path, layer in sublayers(owner)
        if layer.quantization_mode is not None and hasattr(layer, "quantization_config")
    }


def changed_sublayers(owner):
    """What `quantize` and `enable_lora` did to the sublayers of `owner`, as a value that can be compared."""
    return tuple(
        (path, layer.quantization_mode, getattr(layer, "lora_enabled", False))
        for path, layer in sublayers(owner)
        if layer.quantization_mode is not None or getattr(layer, "lora_enabled", False)
    )


def quantize(owner, found):
    """Quantizes the sublayers of `owner` as `quantizations` said, those that are not yet."""
    layers = dict(sublayers(owner))
    for path, arguments in found.items():
        if layers[path].quantization_mode is None:
            config = keras.saving.deserialize_keras_object(arguments["config"])
            layers[path].quantize(arguments["mode"], config=config)


def sublayers(owner, before="", seen=None):
    """`(path, layer)` of all layers within `owner`, each once, by the attributes that lead to it.

    Most often that is the list that Keras keeps of them. On PyTorch there is no other way: a layer is a module, which
    does not have its submodules as attributes of its own.
    """
    seen = {id(owner)} if seen is None else seen
    for name, value in vars(owner).items():
        for index, layer in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            if isinstance(layer, keras.layers.Layer) and id(layer) not in seen:
                seen.add(id(layer))
                path = f"{before}{name}/{index}" if isinstance(value, (list, tuple)) else before + name
                yield path, layer
                yield from sublayers(layer, path + "/", seen)
