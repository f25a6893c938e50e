"""CTranslate2, an inference engine in C++: a `Transformer` as one of its model directories.

The layout of the weights is declared in `ctranslate2.specs`, and that package's own writer writes them.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transformer import layers
from keras_transformer.generation.arguments import check_count
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.layers.positional_encoding import sinusoids
from keras_transformer.models import Transformer
from keras_transformer.models.vocabulary_end import output_table_of
from keras_transformer.training import complete_or_absent

ACTIVATIONS = {
    keras.activations.relu: "RELU",
    keras.activations.gelu: "GELU",
    layers.gelu_tanh: "GELUTanh",
    keras.activations.silu: "SWISH",
    keras.activations.tanh: "Tanh",
    keras.activations.sigmoid: "Sigmoid",
}


def to_ctranslate2(
    model: Transformer,
    path: Any,
    source_vocabulary: Any = None,
    target_vocabulary: Any = None,
    quantization: str | None = None,
    overwrite: bool = False,
    max_positions: int = 2048,
) -> None:
    """Writes `model` as a directory that `ctranslate2.Translator` loads.

    CTranslate2 takes and returns tokens, as strings. A source ends with the end token, as it does here; what is
    generated begins after the start token by itself. Its `length_penalty` is that of `generation.AverageLength`, and
    its beam search stops earlier than ours unless `patience` is large.

    Args:
        model: what it is made of must exist in CTranslate2: layer or RMS normalisation, before or after the sublayers,
            and `FeedForward` or `GatedFeedForward`.
        path: a directory that does not exist; it is there whole or not at all.
        source_vocabulary: the token of each id: a list of strings, or a tokenizer such as
            `text.SentencePieceTokenizer`; None: the ids themselves in writing, "0", "1", ... Ids of the model that
            it leaves out get tokens of their own.
        target_vocabulary: the same for the target; None: the source's if the model has one table for both, else the
            ids in writing.
        quantization: how the weights are stored: None (float32), "int8", "int8_float32", "int8_float16",
            "int8_bfloat16", "int16", "float16" or "bfloat16".
        overwrite: whether to replace a directory that exists.
        max_positions: the longest source, and the longest translation. The positions are a table there.

    Raises:
        ImportError: `ctranslate2` is not installed.
        FileExistsError: `path` exists.
        ValueError: an argument is wrong, or a part of the model has no counterpart; the message names it.

    Example:

    >>> import tempfile
    >>> import ctranslate2
    >>> from keras_transformer import interop, models
    >>> model = models.Transformer(11, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     interop.to_ctranslate2(model, f"{directory}/ct2")
    ...     engine = ctranslate2.Translator(f"{directory}/ct2")
    ...     [found] = engine.translate_batch([["5", "7", "3"]], max_decoding_length=4)
    >>> len(found.hypotheses[0]) <= 4
    True
    """
    specs = _import_specs()
    if not isinstance(model, Transformer):
        hint = " Pass `translator.model`." if hasattr(model, "model") else ""
        raise ValueError(f"`model` must be a `models.Transformer`. Received: a {type(model).__name__}.{hint}")
    known = specs.model_spec.ACCEPTED_MODEL_TYPES
    if quantization is not None and quantization not in known:
        raise ValueError(
            f"`quantization` must be None or one of {', '.join(known)}. Received: quantization={quantization!r}"
        )
    check_count("max_positions", max_positions)
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another path, or pass overwrite=True.")
    spec = _filled(specs, model, max_positions)
    _register_vocabularies(spec, model, source_vocabulary, target_vocabulary)
    spec.validate()
    spec.optimize(quantization=quantization)
    with complete_or_absent(path) as temporary:
        temporary.mkdir()
        spec.save(str(temporary))


def _filled(specs: ModuleType, model: Transformer, max_positions: int) -> Any:
    """The specification of `model`, with its weights."""
    block = model.decoder_blocks[0]
    attention, feed_forward = block._self_attention_layer, block._feedforward
    pre_norm = _is_pre_norm(model)
    options = {
        "pre_norm": pre_norm,
        "activation": _activation(specs, feed_forward),
        "ffn_glu": isinstance(feed_forward, layers.GatedFeedForward),
        "rms_norm": _is_rms_norm(block._feedforward_layer_norm),
    }
    _check_embeddings(model)
    _check_attention(model, attention)
    spec = specs.TransformerSpec(
        specs.TransformerEncoderSpec(model.num_layers, attention.num_heads, **options),
        specs.TransformerDecoderSpec(len(model.decoder_blocks), attention.num_heads, **options),
    )
    positions = ops.convert_to_numpy(sinusoids(ops.arange(max_positions), model.hidden_dim))
    spec.encoder.embeddings[0].weight = _float32(model.token_embedding.embeddings)
    spec.decoder.embeddings.weight = _float32(model.target_token_embedding.embeddings)
    if model.tie_word_embeddings:
        spec.decoder.projection.weight = spec.decoder.embeddings.weight
    else:
        spec.decoder.projection.weight = _float32(output_table_of(model.target_token_embedding))
    if model.use_output_bias:
        spec.decoder.projection.bias = _float32(model.output_bias)
    for side in (spec.encoder, spec.decoder):  # both multiply embeddings by sqrt(D) of themselves
        side.position_encodings.encodings = positions
    if pre_norm:
        _set_norm(spec.encoder.layer_norm, model.encoder_norm)
        _set_norm(spec.decoder.layer_norm, model.decoder_norm)
    for theirs, ours in zip(spec.encoder.layer, model.encoder_blocks, strict=True):
        _set_self_attention(theirs.self_attention, ours)
        _set_feed_forward(theirs.ffn, ours)
    for theirs, ours in zip(spec.decoder.layer, model.decoder_blocks, strict=True):
        _set_self_attention(theirs.self_attention, ours)
        _set_cross_attention(theirs.attention, ours)
        _set_feed_forward(theirs.ffn, ours)
    spec.config.layer_norm_epsilon = block._feedforward_layer_norm.epsilon
    return spec


# The underscored attributes of blocks are the paths in their weight files, which do not change.


def _set_self_attention(spec: Any, block: Any) -> None:
    attention = block._self_attention_layer
    _set_norm(spec.layer_norm, block._self_attention_layer_norm)
    _set_linear(spec.linear[0], attention.query_dense, attention.key_dense, attention.value_dense)
    _set_linear(spec.linear[1], attention.output_dense, contracted=2)


def _set_cross_attention(spec: Any, block: Any) -> None:
    attention = block._cross_attention_layer
    _set_norm(spec.layer_norm, block._cross_attention_layer_norm)
    _set_linear(spec.linear[0], attention.query_dense)
    _set_linear(spec.linear[1], attention.key_dense, attention.value_dense)
    _set_linear(spec.linear[2], attention.output_dense, contracted=2)


def _set_feed_forward(spec: Any, block: Any) -> None:
    feed_forward = block._feedforward
    _set_norm(spec.layer_norm, block._feedforward_layer_norm)
    if isinstance(feed_forward, layers.GatedFeedForward):
        _set_linear(spec.linear_0, feed_forward._gate_dense)
        _set_linear(spec.linear_0_noact, feed_forward._intermediate_dense)
    else:
        _set_linear(spec.linear_0, feed_forward._intermediate_dense)
    _set_linear(spec.linear_1, feed_forward._output_dense)


def _set_linear(spec: Any, *projections: Any, contracted: int = 1) -> None:
    """The projections side by side as one, with weights `(out, in)`; their first `contracted` axes are summed over."""
    weights = []
    for projection in projections:
        _check_numbers(projection)
        kernel = _float32(projection.kernel)
        weights.append(kernel.reshape(np.prod(kernel.shape[:contracted]), -1).T)
    spec.weight = np.concatenate(weights)
    if projections[0].bias is not None:
        spec.bias = np.concatenate([_float32(projection.bias).reshape(-1) for projection in projections])


def _check_numbers(layer: Any) -> None:
    if layer.quantization_mode is not None:
        raise ValueError(
            "`model` must have its weights as numbers, CTranslate2 quantizes them itself. Received: "
            f"{layer.path} quantized to {layer.quantization_mode}. Load them into a model that is not."
        )


def _set_norm(spec: Any, norm: Any) -> None:
    if isinstance(norm, keras.layers.RMSNormalization):
        spec.gamma = _float32(norm.scale)
    else:
        spec.gamma, spec.beta = _float32(norm.gamma), _float32(norm.beta)


def _float32(weight: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(weight), "float32")


# What CTranslate2 has no counterpart of


def _unsupported(argument: str, received: Any, supported: str) -> ValueError:
    return ValueError(
        f"CTranslate2 cannot express this `{argument}` of the model. Received: {argument}={received!r}. "
        f"It can: {supported}."
    )


def _is_pre_norm(model: Transformer) -> bool:
    residual = model.residual
    if residual is None:
        return model.normalize_first
    # A branch may hold what does nothing in inference, such as stochastic depth.
    idle = all(isinstance(layer, (layers.Dropout, keras.layers.Dropout)) for layer in residual.branch)
    if type(residual) not in (layers.PostNorm, layers.PreNorm) or not idle:
        received = f"{type(residual).__name__}({[type(layer).__name__ for layer in residual.branch]})"
        raise _unsupported("residual", received, "PostNorm and PreNorm, with nothing but dropout on the branch")
    return type(residual) is layers.PreNorm


def _is_rms_norm(norm: Any) -> bool:
    over_last = norm.axis in (-1, 2, [-1], [2])
    if type(norm) is keras.layers.RMSNormalization and over_last:
        return True
    known = type(norm) in (keras.layers.LayerNormalization, LayerNormalization)
    if not (known and over_last and norm.center and norm.scale and not norm.rms_scaling):
        raise _unsupported(
            "normalization",
            norm,
            "layer normalisation with gain and bias, and `keras.layers.RMSNormalization`, over the last axis",
        )
    return False


def _activation(specs: ModuleType, feed_forward: Any) -> Any:
    if type(feed_forward) not in (layers.FeedForward, layers.GatedFeedForward):
        raise _unsupported("feed_forward", feed_forward, "FeedForward and GatedFeedForward")
    if feed_forward.activation not in ACTIVATIONS:
        names = ", ".join(function.__name__ for function in ACTIVATIONS)
        raise _unsupported("activation", getattr(feed_forward.activation, "__name__", feed_forward.activation), names)
    return specs.common_spec.Activation[ACTIVATIONS[feed_forward.activation]]


def _check_embeddings(model: Transformer) -> None:
    _check_numbers(model.token_embedding)
    _check_numbers(model.target_token_embedding)
    for name, supported in (
        ("encoder_position", "the paper's sinusoids"),
        ("decoder_position", "the paper's sinusoids"),
        ("embedding_scale", "embeddings times the square root of their width"),
    ):
        received = getattr(model, name)
        if received is not None:
            raise _unsupported(name, received, f"{supported}, which is None")


def _check_attention(model: Transformer, attention: Any) -> None:
    if type(attention) is not layers.MultiHeadAttention:
        raise _unsupported("attention", attention, "MultiHeadAttention")
    width = model.hidden_dim // attention.num_heads
    for name, allowed, supported in (
        ("use_gate", (False,), "attention without a gate"),
        ("sliding_window", (None,), "attention without a window"),
        ("pattern", (None,), "attention without a pattern"),
        ("num_key_value_heads", (None, attention.num_heads), "as many heads of keys and values as of queries"),
        ("key_dim", (width,), f"heads of the width hidden_dim / num_heads, {width}"),
        ("value_dim", (width,), f"heads of the width hidden_dim / num_heads, {width}"),
    ):
        received = getattr(attention, name)
        if received not in allowed:
            raise _unsupported(f"attention.{name}", received, supported)


# Vocabularies


def _register_vocabularies(spec: Any, model: Transformer, source_vocabulary: Any, target_vocabulary: Any) -> None:
    if target_vocabulary is None and model.target_vocabulary_size is None:
        target_vocabulary = source_vocabulary
    source = _tokens("source_vocabulary", source_vocabulary, model.vocabulary_size)
    target = _tokens("target_vocabulary", target_vocabulary, model.target_vocabulary_size or model.vocabulary_size)
    spec.register_source_vocabulary(source)
    spec.register_target_vocabulary(target)
    special = {"unk_token": model.unk_token_id, "bos_token": model.start_token_id, "eos_token": model.end_token_id}
    for name, token_id in special.items():
        if not 0 <= token_id < min(len(source), len(target)):
            raise ValueError(
                f"The {name} must have an id in both vocabularies. Received: {token_id}, with vocabularies of "
                f"{len(source)} and {len(target)}. Give the model another id."
            )
        if source[token_id] != target[token_id]:
            raise ValueError(
                f"`source_vocabulary` and `target_vocabulary` must have one {name}, at the id {token_id}. "
                f"Received: {source[token_id]!r} and {target[token_id]!r}."
            )
        setattr(spec.config, name, target[token_id])
    spec.config.decoder_start_token = spec.config.bos_token


def _tokens(argument: str, vocabulary: Any, size: int) -> list[str]:
    """The token of each of `size` ids."""
    if vocabulary is None:
        return [str(token_id) for token_id in range(size)]
    if hasattr(vocabulary, "pieces"):
        vocabulary = vocabulary.pieces(range(vocabulary.vocabulary_size))
    if isinstance(vocabulary, str) or not isinstance(vocabulary, Sequence):
        raise ValueError(
            f"`{argument}` must be a list of tokens, or a tokenizer with `pieces` and `vocabulary_size`. "
            f"Received: {vocabulary!r}"
        )
    tokens = list(vocabulary)
    if len(tokens) > size:
        raise ValueError(
            f"`{argument}` must not have more tokens than the model has embeddings. "
            f"Received: {len(tokens)} tokens, {size} embeddings. Use the one it was trained with."
        )
    tokens += [f"<unused_{token_id}>" for token_id in range(len(tokens), size)]
    first: dict[str, int] = {}
    for token_id, token in enumerate(tokens):
        if not isinstance(token, str) or token in first:
            same = f", as of id {first[token]}" if isinstance(token, str) else ""
            raise ValueError(
                f"`{argument}` must have a string of its own for each id. Received: {token!r} of id {token_id}{same}."
            )
        first[token] = token_id
    return tokens


def _import_specs() -> ModuleType:
    try:
        import ctranslate2
    except ImportError as error:
        raise ImportError('ctranslate2 is not installed: pip install "keras-transformer-layers[interop]"') from error
    return ctranslate2.specs
