"""How the weights of the models here are split over devices: Megatron-LM's scheme (Shoeybi et al. 2019, section 3)."""

import keras

_SPLIT = {
    # Attention: whole heads on a device, (D, H, K) and (H, K, D). A bias after the sum over heads is everyone's.
    r"(query|key|value|gate)/kernel": (None, "model", None),
    r"(query|key|value|gate)/bias": ("model", None),
    r"attention_output/kernel": ("model", None, None),
    # Feed-forward: its inner width.
    r"feedforward/(intermediate|gate)_dense/kernel": (None, "model"),
    r"feedforward/(intermediate|gate)_dense/bias": ("model",),
    r"feedforward/output_dense/kernel": ("model", None),
    # The vocabulary, on its way in and out.
    r"(target_)?token_embedding/embeddings": ("model", None),
    r"(target_)?token_embedding/reverse_embeddings": (None, "model"),
    r"output_bias": ("model",),
}


def layout_map(device_mesh, model_axis="model"):
    """The `keras.distribution.LayoutMap` under which all models here are split: heads, feed-forward and vocabulary.

    Of two products one after another, the first is split by what comes out and the second by what goes in, so that
    a sublayer needs one sum over devices. Norms, tables of positions and of segments, biases that are added after that
    sum, poolers and heads of a few classes are on all devices.

    The number of heads (and of `num_key_value_heads`), `intermediate_dim` and the vocabulary must be multiples of how
    many devices `model_axis` has. A vocabulary is made so by ids that no text has.

    Args:
        device_mesh: a `keras.distribution.DeviceMesh` with an axis of the name `model_axis`.
        model_axis: the axis to split over.

    Raises:
        ValueError: if the mesh has no such axis.

    Example:

    >>> import keras
    >>> from keras_transformer import models
    >>> mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"), devices=["cpu:0"])
    >>> tuple(models.layout_map(mesh)["encoder/block_0/self_attention_layer/query/kernel"].axes)
    (None, 'model', None)
    """
    if model_axis not in device_mesh.axis_names:
        raise ValueError(
            f"`device_mesh` must have the axis to split over. Received: model_axis={model_axis!r}, a mesh of the axes "
            f"{list(device_mesh.axis_names)}. Make it with DeviceMesh((2, 4), ('batch', {model_axis!r}))."
        )
    layouts = keras.distribution.LayoutMap(device_mesh)
    for path, axes in _SPLIT.items():
        layouts[f"(.*/)?{path}"] = tuple(model_axis if axis == "model" else None for axis in axes)
    return layouts
