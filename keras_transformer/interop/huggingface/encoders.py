"""What is asked of our encoder models before they are written, whatever the architecture."""

from keras_transformer.models import Encoder

PLAIN = ("position", "attention", "feed_forward", "normalization", "residual")


def encoder_of(model):
    return model if isinstance(model, Encoder) else model.encoder


def path_of(model):
    """What stands before the paths of the encoder's variables."""
    return "" if isinstance(model, Encoder) else "encoder."


def architecture_of(model, names, model_type):
    """The name in `names`, `{class of ours: name}`, of a model that is an encoder of post-norm blocks."""
    name = names.get(type(model))
    if name is None:
        raise ValueError(
            f"{model_type} has no such model. Received: a {type(model).__name__}. "
            f"It has: {', '.join(kind.__name__ for kind in names)}."
        )
    encoder = encoder_of(model)
    changed = [part for part in PLAIN if getattr(encoder, part) is not None]
    changed += ["normalize_first"] if encoder.normalize_first else []
    if changed:
        raise ValueError(
            f"{model_type} has post-norm blocks of the standard parts and a table of positions. "
            f"Received: an encoder with {', '.join(changed)}."
        )
    return name


def require(model_type, **facts):
    """Raises `ValueError` for the first of `facts`, `name=(value, whether it is as needed, what is needed)`."""
    for name, (value, fits, needed) in facts.items():
        if not fits:
            raise ValueError(f"{model_type} needs {needed}. Received: {name}={value!r}")
