"""The embedding model that both actors use: word vectors, 256 numbers per text, no GPU needed."""

from pathlib import Path

import numpy as np
import wordllama


def load() -> wordllama.WordLlamaInference:
    """The model whose weights came with the package; nothing is downloaded."""
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


def embed(model: wordllama.WordLlamaInference, texts: list[str]) -> np.ndarray:
    """One row per text, of length one, so that a dot product is the cosine of two texts."""
    return model.embed(texts, norm=True)
