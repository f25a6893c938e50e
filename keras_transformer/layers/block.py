"""What the encoder's and the decoder's block share: their arguments and how they make and wire their sublayers."""

import keras

from keras_transformer.layers.arguments import (
    check_booleans,
    check_positive_integers,
    check_positive_numbers,
    check_rates,
)
from keras_transformer.layers.attention import MultiHeadAttention
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.initializers import clone_initializer
from keras_transformer.layers.normalization import LayerNormalization
from keras_transformer.layers.parts import as_part, as_position_part, clone, shared_config
from keras_transformer.layers.quantized import QuantizableLayer
from keras_transformer.layers.rematerialization import Rematerialized
from keras_transformer.layers.residual import PostNorm, PreNorm, Residual
from keras_transformer.layers.results import unpack

PATTERNS = {  # the parts that each sublayer gets a clone of: their class and an example
    "attention": (MultiHeadAttention, "MultiHeadAttention(num_heads=8, key_dim=64, use_bias=False)"),
    "feed_forward": (keras.layers.Layer, 'GatedFeedForward(2048, activation="silu")'),
    "normalization": (keras.layers.Layer, "keras.layers.RMSNormalization(epsilon=1e-6)"),
    "residual": (Residual, "SandwichNorm()"),
}


def set_patterns(owner, **parts):
    """The parts, without weights, as attributes of `owner`. Keras tracks none of them: sublayers are their clones."""
    for name, value in parts.items():
        part = as_part(value, name, *PATTERNS[name])
        owner.__dict__[name] = None if part is None else clone(part)


def patterns_config(owner):
    return {name: keras.saving.serialize_keras_object(getattr(owner, name)) for name in PATTERNS}


