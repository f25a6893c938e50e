"""Texts that tokenizers are known to read differently."""

import random

POOLS = [
    "abcdefghij klmnop qrst uvwxyz",
    "ABCÀÉÎÕÜçñßİ\u0131ǅŠž0123٣½",
    " \t\n\r\x0b\x0c\x00\x1c\x85\xa0\u2003\u2028\u3000\u200b\u200d\ufeff\ufffd",
    "!?.,;:'\"$+<=>^`|~@#[]()-_¿¡§«»…—",
    "中文字日本語한국어ไทยहिन्दीعربيעברית",
    "\u0301\u0308\u0327\u20dd\ufe0f",
    "😀👍🏽👨\u200d👩\u200d👧🇩🇪",
]


def strange_texts(count, seed, sentences=("the cat sat on the mat",), special=()):
    """`count` texts of characters from everywhere, with what is usual more often than what is not."""
    draw = random.Random(seed)
    between = ["", " ", "  ", "'s", "'ll ", " 't", *special]
    for _ in range(count):
        text = ""
        for _ in range(draw.randrange(6)):
            if draw.random() < 0.1:
                code = draw.randrange(0x110000)
                text += "" if 0xD800 <= code < 0xE000 else chr(code)
            text += "".join(draw.choice(draw.choice(POOLS[:1] * 4 + POOLS)) for _ in range(draw.randrange(12)))
            text += draw.choice([*between, draw.choice(sentences)])
        yield text


def special_cases():
    """Texts that are long, empty, or all of one thing."""
    yield from ["", " ", "   ", "\n\n", "\t x", "x" * 100, "a" * 101, "the " * 400, "ab" * 50_000, "\x00", "\ufffd"]
    yield from ["'s", "''s", " 's", "\t's", "'sabc", "'s's", "a'll'd", "'S", "1's 2", "  's", "\u3000 a", "a \n b  "]


def different(texts, ours, theirs):
    """The beginnings of the first texts with different results; pytest would compare long lists for minutes."""
    return [text[:80] for text, one, other in zip(texts, ours, theirs, strict=True) if one != other][:5]
