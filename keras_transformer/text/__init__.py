"""TEXT -> TOKENS: files of sentence pairs to batches of ids, and the tokenizers exports carry.

corpus      files to pairs of strings, and their check
tokenizers  strings to ids and back, in the graph: SentencePiece
word_piece  the same: WordPiece
mapped_sentence_piece  the same: SentencePiece with the ids of another vocabulary
byte_pair   the same: byte-level BPE
added_tokens  tokens written out in a text
characters  tables over all characters, in the graph
pairs       pairs of strings to training examples
batching    examples to batches of few shapes
"""

from .added_tokens import AddedToken
from .batching import batch_by_tokens, choose_lengths, count_batches, length_histogram, shapes
from .byte_pair import BytePairTokenizer
from .corpus import check_parallel, check_tsv, read_parallel, read_tsv
from .mapped_sentence_piece import MappedSentencePieceTokenizer
from .pairs import Dropped, count_dropped, shift, to_examples
from .strings import clean
from .tokenizers import SentencePieceTokenizer, learn_vocabulary
from .word_piece import WordPieceTokenizer

__all__ = [
    "AddedToken",
    "BytePairTokenizer",
    "Dropped",
    "MappedSentencePieceTokenizer",
    "SentencePieceTokenizer",
    "WordPieceTokenizer",
    "batch_by_tokens",
    "check_parallel",
    "check_tsv",
    "choose_lengths",
    "clean",
    "count_batches",
    "count_dropped",
    "learn_vocabulary",
    "length_histogram",
    "read_parallel",
    "read_tsv",
    "shapes",
    "shift",
    "to_examples",
]
