"""PICTURES: which word looks at which, and how learning went. Needs matplotlib."""

from keras_transformer.visualization.attention import plot_attention
from keras_transformer.visualization.learning_curve import plot_learning_curve

__all__ = ["plot_attention", "plot_learning_curve"]
