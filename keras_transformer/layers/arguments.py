"""What layers check in their arguments alike."""

import numbers


def check_positive_integers(**arguments):
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}")


def check_positive_numbers(**arguments):
    for name, value in arguments.items():
        if not _is_number(value) or not value > 0:
            raise ValueError(f"`{name}` must be a positive number. Received: {name}={value!r}")


def check_rates(**arguments):
    for name, value in arguments.items():
        if not _is_number(value) or not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be a rate between 0 and 1. Received: {name}={value!r}")


def check_booleans(**arguments):
    """Refuses words above all: "no" and "false" are true for Python."""
    for name, value in arguments.items():
        if isinstance(value, str) or value not in (True, False):
            raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")


def check_one_of(choices, **arguments):
    for name, value in arguments.items():
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value!r}")


def check_rank(argument, shape, least, axes):
    """`axes` is how the shape is written in the documentation."""
    if len(shape) < least:
        raise ValueError(f"`{argument}` must have the shape {axes}. Received: shape={tuple(shape)}")


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
