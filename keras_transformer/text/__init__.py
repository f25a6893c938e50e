"""TEXT -> TOKENS: files of sentence pairs to batches of ids, and the tokenizers exports carry.

corpus      files to pairs of strings, and their check
tokenizers  strings to ids and back, in the graph: SentencePiece
word_piece  the same: WordPiece
mapped_sentence_piece  the same: SentencePiece with the ids of another vocabulary
byte_pair   the same: byte-level BPE
added_tokens  tokens written out in a text
characters  tables over all characters, in the graph
pairs       pairs of strings to training examples
pools       examples, many at a time, in an order that seed and epoch fix
batching    examples to batches of few shapes
masking     tokens hidden for a masked language model
packing     examples to rows of several, of one shape

tagged           files of words and labels
words            strings to words, and where they are
word_features    words to ids of themselves, their ends and shapes
subwords         words to pieces and windows
tagged_examples  words and labels to training examples
"""

from .added_tokens import AddedToken
from .batching import batch_by_tokens, choose_lengths, count_batches, length_histogram, shapes
from .byte_pair import BytePairTokenizer
from .corpus import check_parallel, check_tsv, read_parallel, read_tsv
from .mapped_sentence_piece import MappedSentencePieceTokenizer
from .masking import mask_tokens
from .packing import pack
from .pairs import Dropped, count_dropped, shift, to_examples
from .strings import clean
from .subwords import Pieces, Windows, first_of_words, pieces_of_words, windows
from .tagged import TaggedSentence, read_conll2003, read_conllu, tagged_dataset
from .tagged_examples import check_label_on, check_labels, count_labels, model_inputs, to_tagged_examples, windows_for
from .tokenizers import SentencePieceTokenizer, learn_vocabulary
from .word_features import WordFeatures
from .word_piece import WordPieceTokenizer
from .words import ENGLISH_CLITICS, Words, WordSplitter, joined

__all__ = [
    "ENGLISH_CLITICS",
    "AddedToken",
    "BytePairTokenizer",
    "Dropped",
    "MappedSentencePieceTokenizer",
    "Pieces",
    "SentencePieceTokenizer",
    "TaggedSentence",
    "Windows",
    "WordFeatures",
    "WordPieceTokenizer",
    "WordSplitter",
    "Words",
    "batch_by_tokens",
    "check_label_on",
    "check_labels",
    "check_parallel",
    "check_tsv",
    "choose_lengths",
    "clean",
    "count_batches",
    "count_dropped",
    "count_labels",
    "first_of_words",
    "joined",
    "learn_vocabulary",
    "length_histogram",
    "mask_tokens",
    "model_inputs",
    "pack",
    "pieces_of_words",
    "read_conll2003",
    "read_conllu",
    "read_parallel",
    "read_tsv",
    "shapes",
    "shift",
    "tagged_dataset",
    "to_examples",
    "to_tagged_examples",
    "windows",
    "windows_for",
]
