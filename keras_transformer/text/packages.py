"""Packages of the extra `text`, imported where they are first needed, and what to do where one is missing."""

from types import ModuleType

import tensorflow as tf


def import_sentencepiece() -> ModuleType:
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError('sentencepiece is not installed: pip install "keras-transformer-layers[text]"') from error
    return sentencepiece


def import_tokenizers() -> ModuleType:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError('tokenizers is not installed: pip install "keras-transformer-layers[text]"') from error
    return tokenizers


def import_tensorflow_text() -> ModuleType:
    try:
        import tensorflow_text
    except ModuleNotFoundError as error:
        raise ImportError('tensorflow-text is not installed: pip install "keras-transformer-layers[text]"') from error
    except (ImportError, tf.errors.NotFoundError) as error:
        # Its libraries are built for one minor version of TensorFlow.
        minor = ".".join(tf.__version__.split(".")[:2])
        raise ImportError(
            f"tensorflow-text cannot load beside tensorflow {tf.__version__}; both must have the "
            f"minor version {minor}: "
            f'pip install "keras-transformer-layers[text]" "tensorflow-text=={minor}.*" '
            f"({one_line(error)})"
        ) from error
    return tensorflow_text


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
