"""Actor `reranker`: puts the candidates in order by their best sentence."""

import re

import model

BEST = 5
SENTENCES_MAX = 6
WEIGHTS = {"sentence": 0.4, "name": 0.2, "words": 0.4}


class Reranker:
    """Holds the model; made once per replica."""

    def __init__(self):
        self.model = model.load()

    def rank(self, payload: dict) -> dict:
        """`{"query", "candidates"}` → `{"query", "results": [{"name", "score", "summary"}]}`."""
        scored = [(self.score(payload["query"], item), item) for item in payload["candidates"]]
        scored.sort(key=lambda pair: pair[0], reverse=True)
        return {
            "query": payload["query"],
            "results": [
                {"name": item["name"], "score": round(score, 3), "summary": item["summary"]}
                for score, item in scored[:BEST]
            ],
        }

    def score(self, query: str, candidate: dict) -> float:
        """Three views of one candidate: its best sentence, its name, and the words they share."""
        name = split_name(candidate["name"])
        texts = re.split(r"(?<=[.!?])\s+", candidate["text"])[:SENTENCES_MAX]
        vectors = model.embed(self.model, [query, name, *texts])
        near = vectors[1:] @ vectors[0]
        views = {
            "sentence": float(near[1:].max()),
            "name": float(near[0]),
            "words": overlap(query, f"{name} {candidate['text']}"),
        }
        return sum(WEIGHTS[view] * value for view, value in views.items())


def split_name(name: str) -> str:
    """`csv.DictReader` → `csv Dict Reader`."""
    return " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name))


def overlap(query: str, text: str) -> float:
    """The share of the query's words that begin a word of the text: `read` begins `reader`."""
    wanted = [word.rstrip("s") for word in re.findall(r"\w+", query.lower()) if len(word) > 2]
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    hits = sum(any(word.startswith(stem) for word in words) for stem in wanted)
    return hits / max(len(wanted), 1)
