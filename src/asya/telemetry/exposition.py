"""Gathered numbers as the text that Prometheus reads, by prometheus-client.

The library is imported at the first scrape, in a thread; it keeps no numbers, a registry is made
for each text. The mesh's own process is shown beside them (`process_…`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from asya.telemetry import catalog
from asya.telemetry.metrics import Gathered, Sample

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition(gathered: Gathered, namespace: str) -> bytes:
    """The text format of Prometheus, version 0.0.4, which every scraper reads."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(gathered, namespace))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Collector:
    def __init__(self, gathered: Gathered, namespace: str) -> None:
        self._gathered = gathered
        self._namespace = namespace

    def describe(self) -> list[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        samples: dict[str, list[Sample]] = {}
        for sample in self._gathered.samples:
            samples.setdefault(sample.metric, []).append(sample)
        for metric in catalog.METRICS:
            labels = ["namespace", *metric.labels]
            if metric.kind == "histogram":
                histograms = HistogramMetricFamily(metric.name, metric.help, labels=labels)
                for (name, actor), each in self._gathered.histograms.items():
                    if name == metric.name:
                        histograms.add_metric(
                            [self._namespace, actor], _cumulative(each.counts), each.total
                        )
                yield histograms
            else:
                family = kinds[metric.kind](metric.name, metric.help, labels=labels)
                for sample in samples.get(metric.name, ()):
                    family.add_metric([self._namespace, *sample.labels], sample.value)
                yield family


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in catalog.BUCKETS_S), "+Inf"]
    return list(zip(bounds, accumulate(counts), strict=True))
