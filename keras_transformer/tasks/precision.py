"""A model that was trained in half precision, in float32: to be served on a CPU, and to answer alike everywhere."""

import keras


def in_float32(model):
    """`model` itself, or a copy in float32 with its weights if any part of it computes in half precision."""
    config = keras.saving.serialize_keras_object(model)
    changed = _in_float32(config)
    if changed == config:
        return model
    copy = keras.saving.deserialize_keras_object(changed)
    copy.set_weights(model.get_weights())
    return copy


def _in_float32(config):
    if isinstance(config, dict):
        return {
            key: "float32" if key == "dtype" and _is_half(value) else _in_float32(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float32(value) for value in config)
    return config


def _is_half(policy):
    name = policy.get("config", {}).get("name", "") if isinstance(policy, dict) else str(policy)
    return name.endswith("float16")
