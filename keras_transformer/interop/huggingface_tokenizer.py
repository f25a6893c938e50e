"""The tokenizer of a Hugging Face directory, in the graph, with the same ids."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keras_transformer.text import (
    AddedToken,
    BytePairTokenizer,
    MappedSentencePieceTokenizer,
    WordPieceTokenizer,
)

BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA_TOKENS = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>", "mask": "<mask>"}
ROBERTA_TOKENS |= {"cls": "<s>", "sep": "</s>"}
GPT2_TOKENS = {"unk": "<|endoftext|>", "bos": "<|endoftext|>", "eos": "<|endoftext|>"}
T5_TOKENS = {"pad": "<pad>", "unk": "<unk>", "eos": "</s>"}
CLASSES = {  # where config.json is missing
    "BertTokenizer": "bert",
    "DistilBertTokenizer": "distilbert",
    "RobertaTokenizer": "roberta",
    "GPT2Tokenizer": "gpt2",
    "MarianTokenizer": "marian",
    "T5Tokenizer": "t5",
}


def tokenizer_from_huggingface(directory: str | Path) -> Any:
    """The tokenizer of a model saved by Hugging Face `transformers`, in the graph.

    For the model types `bert` and `distilbert` a `text.WordPieceTokenizer`, for `roberta`, `gpt2` and `gpt_neo` a
    `text.BytePairTokenizer`, for `marian` and `t5` a `text.MappedSentencePieceTokenizer`. Called on texts it gives the
    ids of the original with `add_special_tokens=False`; special tokens that are written in a text are found, as there.
    Nothing is cut: the attribute `model_max_length` says what the model can take, None where the files do not.

    Args:
        directory: of `config.json` or `tokenizer_config.json`, and `tokenizer.json`, or `vocab.txt`, or `vocab.json`
            and `merges.txt`, or `spiece.model`, or `source.spm`, `target.spm` and `vocab.json`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the model type, or a part of `tokenizer.json`, is not known; the message names it.
    """
    files = _Files(Path(directory))
    kind = files.model_type()
    if kind not in READERS:
        raise ValueError(
            f"directory must hold a tokenizer of one of the model types {', '.join(READERS)}, received {kind!r}."
        )
    tokenizer = READERS[kind](files)
    longest = files.config.get("model_max_length")
    tokenizer.model_max_length = longest if isinstance(longest, int) and longest < 10**9 else None
    return tokenizer


class _Files:
    """What the files of a directory say."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise FileNotFoundError(f"directory must be a directory, received {str(directory)!r}: check the path.")
        self.directory = directory
        self.config = self.json("tokenizer_config.json") or {}
        self.tokenizer = self.json("tokenizer.json")

    def json(self, name: str) -> Any:
        path = self.directory / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def need(self, name: str) -> Path:
        path = self.directory / name
        if not path.is_file():
            found = sorted(file.name for file in self.directory.iterdir())
            raise FileNotFoundError(f"directory must hold {name}, received {str(self.directory)!r} with {found}.")
        return path

    def model_type(self) -> str | None:
        named = (self.json("config.json") or {}).get("model_type")
        cls = str(self.config.get("tokenizer_class", "")).removesuffix("Fast")
        return named or CLASSES.get(cls, cls or None)

    def special(self, defaults: Mapping[str, str]) -> dict[str, str]:
        """Role (pad, unk, ...) to text of the special tokens."""
        stated = {**(self.json("special_tokens_map.json") or {}), **self.config}
        roles: dict[str, Any] = dict(defaults)
        for role in ("pad", "unk", "bos", "eos", "cls", "sep", "mask"):
            token = stated.get(f"{role}_token", roles.get(role))
            text = token["content"] if isinstance(token, dict) else token
            roles[role] = text
        return {role: text for role, text in roles.items() if text is not None}

    def added(self, ids: Mapping[str, int], special: Mapping[str, str], normalizing: bool) -> list[AddedToken]:
        """The tokens that are found in texts as they are written."""
        found: dict[str, dict[str, Any]] = {}
        stated = self.json("special_tokens_map.json") or {}
        for role, text in special.items():
            given = self.config.get(f"{role}_token") or stated.get(f"{role}_token")
            found[text] = {**(given if isinstance(given, dict) else {}), "id": ids.get(text), "normalized": False}
        for text, index in (self.json("added_tokens.json") or {}).items():
            found.setdefault(text, {"normalized": True})["id"] = index
        for index, token in self.config.get("added_tokens_decoder", {}).items():
            found[token["content"]] = {**token, "id": int(index)}
        for token in (self.tokenizer or {}).get("added_tokens", []):
            found[token["content"]] = token
        for text, token in found.items():
            if token.get("single_word"):
                raise ValueError(f"added tokens must not be single_word, received {text!r}: that is not supported.")
            if normalizing and token.get("normalized") and not token.get("special"):
                raise ValueError(
                    f"added tokens must not be normalized, received {text!r}: it is looked for in the normalized text, "
                    "which is not supported; add it with normalized=False."
                )
        return [
            AddedToken(text, token["id"], bool(token.get("lstrip")), bool(token.get("rstrip")))
            for text, token in found.items()
            if token.get("id") is not None
        ]


def _expect(part: str, value: Any, *known: Any) -> None:
    if value not in known:
        names = ", ".join(map(repr, known))
        raise ValueError(f"tokenizer.json must have a {part} of {names}, received {value!r}: it is not supported.")


