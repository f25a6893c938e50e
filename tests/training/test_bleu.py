"""BLEU of decoded samples, as callbacks after it see it."""

import importlib.util

import keras
import numpy as np
import pytest

from keras_transformer.training import Bleu

SOURCES = ["a b c d e", "f g h i j"]


def fit(bleu, callbacks=(), epochs=3):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    x = np.ones((2, 1), "float32")
    return model.fit(x, x, epochs=epochs, verbose=0, callbacks=[bleu, *callbacks]).history


def test_the_best_epoch_stops_the_run_and_samples_are_shown(capsys):
    sacrebleu = pytest.importorskip("sacrebleu")
    epochs = [["a b x d e", "f g h i j"], SOURCES, ["x", "y"], SOURCES]
    answers = iter(epochs)
    stop = keras.callbacks.EarlyStopping(monitor="val_bleu", mode="max", patience=1)
    history = fit(Bleu(lambda texts: next(answers), SOURCES, SOURCES, shown=1), [stop], epochs=4)
    expected = [sacrebleu.corpus_bleu(texts, [SOURCES]).score for texts in epochs[:3]]
    assert history["val_bleu"] == pytest.approx(expected) and expected[1] == pytest.approx(100)
    said = capsys.readouterr().out
    assert "Epoch 2: BLEU = 100.00" in said and "translation  a b x d e" in said and "f g h i j" not in said


def test_another_metric_several_references_and_not_each_epoch():
    sacrebleu = pytest.importorskip("sacrebleu")
    references = [["x", "y"], SOURCES]
    chrf = Bleu(list, SOURCES, references, metric=sacrebleu.CHRF(), name="val_chrf", shown=0, every=2)
    assert fit(chrf)["val_chrf"] == pytest.approx([100])


def test_sacrebleu_is_asked_for_at_once(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs sacrebleu, which is not installed. Run: pip install sacrebleu"):
        Bleu(list, SOURCES, SOURCES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((list, SOURCES, SOURCES[:1]), r"Received: 2 sources, \[1\] references"),
        ((list, [], []), r"Received: 0 sources, \[0\] references"),
        ((list, SOURCES, SOURCES, "metric", "name", 1, 0), "Received: every=0"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Bleu(*arguments)


def test_a_text_is_missing():
    pytest.importorskip("sacrebleu")
    with pytest.raises(ValueError, match="a text for each of 2 sources. Received: 1"):
        fit(Bleu(lambda texts: texts[:1], SOURCES, SOURCES))
