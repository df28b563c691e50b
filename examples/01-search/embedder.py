"""Actor `embedder`: from a question to the documents that are near it."""

import re

import corpus
import model
import numpy as np

CANDIDATES = 50


class Embedder:
    """Holds the model and the index; made once per replica."""

    def __init__(self):
        self.model = model.load()
        self.documents = corpus.documents()
        self.index = model.embed(self.model, [whole(document) for document in self.documents])

    def search(self, payload: dict):
        """`{"query": text}` → the same with `candidates`, the nearest documents."""
        yield "FLY", {"text": f"{len(self.documents)} documents\n"}
        query = model.embed(self.model, [payload["query"]])[0]
        nearest = np.argsort(self.index @ query)[::-1][:CANDIDATES]
        yield {
            "query": payload["query"],
            "candidates": [self.documents[position]._asdict() for position in nearest],
        }


def whole(document: corpus.Document) -> str:
    """Name and text as one: the words inside a name say much about what it is for."""
    return f"{' '.join(re.findall(r'[A-Z]?[a-z]+|[A-Z]+', document.name))}. {document.text}"
