"""A loaded SavedModel under many threads, and under strings of every kind.

`SECONDS_OF_THREADS` in the environment sets how long the threads run.
"""

import functools
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")

from served_translator import Served, export, fuzz, sentences

pytestmark = pytest.mark.integration

THREADS = 8
# The same sums in batches of other shapes: some 11 logarithms of float32.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    path = export(tmp_path_factory.mktemp("model"))
    return functools.cache(lambda signature: Served(path, signature))


def memory():
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc/self/statm")
@pytest.mark.parametrize(
    "signature, seconds, sizes, lengths",
    [
        ("serving_default", 3, [5, 7], [1, 5]),  # XLA compiles for one shape
        pytest.param("serving_default", 120, [1, 2, 3, 5, 7], [1, 5, 29], marks=pytest.mark.slow),
        pytest.param("without_xla", 120, [1, 2, 3, 5, 7], [1, 5, 29], marks=pytest.mark.slow),
    ],
)
def test_threads_get_what_one_alone_gets_in_flat_memory(load, signature, seconds, sizes, lengths):
    served, seconds = load(signature), float(os.environ.get("SECONDS_OF_THREADS", seconds))
    draw = random.Random(1)
    batches = [sentences(draw.choice(sizes), seed=i, longest=draw.choice(lengths)) for i in range(24)]
    expected = [served(batch) for batch in batches]
    wrong, answers, stop = [], [0] * THREADS, threading.Event()

    def ask(number):
        draw = random.Random(number)
        while not stop.is_set():
            index = draw.randrange(len(batches))
            try:
                translations, scores = served(batches[index])
                assert translations == expected[index][0]
                np.testing.assert_allclose(scores, expected[index][1], **ROUNDING)
            except Exception as error:
                wrong.append((batches[index], error))
                return
            answers[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    held = []
    for _ in range(10):
        time.sleep(seconds / 10)
        held.append(memory())
    stop.set()
    for thread in threads:
        thread.join()
    print(f"{sum(answers)} answers, memory in MB: {[size >> 20 for size in held]}")
    assert not wrong, wrong[0]
    assert all(answers), answers
    # In the first third each thread gets an arena of its own from the allocator.
    assert max(held[-3:]) < max(held[:4]) + (40 << 20)


@pytest.mark.parametrize(
    "signature, count",
    [
        ("without_xla", 200),
        pytest.param("without_xla", 10_000, marks=pytest.mark.slow),
        pytest.param("serving_default", 10_000, marks=pytest.mark.slow),
    ],
)
def test_no_string_breaks_it_or_changes_its_neighbours_answers(load, signature, count):
    served = load(signature)
    texts = fuzz(count, seed=7)
    assert max(map(len, texts)) >= 100_000 and b"" in texts
    by_length = sorted(range(count), key=lambda i: len(texts[i]))  # half the batches as a server fills them
    translations, scores = [None] * count, np.full(count, np.nan)
    for seed, size in ((2, 50), (5, 37)):  # twice, among others
        mixed = random.Random(seed).sample(by_length[count // 2 :], count - count // 2)
        for order in (by_length[: count // 2], mixed):
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                found = served([texts[i] for i in rows])
                for i, translation, score in zip(rows, *found, strict=True):
                    if translations[i] is None:
                        translations[i], scores[i] = translation, score
                    assert translation == translations[i], texts[i]
                    np.testing.assert_allclose(score, scores[i], err_msg=repr(texts[i][:99]), **ROUNDING)
    assert np.isfinite(scores).all()
    for translation in translations:
        translation.decode()
    alone = random.Random(3).sample(range(count), max(10, count // 50))
    for i in [*alone, count - 1]:
        [translation], [score] = served([texts[i]])
        assert translation == translations[i], texts[i]
        np.testing.assert_allclose(score, scores[i], err_msg=repr(texts[i][:99]), **ROUNDING)
