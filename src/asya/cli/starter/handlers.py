"""The actors of this project: plain functions from one JSON value to the next."""

from collections import Counter


def normalize(payload: dict) -> dict:
    """Put the words of `text` in lower case, without punctuation."""
    words = [word.strip(".,;:!?\"'()").lower() for word in payload["text"].split()]
    return {**payload, "words": [word for word in words if word]}


async def digest(payload: dict):
    """Say how long the text is and which words it repeats; tell who watches how far it is."""
    yield "FLY", {"text": f"counting {len(payload['words'])} words\n"}
    counts = Counter(payload["words"])
    yield {
        "words": len(payload["words"]),
        "different": len(counts),
        "repeated": {word: count for word, count in counts.most_common(5) if count > 1},
    }
