"""The page that Prometheus reads, out of the counts of one machine or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from serve_app.telemetry.counts import Key
from serve_app.telemetry.families import FAMILIES, SUM, Family


def render(
    totals_by_node: Mapping[str, Mapping[Key, float]], accept: str | None = None
) -> tuple[bytes, str]:
    """The page that Prometheus reads.

    Args:
        totals_by_node: What `SharedCounts.totals` gave on each machine. Machines are told apart by the
            label `node`, since a sum that falls when one leaves would look like a restart of them all; the
            empty name is that of a service that runs on one anyway, and gives no label.
        accept: The request's Accept header; OpenMetrics for those who ask for it.

    Returns:
        Page and content type.
    """
    page = _Page(totals_by_node)
    # Not `choose_encoder` of the library, which fails on versions that are no numbers.
    kinds = (part.partition(";")[0].strip().lower() for part in (accept or "").split(","))
    if "application/openmetrics-text" in kinds:
        page_bytes: bytes = openmetrics.generate_latest(page)  # type: ignore[no-untyped-call]
        return page_bytes, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(page), CONTENT_TYPE_PLAIN_0_0_4


class _Page(Collector):
    def __init__(self, totals_by_node: Mapping[str, Mapping[Key, float]]) -> None:
        self._totals_by_node = totals_by_node

    def collect(self) -> Iterable[Metric]:
        by_family: dict[str, list[tuple[str, Key, float]]] = {}
        for node, totals in self._totals_by_node.items():
            for (name, *labels), value in totals.items():
                by_family.setdefault(name, []).append((node, tuple(labels), value))
        for family in FAMILIES:
            yield _metric(family, sorted(by_family.get(family.name, ())))


def _metric(family: Family, numbers: list[tuple[str, Key, float]]) -> Metric:
    """One metric with its samples; `numbers` are node, labels (of a histogram: also the part), value."""
    with_node = any(node for node, _, _ in numbers)
    label_names = (*family.labels, "node") if with_node else family.labels
    metric: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    if family.buckets:
        metric = HistogramMetricFamily(family.name, family.help, labels=label_names)
        parts: dict[Key, dict[str, float]] = {}
        for node, labels, value in numbers:
            key = (*labels[:-1], node) if with_node else labels[:-1]
            parts.setdefault(key, {})[labels[-1]] = value
        for key, by_part in parts.items():
            metric.add_metric(key, *_cumulative(family, by_part))
        return metric
    kind = GaugeMetricFamily if family.is_gauge else CounterMetricFamily
    metric = kind(family.name, family.help, labels=label_names)
    for node, labels, value in numbers:
        metric.add_metric((*labels, node) if with_node else labels, value)
    return metric


def _cumulative(
    family: Family, by_part: Mapping[str, float]
) -> tuple[list[tuple[str, float]], float]:
    """Buckets as Prometheus has them, each with all below it, and the sum."""
    rows: list[tuple[str, float]] = []
    below = 0.0
    for bucket in family.bucket_names:
        below += by_part.get(bucket, 0.0)
        rows.append((bucket, below))
    return rows, by_part.get(SUM, 0.0)
