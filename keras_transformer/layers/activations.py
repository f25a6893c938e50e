"""Activations that Keras has no name for."""

import keras


@keras.saving.register_keras_serializable(package="keras_transformer")
def gelu_tanh(x):
    """`0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`: the GELU of GPT-2 and of T5 v1.1.

    Hendrycks and Gimpel 2016, section 2. Keras's "gelu" is the exact one, by the error function, as in BERT.
    """
    return keras.activations.gelu(x, approximate=True)