def _word_piece(files: _Files) -> WordPieceTokenizer:
    options: dict[str, Any] = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
    longest = 100
    if files.tokenizer is None:
        lines = files.need("vocab.txt").read_text(encoding="utf-8").split("\n")
        tokens = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    else:
        model, normalizer = files.tokenizer["model"], files.tokenizer["normalizer"] or {"type": None}
        _expect("model", model.get("type", "WordPiece"), "WordPiece")
        _expect("normalizer", normalizer["type"], "BertNormalizer")
        _expect("clean_text of its normalizer", normalizer["clean_text"], True)
        _expect("pre_tokenizer", (files.tokenizer["pre_tokenizer"] or {"type": None})["type"], "BertPreTokenizer")
        _expect("continuing_subword_prefix", model["continuing_subword_prefix"], "##")
        options = {
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer["strip_accents"],
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
        }
        longest = model["max_input_chars_per_word"]
        ids = model["vocab"]
        tokens = sorted(ids, key=ids.__getitem__)
        if [ids[token] for token in tokens] != list(range(len(tokens))):
            raise ValueError(f"tokenizer.json must number its vocabulary without gaps, received {len(tokens)} tokens.")
    options.update({name: files.config[name] for name in options if name in files.config})
    special = files.special(BERT_TOKENS)
    return WordPieceTokenizer(
        tokens,
        lowercase=options["do_lower_case"],
        strip_accents=options["strip_accents"],
        split_on_cjk=options["tokenize_chinese_chars"],
        oov_token=special["unk"],
        pad_token=special["pad"],
        start_token=special["cls"],
        end_token=special["sep"],
        mask_token=special.get("mask"),
        max_word_length=longest,
        added_tokens=files.added({token: index for index, token in enumerate(tokens)}, special, normalizing=True),
    )


def _byte_pair(defaults: Mapping[str, str]) -> Callable[[_Files], BytePairTokenizer]:
    def read(files: _Files) -> BytePairTokenizer:
        prefix = False
        if files.tokenizer is None:
            ids = json.loads(files.need("vocab.json").read_text(encoding="utf-8"))
            lines = files.need("merges.txt").read_text(encoding="utf-8").split("\n")
            merges = [line.rstrip("\r") for line in lines if line and not line.startswith("#version")]
        else:
            model, splitter = files.tokenizer["model"], files.tokenizer["pre_tokenizer"] or {"type": None}
            _expect("model", model.get("type", "BPE"), "BPE")
            _expect("normalizer", (files.tokenizer["normalizer"] or {"type": None})["type"], None)
            _expect("pre_tokenizer", splitter["type"], "ByteLevel")
            _expect("use_regex of its pre_tokenizer", splitter.get("use_regex", True), True)
            for part in ("continuing_subword_prefix", "end_of_word_suffix"):
                _expect(part, model.get(part), None, "")
            for part in ("byte_fallback", "ignore_merges", "dropout"):
                _expect(part, model.get(part), None, False)
            ids, prefix = model["vocab"], splitter["add_prefix_space"]
            merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        special = files.special(defaults)
        return BytePairTokenizer(
            ids,
            merges,
            add_prefix_space=files.config.get("add_prefix_space", prefix),
            pad_token=special.get("pad"),
            unk_token=special.get("unk"),
            start_token=special.get("bos"),
            end_token=special.get("eos"),
            mask_token=special.get("mask"),
            added_tokens=files.added(ids, special, normalizing=False),
        )

    return read


def _marian(files: _Files) -> MappedSentencePieceTokenizer:
    if files.config.get("separate_vocabs") or (files.directory / "target_vocab.json").is_file():
        raise ValueError("marian tokenizers must share one vocab.json, received separate_vocabs: it is not supported.")
    ids = json.loads(files.need("vocab.json").read_text(encoding="utf-8"))
    special = files.special(T5_TOKENS)
    return MappedSentencePieceTokenizer(
        files.need("source.spm").read_bytes(),
        ids,
        pad_token=special["pad"],
        unk_token=special["unk"],
        start_token=special["pad"],  # Marian's decoder starts with its pad token.
        end_token=special["eos"],
        added_tokens=files.added(ids, special, normalizing=False),
        language_codes=True,
        target_model=files.need("target.spm").read_bytes(),
    )


def _t5(files: _Files) -> MappedSentencePieceTokenizer:
    model = files.need("spiece.model").read_bytes()
    special = files.special(T5_TOKENS)
    plain = MappedSentencePieceTokenizer(model, pad_token=special["pad"], start_token=special["pad"])
    ids = {piece: index for index, piece in enumerate(plain.vocabulary)}
    extra = files.config.get("extra_ids", 100)
    # The first of them has the last id.
    more = {f"<extra_id_{number}>": len(ids) + extra - 1 - number for number in range(extra)}
    added = files.added(ids, special, normalizing=False)
    known = {token.text for token in added}
    added += [AddedToken(text, index) for text, index in more.items() if text not in known]
    return MappedSentencePieceTokenizer(
        model,
        pad_token=special["pad"],
        unk_token=special["unk"],
        start_token=special["pad"],  # T5's decoder starts with its pad token.
        end_token=special["eos"],
        added_tokens=added,
        spaces="\x85",  # white space to Hugging Face, an unknown character to SentencePiece
    )


READERS: dict[str, Callable[[_Files], Any]] = {
    "bert": _word_piece,
    "distilbert": _word_piece,
    "roberta": _byte_pair(ROBERTA_TOKENS),
    "gpt2": _byte_pair(GPT2_TOKENS),
    "gpt_neo": _byte_pair(GPT2_TOKENS),
    "marian": _marian,
    "t5": _t5,
}
