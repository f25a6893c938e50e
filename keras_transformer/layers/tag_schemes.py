"""Labels of words that stand for spans of them: which may follow which."""

import numpy as np

SCHEMES = {  # for each scheme, the prefixes that may follow a prefix, begin a sequence and end one
    "BIO": {"O": "OB", "B": "OBI", "I": "OBI", "begin": "OB", "end": "OBI"},
    "BIOES": {"O": "OBS", "B": "IE", "I": "IE", "E": "OBS", "S": "OBS", "begin": "OBS", "end": "OES"},
}


def split_label(label):
    """The prefix and the type of a label: "B-PER" is `("B", "PER")`, "O" is `("O", "")`."""
    prefix, _, kind = label.partition("-")
    return prefix, kind


def allowed_transitions(labels, scheme="BIO"):
    """Which label may follow which, for `CRF(allowed=...)`.

    Args:
        labels: such as `["O", "B-PER", "I-PER"]`, in the order of their ids.
        scheme: "BIO" (a span is B, then I's; also called IOB2) or "BIOES" (a span is S, or B, I's, E).

    Returns:
        Bools `(L + 1, L + 1)`: row `i`, column `j` is whether `j` may follow `i`; the last row is for the begin of a
        sequence, the last column for its end.

    Example:

    >>> from keras_transformer.layers import allowed_transitions
    >>> allowed_transitions(["O", "B-X", "I-X"]).astype(int).tolist()
    [[1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
    """
    if scheme not in SCHEMES:
        raise ValueError(f"`scheme` must be one of {tuple(SCHEMES)}. Received: scheme={scheme!r}")
    rules = SCHEMES[scheme]
    parts = [split_label(label) for label in labels]
    for label, (prefix, kind) in zip(labels, parts):
        if prefix not in rules or prefix in ("begin", "end") or (prefix == "O") != (not kind):
            prefixes = ", ".join(f"{prefix}-TYPE" for prefix in scheme if prefix != "O")
            raise ValueError(f"A label of {scheme} must be O or one of {prefixes}. Received: {label!r}")

    def may_follow(before, after):
        (prefix, kind), (next_prefix, next_kind) = before, after
        if next_prefix not in rules[prefix]:
            return False
        return next_prefix not in "IE" or kind == next_kind

    count = len(parts)
    allowed = np.zeros((count + 1, count + 1), bool)
    for i, before in enumerate(parts):
        allowed[count, i] = before[0] in rules["begin"]
        allowed[i, count] = before[0] in rules["end"]
        for j, after in enumerate(parts):
            allowed[i, j] = may_follow(before, after)
    return allowed
