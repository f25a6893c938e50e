"""What constructors check in their arguments alike."""


def check_positive_integers(**arguments):
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}")
