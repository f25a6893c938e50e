"""Residual connections: how a sublayer is wired into the stream of states, one line for each way of doing it."""

import keras

from keras_transformer.layers.parts import as_part, clone


class Residual:
    """The wiring of a sublayer, its normalisations and the sum; blocks own the layers and call it with them.

    Args:
        branch: a layer, or a list of them, that the sublayer's output passes on its way to the sum, such as
            `StochasticDepth` and `LayerScale`; each sublayer of a block gets its own clones.

    A further way is a subclass: `__call__` is its formula.
    """

    norms: tuple[str, ...] = ("layer_norm",)
    """Names of the normalisations that the formula takes."""

    output_is_normalized = False
    """Whether a stack of blocks needs no normalisation at its end."""

    def __init__(self, branch=None):
        layers = branch if isinstance(branch, (list, tuple)) else [branch]
        layers = [as_part(layer, "branch", keras.layers.Layer, "StochasticDepth(0.1)") for layer in layers]
        self.branch = [clone(layer) for layer in layers if layer is not None]

    def __call__(self, x, sublayer, add, *norms):
        """The states after the sublayer.

        Args:
            x: `(B, T, D)`.
            sublayer: a function of such a tensor to another, dropout included.
            add: a function of two of them: the first, and the second after the branch's layers.
            *norms: a normalisation for each name in `norms`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(x, sublayer, add, *norms)`.")

    def get_config(self):
        return {"branch": [keras.saving.serialize_keras_object(layer) for layer in self.branch]}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_transformer")
class PostNorm(Residual):
    """`norm(x + sublayer(x))` (Vaswani et al. 2017, section 3.1).

    Args: as in `Residual`.
    """

    output_is_normalized = True

    def __call__(self, x, sublayer, add, norm):
        return norm(add(x, sublayer(x)))


@keras.saving.register_keras_serializable(package="keras_transformer")
class PreNorm(Residual):
    """`x + sublayer(norm(x))` (Xiong et al. 2020, table 1). A stack needs a normalisation at its end.

    Args: as in `Residual`.
    """

    def __call__(self, x, sublayer, add, norm):
        return add(x, sublayer(norm(x)))


@keras.saving.register_keras_serializable(package="keras_transformer")
class SandwichNorm(Residual):
    """`x + output_norm(sublayer(norm(x)))` (Ding et al. 2021, "CogView", section 2.4; DALL-E).

    Args: as in `Residual`.
    """

    norms = ("layer_norm", "output_layer_norm")

    def __call__(self, x, sublayer, add, norm, output_norm):
        return add(x, output_norm(sublayer(norm(x))))
