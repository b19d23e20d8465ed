"""Reads what a service tells Prometheus, as Prometheus does."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families as read_prometheus
from serving import request


def scraped(url, headers=None):
    """Value by name and labels, as Prometheus reads them."""
    status, _, body = asyncio.run(request(f"{url}/metrics", "GET", headers=headers))
    assert status == 200
    return samples(body)


def samples(page):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in read_prometheus(page.decode())
        for sample in family.samples
    }


def total(page, name, **labels):
    """The sum of all samples with these labels."""
    wanted = set(labels.items())
    return sum(
        value for (found, *own), value in page.items() if found == name and wanted <= set(own)
    )


def request_id(url, path="/healthz", **headers):
    """The one X-Request-Id of an answer."""
    answer = asyncio.run(request(f"{url}{path}", "GET", headers=headers))[1]
    (found,) = answer.getall("X-Request-Id")
    return found
