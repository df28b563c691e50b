"""Handlers are plain functions, so their tests need no mesh: `python3 -m unittest`."""

import asyncio
import unittest

import handlers


class TestHandlers(unittest.TestCase):
    def test_normalize_keeps_the_words_only(self):
        payload = handlers.normalize({"text": "Row, row (row) your boat!"})
        self.assertEqual(payload["words"], ["row", "row", "row", "your", "boat"])

    def test_digest_streams_and_then_counts(self):
        async def collect():
            return [frame async for frame in handlers.digest({"words": ["row", "row", "boat"]})]

        event, result = asyncio.run(collect())
        self.assertEqual(event[0], "FLY")
        self.assertEqual(result, {"words": 3, "different": 2, "repeated": {"row": 2}})


if __name__ == "__main__":
    unittest.main()
