"""What the models that generate have in common: special ids, and what is asked of a model before it is written."""

from keras_transformer.interop.huggingface.encoders import require
from keras_transformer.interop.huggingface.table import Entry, Linear, Scaled


def one_id(config, name, default=None):
    """The id `name` of the config, which may be a list of them: then the first, which is the one that is generated."""
    value = config.get(name, default)
    return value[0] if isinstance(value, list) else value


def require_class(model_type, model, kind):
    if type(model) is not kind:
        raise ValueError(f"{model_type} is a `{kind.__name__}`. Received: a {type(model).__name__}.")


def require_plain(model_type, model, *parts):
    """That none of the `parts` of blocks is another than the standard one."""
    for part in parts:
        require(model_type, **{part: (getattr(model, part), getattr(model, part) is None, f"no `{part}` of its own")})


def require_settings(model_type, config, **expected):
    """That the config asks for nothing that our model does not do; an entry that is missing is as expected."""
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise ValueError(f"Of {model_type} only {name}={value!r} is supported. Received: {name}={config[name]!r}")


def unscaled_query(key, path, key_dim):
    """The projection of queries where dot products are not divided by `sqrt(K)`, which our attention always does."""
    yield Entry(f"{key}.weight", f"{path}.kernel", Scaled(Linear(), key_dim**0.5))
