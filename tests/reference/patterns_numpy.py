"""Who sees whom, query by query, as sets of keys written from the definitions, with nothing clever.

Each function takes a query and the number `n` of positions and gives the keys in `range(n)` that the query sees.
"""

import numpy as np


def matrix(definition, n, *arguments):
    """bool `(n, n)`, rows of queries."""
    seen = np.zeros((n, n), bool)
    for query in range(n):
        for key in range(n):
            seen[query, key] = key in definition(query, n, *arguments)
    return seen


def causal(query, n):
    return {*range(query + 1)}


def sliding_window(query, n, size):
    return {key for step in range(size) for key in (query - step, query + step)}


def local(query, n, size):
    """The last `size` positions, the query's the last of them."""
    return {query - step for step in range(size)}


def strided(query, n, stride):
    """Child et al. 2019, section 4.3: from the query back in steps of the stride."""
    return {*range(query, -1, -stride)}


def fixed(query, n, stride, summary_size):
    """Child et al. 2019, section 4.3: the last cells of every block, as far as they are not in the future."""
    cells = set()
    for start in range(0, n, stride):
        cells |= {*range(start, start + stride)[-summary_size:]}
    return {key for key in cells if key <= query}


def prefix(query, n, length):
    """Raffel et al. 2020, figure 4, right."""
    return {*range(length)} | {*range(query + 1)}


def blocks(query, n, size):
    for start in range(0, n, size):
        if start <= query < start + size:
            return {*range(start, start + size)}


def _grid(text_length, image_width, n):
    """Position of each cell `(row, column)`."""
    return {divmod(position - text_length, image_width): position for position in range(text_length, n)}


def _image(query, n, text_length, image_width, cells):
    """Text is causal; a cell sees all text and those `cells(row, column)` that exist and are not in the future."""
    if query < text_length:
        return causal(query, n)
    grid = _grid(text_length, image_width, n)
    place = next(place for place, position in grid.items() if position == query)
    seen = {grid[cell] for cell in cells(*place) if cell in grid}
    return {*range(text_length)} | {position for position in seen if position <= query}


def axial_row(query, n, text_length, image_width):
    return _image(query, n, text_length, image_width, lambda row, column: [(row, c) for c in range(image_width)])


def axial_column(query, n, text_length, image_width):
    return _image(query, n, text_length, image_width, lambda row, column: [(r, column) for r in range(n)])


def convolutional(query, n, text_length, image_width, kernel_size, dilation=1):
    steps = [dilation * step for step in range(kernel_size)]

    def window(row, column):
        return [(row - up, column - left) for up in steps for left in steps]

    return _image(query, n, text_length, image_width, window)
