"""Tokens written out in a text, such as "<mask>": found before a tokenizer looks at the text between them."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from .characters import row_ids
from .unicode_classes import WHITE_SPACE, members

MARK = b"\xff"


class AddedToken(NamedTuple):
    """A token that is found in texts as it is written.

    Attributes:
        text: how it is written.
        token_id: its id.
        lstrip, rstrip: whether it takes the white space to its left and right with it.
    """

    text: str
    token_id: int
    lstrip: bool = False
    rstrip: bool = False


class AddedTokens:
    """Finds added tokens in texts, the leftmost first and the longest of those that begin there.

    Args:
        tokens: the tokens; each text once.
    """

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        self.tokens = sorted(tokens, key=lambda token: -len(token.text))
        texts = [token.text for token in tokens]
        if "" in texts or len(set(texts)) < len(texts):
            raise ValueError(f"added tokens must have distinct texts that are not empty, received {texts}.")
        self.blanks = "".join(map(chr, np.flatnonzero(members(WHITE_SPACE))))
        space = self.space = "".join(
            rf"\x{{{first}}}-\x{{{last or first}}}"
            for first, _, last in (ranges.partition("-") for ranges in WHITE_SPACE.split())
        )
        self.pattern = "|".join(
            f"[{space}]*" * token.lstrip + re.escape(token.text) + f"[{space}]*" * token.rstrip for token in self.tokens
        )

    def __call__(self, texts: tf.Tensor, tokenize: Callable[[tf.Tensor], Any]) -> Any:
        """What `tokenize` gives for the text between added tokens, with their ids between.

        Args:
            texts: `(B,)`, valid UTF-8.
            tokenize: strings `(N,)` to ragged ids `(N, None)`, or to ids, starts and ends. No ids for "".

        Returns:
            The same for `texts`, `(B, None)`.
        """
        if not self.tokens:
            return tokenize(texts)
        # A byte that no UTF-8 has marks the ends of each token. (`tensorflow_text.regex_split` stops at NUL.)
        marked = tf.strings.regex_replace(texts, tf.constant(self.pattern), tf.constant(MARK + rb"\0" + MARK))
        segments = tf.strings.split(marked, MARK)
        strings, splits = segments.values, segments.row_splits
        place = tf.range(tf.size(strings, tf.int64)) - tf.gather(splits, row_ids(splits))
        added = tf.where(place % 2 == 1)[:, 0]
        found = tf.gather(strings, added)
        # A text that is one of several tokens only with its white space is that token: compared without it.
        bare = tf.strings.regex_replace(found, f"^[{self.space}]+|[{self.space}]+$", "")
        names = tf.constant([token.text.strip(self.blanks) for token in self.tokens])
        ids = tf.gather(
            np.array([token.token_id for token in self.tokens], "int32"),
            tf.argmax(bare[:, tf.newaxis] == names, axis=1),
        )
        between = tf.tensor_scatter_nd_update(strings, added[:, tf.newaxis], tf.fill(tf.shape(added), ""))
        result = tokenize(between)
        lone = isinstance(result, tf.RaggedTensor)
        parts = [result] if lone else list(result)
        count = tf.size(strings, tf.int64)
        own = [tf.RaggedTensor.from_value_rowids(ids, added, count, validate=False)]
        if not lone:
            lengths = tf.strings.length(strings, "UTF8_CHAR")
            begins = tf.cumsum(lengths, exclusive=True)
            begins -= tf.gather(tf.gather(tf.concat([begins, [0]], 0), segments.row_starts()), row_ids(splits))
            shift = tf.gather(begins, row_ids(result[0].row_splits))
            parts[1:] = [part.with_values(part.values + shift) for part in parts[1:]]
            start = tf.gather(begins, added)
            own += [own[0].with_values(start), own[0].with_values(start + tf.gather(lengths, added))]
        merged = [_by_text(tf.concat(pair, axis=1), splits) for pair in zip(parts, own)]
        return merged[0] if lone else tuple(merged)


def _by_text(pieces: tf.RaggedTensor, splits: tf.Tensor) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_splits(pieces.values, tf.gather(pieces.row_splits, splits), validate=False)
