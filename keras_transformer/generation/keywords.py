"""The keywords of `generate`, after Hugging Face's: which search they mean, and which processors."""

import inspect
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import keras
from keras import ops

from keras_transformer.generation.arguments import check_count, check_return_sequences, check_rows
from keras_transformer.generation.beam import beam_search
from keras_transformer.generation.greedy import greedy_search
from keras_transformer.generation.processor import LogitsProcessor
from keras_transformer.generation.protocol import AlignedHypotheses, Decoder, Hypotheses, Tensor
from keras_transformer.generation.rules import (
    ForcedPrefix,
    MinLength,
    NoRepeatNGram,
    RepetitionPenalty,
    SuppressTokens,
)
from keras_transformer.generation.sampling import sample
from keras_transformer.generation.seeds import check_seed
from keras_transformer.generation.warpers import MinP, Temperature, TopK, TopP

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")


def logits_processors(
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    min_length: int | None = None,
    suppress_tokens: Iterable[int] | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> tuple[LogitsProcessor, ...]:
    """The processors that the keywords mean, in the order of Hugging Face; None: no such processor.

    >>> from keras_transformer.generation import logits_processors
    >>> logits_processors(top_p=0.9, temperature=0.7)
    (Temperature(temperature=0.7), TopP(top_p=0.9))
    """
    kinds: tuple[tuple[Any, Any], ...] = (
        (RepetitionPenalty, repetition_penalty),
        (NoRepeatNGram, no_repeat_ngram_size),
        (MinLength, min_length),
        (SuppressTokens, suppress_tokens),
        (Temperature, temperature),
        (TopK, top_k),
        (TopP, top_p),
        (MinP, min_p),
    )
    return tuple(kind(value) for kind, value in kinds if value is not None)


def search(
    decoder: Decoder,
    start_ids: Any,
    max_length: Any,
    end_token_id: int,
    pad_token_id: int = 0,
    limits: Any = None,
    num_beams: int = 1,
    length_penalty: Any = 0.6,
    num_return_sequences: int | None = None,
    do_sample: bool = False,
    seed: Any = None,
    prefix_ids: Any = None,
    prefix_lengths: Any = None,
    processors: Any = (),
    return_alignments: bool = False,
    **kwargs: Any,
) -> Hypotheses | AlignedHypotheses:
    """Greedy search, beam search or sampling, as the keywords say.

    Args:
        decoder, start_ids, max_length, end_token_id, pad_token_id, limits, length_penalty, return_alignments: as in
            `greedy_search`.
        num_beams: more than 1 is beam search.
        num_return_sequences: how many sentences for each, beams or samples; None: one, without an axis for it.
        do_sample: whether to draw the tokens; `temperature`, `top_k`, `top_p`, `min_p` and `seed` are for that alone.
        seed: as in `sample`.
        prefix_ids, prefix_lengths: (B, P) and (B,), of a `ForcedPrefix`.
        processors: further ones, after those of the keywords and before the prefix.
        **kwargs: of `logits_processors`.
    """
    check_options(
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        do_sample=do_sample,
        seed=seed,
        prefix_ids=prefix_ids,
        prefix_lengths=prefix_lengths,
        **kwargs,
    )
    prefix = () if prefix_ids is None else (ForcedPrefix(prefix_ids, prefix_lengths),)
    arguments: dict[str, Any] = {
        "max_length": max_length,
        "end_token_id": end_token_id,
        "pad_token_id": pad_token_id,
        "limits": limits,
        "length_penalty": length_penalty,
        "processors": (*logits_processors(**kwargs), *processors, *prefix),
        "return_alignments": return_alignments,
    }
    count = 1 if num_return_sequences is None else num_return_sequences
    if do_sample:
        found = sample(decoder, start_ids, num_return_sequences=count, seed=seed, **arguments)
    elif num_beams == 1 and num_return_sequences is None:
        return greedy_search(decoder, start_ids, **arguments)
    else:
        found = beam_search(decoder, start_ids, num_beams=num_beams, num_return_sequences=count, **arguments)
    return found if num_return_sequences is not None else type(found)(*(x[:, 0] for x in found))


def check_options(num_beams: Any = 1, num_return_sequences: Any = None, do_sample: bool = False, **kwargs: Any) -> None:
    """Refuses keywords of `search` that it does not know, that contradict each other or have no meaning."""
    check_keywords(kwargs)
    check_count("num_beams", num_beams)
    if num_return_sequences is not None and do_sample:
        check_count("num_return_sequences", num_return_sequences)
    elif num_return_sequences is not None:
        check_return_sequences(num_return_sequences, num_beams)
    given = {name: value for name, value in kwargs.items() if value is not None}
    logits_processors(**{name: value for name, value in given.items() if name in PROCESSOR_KEYWORDS})
    processors = given.get("processors", ())
    if not isinstance(processors, list | tuple) or not all(callable(processor) for processor in processors):
        raise ValueError(
            "`processors` must be a tuple of functions of logits and a `SearchContext`, such as `LogitsProcessor`s. "
            f"Received: processors={processors!r}."
        )
    if "max_length" in given:
        check_count("max_length", given["max_length"])
    for name in ("end_token_id", "pad_token_id"):
        if name in given and (not isinstance(given[name], Integral) or isinstance(given[name], bool)):
            raise ValueError(f"`{name}` must be one integer, of all sentences. Received: {name}={given[name]!r}.")
    if do_sample and num_beams != 1:
        raise ValueError(
            "`do_sample=True` draws one token after another and keeps no beams. "
            f"Received: num_beams={num_beams}. Use num_beams=1, and `num_return_sequences` for several samples."
        )
    useless = [name for name in SAMPLING if name in given and not do_sample]
    if useless:
        raise ValueError(
            f"{', '.join(SAMPLING)} are for sampling alone. Received: {useless[0]}={given[useless[0]]!r} without "
            "do_sample=True. Pass that too, or leave it out."
        )
    if "prefix_lengths" in given and "prefix_ids" not in given:
        raise ValueError("`prefix_lengths` are those of `prefix_ids`. Received: prefix_ids=None. Pass both.")


def names(function: Any) -> tuple[str, ...]:
    """The keywords that a function, of a decoder and its start ids, takes."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind != p.VAR_KEYWORD and p.name not in ("decoder", "start_ids"))


PROCESSOR_KEYWORDS = names(logits_processors)
KEYWORDS = (*names(search), *PROCESSOR_KEYWORDS)


def check_keywords(given: Iterable[str], known: Iterable[str] = KEYWORDS) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(f"`{unknown[0]}` is no keyword of this search. Use one of: {', '.join(sorted(known))}.")


def as_settings_and_tensors(
    options: dict[str, Any], vocabulary_size: int, sentences: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Keywords of `search` as those that a graph is made for, and those that it takes as tensors.

    A seed is drawn where sampling is without one, by Keras's global generator.
    """
    check_options(**options)
    if options.get("do_sample") and options.get("seed") is None:
        options = {**options, "seed": int(keras.random.randint((), 0, 2**31 - 1))}
    given = {name: value for name, value in options.items() if value is not None}
    if not ops.is_tensor(given.get("seed", 0)):
        check_seed(given.get("seed", 0))
    if "max_length" in given:
        given["max_length"] = int(given["max_length"])
    for name in ("limits", "prefix_ids", "prefix_lengths"):
        if name in given:
            given[name] = check_rows(name, given[name], sentences)
    if given.get("limits") is not None and given["limits"].ndim != 1:
        raise ValueError(f"`limits` must have the shape (batch,). Received: shape={given['limits'].shape}")
    if "prefix_ids" in given:
        prefix = ForcedPrefix(given["prefix_ids"], given.get("prefix_lengths"))
        prefix.check_vocabulary(vocabulary_size)
        given = {**given, "prefix_ids": prefix.prefix_ids, "prefix_lengths": prefix.prefix_lengths}
    tensors = {
        name: ops.convert_to_tensor(given.pop(name), "int32")
        for name in ("seed", "prefix_ids", "prefix_lengths", "limits")
        if given.get(name) is not None
    }
    return {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()}, tensors
