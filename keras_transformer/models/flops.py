"""What a step of training costs: the model's floating-point operations, worked out from its weights."""

import math

import keras
import numpy as np

from keras_transformer.models.vocabulary_end import VocabularyEnd


def training_flops(model, x, y, sample_weight=None):
    """Floating-point operations that training on a batch takes at least: 6 for each kernel's weight and real token.

    A token that goes through a kernel of `n` weights takes `n` multiplications and `n` additions forward, and twice
    that backward, once for the gradient of what went in and once for the kernel's (Kaplan et al. 2020, section 2.1:
    `C = 6 N`). A kernel sees the tokens of its side: in an encoder-decoder those of the source go through the encoder
    and through the keys and values of cross-attention, those of the target through the rest of the decoder. The
    projection to the vocabulary counts as a kernel, for the tokens that have a label; embeddings are looked up and
    count nothing. Padding counts nothing.

    Differs from the truth: attention's scores and weighted sums are left out, `length / (6 D)` of a block's kernels for
    each token (2 % at 30 tokens and `D` of 256), as are norms, activations and the optimizer. Recomputation
    (rematerialisation) is no progress and is not counted.

    Args:
        model: a model of `keras_transformer.models`.
        x, y, sample_weight: as `fit` hands them to the model.

    Returns:
        A float.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.models import CausalLM, training_flops
    >>> model = CausalLM(100, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=32)
    >>> ids = np.ones((2, 5), "int32")  # attention 4 x 8 x 8, feed-forward 2 x 8 x 32, vocabulary 8 x 100
    >>> training_flops(model, {"token_ids": ids}, ids) == 6 * (2 * 5) * (4 * 8 * 8 + 2 * 8 * 32 + 8 * 100)
    True
    """
    labels = np.count_nonzero(_numpy(sample_weight)) if sample_weight is not None else math.prod(y.shape)
    if hasattr(model, "encoder_blocks"):
        total = sum(_kernels(block) for block in model.decoder_blocks)
        cross = [block._cross_attention_layer for block in model.decoder_blocks]
        of_source = sum(_kernels(attention.key_dense) + _kernels(attention.value_dense) for attention in cross)
        source = sum(_kernels(block) for block in model.encoder_blocks) + of_source
        sides = source * _real_source(model, x) + (total - of_source) * labels
    else:
        blocks = model.blocks if hasattr(model, "blocks") else model.encoder.blocks
        mask = x.get("padding_mask")
        ids = x["token_ids"]
        real = np.count_nonzero(_numpy(mask)) if mask is not None else math.prod(ids.shape)
        if mask is None and tuple(y.shape) == tuple(ids.shape) and not hasattr(model, "encoder"):
            real = labels
        sides = sum(_kernels(block) for block in blocks) * real
    return float(6 * (sides + _head(model) * labels))


def _kernels(layer):
    """How many weights all kernels of a layer have."""
    return sum(math.prod(weight.shape) for weight in layer.weights if weight.name == "kernel")


def _head(model):
    if isinstance(model, VocabularyEnd):
        return math.prod(model.output_table().shape)
    return _kernels(model.output_dense)


def _real_source(model, x):
    for name in ("encoder_padding_mask", "encoder_segment_ids"):
        if x.get(name) is not None:
            return np.count_nonzero(_numpy(x[name]))
    ids = _numpy(x["encoder_token_ids"])
    return ids.size if model.pad_token_id is None else np.count_nonzero(ids != model.pad_token_id)


def _numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)