class Block(Rematerialized, QuantizableLayer):
    """Sublayers in residual connections. Its layers have the names and the order of KerasHub's."""

    def __init__(
        self,
        intermediate_dim,
        num_heads,
        dropout=0.0,
        activation="relu",
        layer_norm_epsilon=1e-5,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        normalize_first=False,
        attention_dropout=None,
        key_dim=None,
        position=None,
        attention=None,
        feed_forward=None,
        normalization=None,
        residual=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive_integers(intermediate_dim=intermediate_dim, num_heads=num_heads)
        if key_dim is not None:
            check_positive_integers(key_dim=key_dim)
        check_rates(dropout=dropout)
        if attention_dropout is not None:
            check_rates(attention_dropout=attention_dropout)
        check_positive_numbers(layer_norm_epsilon=layer_norm_epsilon)
        check_booleans(normalize_first=normalize_first)
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.activation = keras.activations.get(activation)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.normalize_first = normalize_first
        self.attention_dropout = attention_dropout
        self.key_dim = key_dim
        set_patterns(
            self, attention=attention, feed_forward=feed_forward, normalization=normalization, residual=residual
        )
        self.__dict__["position"] = as_position_part(position)  # not tracked here: attention owns and builds it
        if getattr(self.attention, "position", None) is not None:
            raise ValueError(
                "The `position` of `attention` would be cloned with it, once a sublayer, and count in attention to an "
                f"encoder too. Received: attention.position={self.attention.position}. Hand it in as `position`."
            )
        self._wiring = self.residual or (PreNorm() if normalize_first else PostNorm())
        self.supports_masking = True

    @property
    def output_is_normalized(self):
        """Whether a stack of such blocks needs no normalisation at its end."""
        return self._wiring.output_is_normalized

    def _build_attention(self, query_shape, value_shape, name, position=None):
        given = {"name": name, "dtype": self.dtype_policy}
        if position is not None:
            given["position"] = position
        if self.attention is not None:
            attention = clone(self.attention, **given)
        else:
            attention = MultiHeadAttention(
                num_heads=self.num_heads,
                key_dim=self.key_dim or self._width_of_a_head(query_shape[-1]),
                dropout=self.dropout if self.attention_dropout is None else self.attention_dropout,
                kernel_initializer=clone_initializer(self.kernel_initializer),
                bias_initializer=clone_initializer(self.bias_initializer),
                **given,
            )
        attention.build(query_shape, value_shape)
        return attention

    def _width_of_a_head(self, width):
        if width is None or width < self.num_heads:
            raise ValueError(
                "The width of the input must be known and at least `num_heads`, unless `key_dim` is given. "
                f"Received: width={width}, num_heads={self.num_heads}"
            )
        return width // self.num_heads

    def _build_feed_forward(self, shape):
        if self.feed_forward is not None:
            return self._build_clone(self.feed_forward, shape, "feedforward")
        feed_forward = FeedForward(
            self.intermediate_dim,
            activation=self.activation,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            bias_initializer=clone_initializer(self.bias_initializer),
            dtype=self.dtype_policy,
            name="feedforward",
        )
        feed_forward.build(shape)
        return feed_forward

    def _build_residual(self, shape, name):
        """The layers of the residual connection around the sublayer `name`, as attributes."""
        normalization = self.normalization or LayerNormalization(epsilon=self.layer_norm_epsilon)
        for norm in self._wiring.norms:
            setattr(self, f"_{name}_{norm}", self._build_clone(normalization, shape, f"{name}_{norm}"))
        setattr(self, f"_{name}_dropout", Dropout(self.dropout, dtype=self.dtype_policy, name=f"{name}_dropout"))
        branch = [
            self._build_clone(layer, shape, f"{name}_branch_{index}") for index, layer in enumerate(self._wiring.branch)
        ]
        setattr(self, f"_{name}_branch", branch)

    def _build_clone(self, part, shape, name):
        layer = clone(part, name=name, dtype=self.dtype_policy)
        layer.supports_masking = True  # else Keras warns that a mask is lost: the block passes it on
        layer.build(shape)
        return layer

    def _residual(self, x, sublayer, name, training):
        norms = [getattr(self, f"_{name}_{norm}") for norm in self._wiring.norms]
        dropout, branch = getattr(self, f"_{name}_dropout"), getattr(self, f"_{name}_branch")

        def dropped(x):
            return dropout(sublayer(x), training=training)

        def add(x, y):
            if x.shape[-1] != y.shape[-1]:
                raise ValueError(
                    f"A sublayer must return the width that it is given, to be added to it. Received: {name} of width "
                    f"{y.shape[-1]} for {x.shape[-1]}. Hand in an `attention` or a `feed_forward` that keeps the width."
                )
            for layer in branch:
                y = layer(y, training=training)
            return x + y

        return self._wiring(x, dropped, add, *norms)

    def _attention(self, name, scores, caches, memory=None, **arguments):
        """Attention as a function of one tensor to another; what else was asked for goes into the two dicts.

        Args:
            name: "self" or "cross".
            scores, caches: None, where they are not asked for; or a dict, in which the entry `name` is set.
            memory: what is attended to; None: the tensor itself, or with "cross" what is in the cache.
            **arguments: of the attention layer; None says nothing.
        """
        layer = getattr(self, f"_{name}_attention_layer")
        arguments = {key: value for key, value in arguments.items() if value is not None}

        def attend(x):
            results = layer(
                x,
                x if name == "self" else memory,
                return_attention_scores=scores is not None,
                **({} if caches is None else {"cache": caches[name]}),
                **arguments,
            )
            output, new_scores, new_cache = unpack(results, scores is not None, caches is not None)
            if scores is not None:
                scores[name] = new_scores
            if caches is not None:
                caches[name] = new_cache
            return output

        return attend

    def compute_output_spec(self, *args, **kwargs):
        # Not `Layer`'s, which asks `compute_output_shape` alone: scores and caches are asked for at the call.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "normalize_first": self.normalize_first,
            "attention_dropout": self.attention_dropout,
            "key_dim": self.key_dim,
            "position": shared_config(self.position),
            **patterns_config(self),
        }
