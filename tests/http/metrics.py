"""Reads /metrics."""

from __future__ import annotations

from collections import defaultdict

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.support import (
    Service,
)

Labels = frozenset[tuple[str, str]]


class Metrics:
    """One reading of /metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples: dict[str, dict[Labels, float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = frozenset(sample.labels.items())
                assert labels not in self.samples[sample.name], "a series is there twice"
                self.samples[sample.name][labels] = sample.value

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the series of `name` that have these labels."""
        return sum(
            value
            for found, value in self.samples.get(name, {}).items()
            if set(labels.items()) <= found
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums of `name` by one label."""
        sums: dict[str, float] = defaultdict(float)
        for labels, value in self.samples.get(name, {}).items():
            sums[dict(labels)[label]] += value
        return dict(sums)

    @property
    def series(self) -> set[tuple[str, Labels]]:
        return {(name, labels) for name, found in self.samples.items() for labels in found}


def read(service: Service) -> Metrics:
    answer = httpx2.get(f"{service.base_url}/metrics", timeout=30, verify=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Metrics(answer.text)
