"""Files to pairs: only a line feed separates lines, and what would pair wrong lines is refused."""

import gzip
import itertools
from pathlib import Path

import pytest
import tensorflow as tf

from keras_transformer.text import check_parallel, check_tsv, read_parallel, read_tsv

MULTI30K = Path(__file__).parents[3] / "shared" / "data" / "multi30k"


def write(path, content, compress=False):
    path.write_bytes(gzip.compress(content) if compress else content)
    return path


def strings(dataset):
    return [(source.decode(), target.decode()) for source, target in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("compress", [False, True])
def test_line_i_goes_with_line_i(tmp_path, compress):
    source = write(tmp_path / "a", b"\xef\xbb\xbfone\r\ntwo\xe2\x80\xa8x\xc2\x85y\r\n\r\nfour", compress)
    target = write(tmp_path / "b", b"ein\nzwei\n\nvier\n", compress)
    expected = [("one", "ein"), ("two\u2028x\u0085y", "zwei"), ("", ""), ("four", "vier")]
    assert strings(read_parallel(source, str(target))) == expected
    assert check_parallel(source, str(target)) == 4


def test_long_lines(tmp_path):
    source = write(tmp_path / "a", b"x" * 100_000 + b"\nshort\n")
    target = write(tmp_path / "b", "ü".encode() * 100_000 + b"\nkurz\n")
    assert [(len(a), len(b)) for a, b in strings(read_parallel(source, target))] == [
        (100_000, 100_000),
        (5, 4),
    ]
    assert check_parallel(source, target) == 2


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\r", b"\n\n"])
def test_check_counts_what_is_read(tmp_path, ending):
    path = write(tmp_path / "a", b"one\ntwo" + ending)
    assert check_parallel(path, path) == len(strings(read_parallel(path, path)))


def test_reading_is_lazy(tmp_path):
    source = write(tmp_path / "a", b"one\n" * 1000)
    target = write(tmp_path / "b", b"eins\n" * 1000)
    pairs = read_parallel(source, target).repeat()
    assert len(list(itertools.islice(pairs, 2500))) == 2500


@pytest.mark.parametrize("compress", [False, True])
def test_tsv(tmp_path, compress):
    path = write(tmp_path / "a", "\ufeffone\teins\r\ntwo\tzwei\n\t\n".encode(), compress)
    assert strings(read_tsv(path)) == [("one", "eins"), ("two", "zwei"), ("", "")]
    assert check_tsv(path) == 3


@pytest.mark.parametrize(("line", "tabs"), [(b"no tab", 0), (b"a\tb\tc", 2)])
def test_tsv_names_the_line(tmp_path, line, tabs):
    path = write(tmp_path / "a", b"one\teins\n" + line + b"\n")
    with pytest.raises(ValueError, match=rf"exactly one tab.*received {tabs} tabs in .*, line 2"):
        check_tsv(path)
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected one tab"):
        strings(read_tsv(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "source must hold at least one line, received the empty file .*bad"),
        (gzip.compress(b"", mtime=0), "source must hold at least one line, received the empty file .*bad"),
        (b"one\n", "received 1 lines in .*bad and 2 lines in .*good"),
        (b"one\ntwo\nthree", "received 3 lines in .*bad and 2 lines in .*good"),
        (
            b"one\nt\xffo\n",
            "UTF-8 text, received the byte 0xff in .*bad, line 2.*re-encode as UTF-8",
        ),
        ("one\ntwo\n".encode("utf-16"), "received UTF-16 .*bad, line 1: re-encode as UTF-8"),
        (
            "\ufeffone\ntwo\n".encode("utf-16-be"),
            "received UTF-16 .*bad, line 1: re-encode as UTF-8",
        ),
        (
            gzip.compress(b"one\ntwo\n", mtime=0)[:-6],
            "whole gzip file, received .*bad, which is truncated or damaged",
        ),
        (
            gzip.compress(bytes(range(32, 127)) * 50, mtime=0)[:-30],
            "received .*bad, which is truncated or damaged",
        ),
    ],
)
def test_check_refuses(tmp_path, content, message):
    bad, good = write(tmp_path / "bad", content), write(tmp_path / "good", b"eins\nzwei\n")
    with pytest.raises(ValueError, match=message) as caught:
        check_parallel(bad, good)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [check_parallel, read_parallel])
def test_missing_file(tmp_path, read):
    good = write(tmp_path / "good", b"eins\n")
    with pytest.raises(ValueError, match="target must be the path of a file, received .*absent"):
        read(good, tmp_path / "absent")


@pytest.mark.skipif(not MULTI30K.exists(), reason=f"no Multi30k at {MULTI30K}")
def test_multi30k():
    source, target = MULTI30K / "val.en.gz", MULTI30K / "val.de.gz"
    assert check_parallel(source, target) == 1014 == len(strings(read_parallel(source, target)))
