"""PICTURES: which word looks at which, who may look at whom, which label is taken for which, and how learning went.

Needs matplotlib.
"""

from keras_transformer.visualization.attention import plot_attention
from keras_transformer.visualization.confusion import plot_confusion
from keras_transformer.visualization.learning_curve import plot_learning_curve
from keras_transformer.visualization.pattern import plot_pattern

__all__ = ["plot_attention", "plot_confusion", "plot_learning_curve", "plot_pattern"]
