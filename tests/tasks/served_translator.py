"""A translator's SavedModel as a server runs it, for the tests that wear it out."""

import random
import unicodedata

import keras
import tensorflow as tf

from keras_transformer import models, tasks, text

SYLLABLES = ["ba", "do", "ki", "lu", "ne", "po", "ra", "si", "tu", "ze"]


def sentences(count, seed, longest=9):
    draw = random.Random(seed)
    word = lambda: "".join(draw.choices(SYLLABLES, k=draw.randint(1, 4)))  # noqa: E731
    return [" ".join(word() for _ in range(draw.randint(1, longest))).encode() for _ in range(count)]


def export(directory):
    """Writes the SavedModel of an untrained translator, as sensitive to its input as any, and returns its path."""
    tokenizer = text.learn_vocabulary(sentences(400, seed=0), directory / "sp.model", 97)
    keras.utils.set_random_seed(3)
    model = models.Transformer(tokenizer.vocabulary_size, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32)
    path = directory / "served"
    tasks.Translator(model, tokenizer, num_beams=3, max_source_length=32, max_length=11).export(path)
    return path


class Served:
    """A signature of the loaded SavedModel: a list of bytes to lists of translations and scores."""

    def __init__(self, path, signature):
        self._model = tf.saved_model.load(str(path))  # its signature does not keep it alive
        self._serve = self._model.signatures[signature]

    def __call__(self, texts):
        found = self._serve(texts=tf.constant(texts, tf.string, shape=[len(texts)]))
        return found["translations"].numpy().tolist(), found["scores"].numpy().tolist()


def fuzz(count, seed):
    """`count` byte strings of what breaks parsers, the worst of each kind among them."""
    draw = random.Random(seed)
    assigned = [chr(c) for c in range(0x30000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    controls = [chr(c) for c in [*range(0x20), *range(0x7F, 0xA0), 0x200B, 0x200D, 0x202E, 0x2066, 0xFEFF, 0xFFFF]]
    emoji = [chr(c) for c in range(0x1F300, 0x1FAFF)] + ["\u200d", "\ufe0f", "\U0001f3fb", "\U000e0067", "\U0001f1e9"]
    special = ["<s>", "</s>", "<pad>", "<unk>", "\u2581", " \u2047 ", "%s", "\\", '"', "ba", "do ", "\0"]

    def from_(characters, longest=40):
        return lambda: "".join(draw.choices(characters, k=draw.randrange(longest))).encode()

    kinds = [
        from_(assigned),
        from_(controls),
        from_(emoji),
        from_(special),
        from_([*controls, *special, *emoji[:50], *assigned[:500]]),
        lambda: draw.randbytes(draw.randrange(60)),
        lambda: from_(assigned)()[: draw.randrange(40)],  # cut within a character
        lambda: (
            draw.choice([b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xff\xfe", b"\x80"]) * draw.randrange(9)
        ),
        lambda: draw.choice(SYLLABLES + assigned).encode() * draw.randrange(300, 1500),  # one very long word
        lambda: b"",
        lambda: b" " * draw.randrange(50),
    ]
    texts = [kinds[i % len(kinds)]() for i in range(count - 1)]
    return [*texts, b"ba do ki lu ne " * 6667][:count]  # and a line of 100,000 characters
