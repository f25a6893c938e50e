"""What TensorFlow forgets between two calls must not take the vocabulary with it."""

import keras
import tensorflow as tf

from keras_transformer.text import SentencePieceTokenizer, learn_vocabulary


def test_a_new_seed_does_not_lose_the_model(tmp_path):
    tokenizer = learn_vocabulary(["ein haus", "ein baum", "das haus"], tmp_path / "sp.model", 20)
    tokenizer = SentencePieceTokenizer(tokenizer.proto)
    before = tokenizer(["das haus"]).to_list()
    in_graph = tf.function(lambda texts: tokenizer(texts).flat_values)
    in_graph(tf.constant(["ein baum"]))
    keras.utils.set_random_seed(1)  # clears TensorFlow's caches of what ran eagerly
    assert tokenizer(["das haus"]).to_list() == before
    assert in_graph(tf.constant(["das haus"])).numpy().tolist() == before[0]
    assert tokenizer.detokenize(before).numpy().tolist() == [b"das haus"]
