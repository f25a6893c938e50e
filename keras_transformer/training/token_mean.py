"""What a sum over tokens is divided by, so that each token counts the same wherever and in whatever batch it is."""

import keras
from keras import ops

from keras_transformer.layers.arguments import check_positive_numbers


def check_tokens_per_batch(tokens_per_batch):
    if tokens_per_batch is not None:
        check_positive_numbers(tokens_per_batch=tokens_per_batch)


def token_mean(total, count, tokens_per_batch=None):
    """`total`, a replica's sum over its tokens, divided by the number of tokens of all replicas.

    Replicas add up their gradients, so that the results of all of them together are the mean over the batch.

    Args:
        total: a scalar.
        count: the sum of the weights of this replica's tokens; their mean is 0 where there is none.
        tokens_per_batch: a constant to divide by in place of the count.
    """
    if tokens_per_batch is not None:
        return total / tokens_per_batch
    count = ops.cast(over_replicas(count), total.dtype)
    return total / ops.where(count > 0, count, ops.ones_like(count))


def over_replicas(count):
    """The sum of `count` over the replicas of `tf.distribute`. Other engines split one computation, not the batch."""
    if keras.backend.backend() != "tensorflow":
        return count
    from keras_transformer.training import tensorflow

    return tensorflow.sum_over_replicas(count)


def share_of_replica(loss):
    """The part of a loss of weights, such as a regulariser's, that each replica adds."""
    if keras.backend.backend() != "tensorflow":
        return loss
    from keras_transformer.training import tensorflow

    return loss / tensorflow.number_of_replicas()
