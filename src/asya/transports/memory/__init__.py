"""Queues in memory, for tests and benchmarks."""
