"""Telemetry for OpenTelemetry: numbers are gauges, news are spans, and a collector is sent both by OTLP."""

from __future__ import annotations

import logging
import os
from typing import Any

from esper.errors import ConfigError
from esper.nissa.event import Event, Moment, Severity, kind_of
from esper.nissa.progress import EpochEnded, TelemetrySummary
from esper.nissa.scalars import quantiles, scalars

_NANO = 1_000_000_000


class OpenTelemetry:
    """Sends the gauges of every epoch, a span for the epoch, and one for every event that people are told of.

    Where to, and with which headers, is said as everywhere: `OTEL_EXPORTER_OTLP_ENDPOINT` (unset:
    `http://localhost:4318`), `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME` (unset: `esper`).

    Args:
        run: the name of the run, `esper.run` in all that is sent.

    Attributes:
        address: where people have to look for the collector.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """

    def __init__(self, run: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import InMemoryMetricReader
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import SimpleSpanProcessor
            from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        except ModuleNotFoundError as error:
            raise ConfigError(
                "telemetry.opentelemetry needs OpenTelemetry, which is not installed: "
                "pip install 'esper-torch[opentelemetry]'. Nothing was changed."
            ) from error
        self.address = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
        # What the environment says wins over our names.
        about = Resource.create({"service.name": "esper", "esper.run": run}).merge(
            OTELResourceDetector().detect()
        )
        self._reader = InMemoryMetricReader()
        self._meter = MeterProvider([self._reader], resource=about).get_meter("esper")
        self._gauges: dict[str, Any] = {}
        self._has_news = False
        self._spans = InMemorySpanExporter()
        tracers = TracerProvider(resource=about)
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._tracer = tracers.get_tracer("esper")
        self._to_metrics, self._to_spans = OTLPMetricExporter(), OTLPSpanExporter()
        # The exporters log each failure. Unless somebody listens to them it is told once, as that of a sink.
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())

    def write(self, at_seconds: float, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self._span("epoch", event, at_seconds - event.seconds, at_seconds)
            self._set(dict(scalars(event)))
            self._send()
        elif isinstance(event, TelemetrySummary):
            self._set(dict(quantiles(event)))
        elif event.severity >= Severity.NEWS:
            name = event.kind if isinstance(event, Moment) and event.kind else kind_of(type(event))
            self._span(name, event, at_seconds, at_seconds)

    def close(self) -> None:
        """Sends what has come since the last epoch."""
        if self._has_news:
            self._send()

    def _set(self, values: dict[str, float]) -> None:
        self._has_news = True
        for name, value in values.items():
            gauge = self._gauges.get(name)
            if gauge is None:
                gauge = self._gauges[name] = self._meter.create_gauge("esper." + name.replace("/", "."))
            gauge.set(value)

    def _span(self, name: str, event: Event, start: float, end: float) -> None:
        told: dict[str, Any] = {"esper.text": event.text, "esper.severity": event.severity.name.lower()}
        if isinstance(event, Moment):
            told["esper.epoch"] = event.epoch
        self._has_news = True
        span = self._tracer.start_span(f"esper.{name}", start_time=round(start * _NANO), attributes=told)
        span.end(round(end * _NANO))

    def _send(self) -> None:
        """Sends all that waits.

        Raises:
            ConnectionError: the collector did not take it.
        """
        spans, metrics = self._spans.get_finished_spans(), self._reader.get_metrics_data()
        self._spans.clear()
        self._has_news = False
        taken = [self._to_spans.export(spans).name] if spans else []
        if metrics is not None and metrics.resource_metrics:
            taken.append(self._to_metrics.export(metrics).name)
        if set(taken) - {"SUCCESS"}:
            raise ConnectionError(
                "the collector did not take it. Look at OTEL_EXPORTER_OTLP_ENDPOINT (unset: "
                "http://localhost:4318)"
            )
