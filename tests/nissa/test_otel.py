"""What a collector of OpenTelemetry receives over a real socket."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from esper.nissa import Apart, OpenTelemetry, Spread, events, progress
from esper.nissa.event import Event

EPOCH = progress.EpochEnded(
    3, 30, {"f1": 0.5, "loss": float("nan")}, 1e6, 1200, 4, 1.5, 0.1, 9.0, None, 60.0, 0.5, None
)


class Collector(HTTPServer):
    """Keeps what is posted to it, by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posted: dict[str, list[bytes]] = {}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert isinstance(self.server, Collector)
        self.server.posted.setdefault(self.path, []).append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_numbers_are_gauges_and_news_are_spans_under_the_name_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spread = Spread(4, 1, 1.0, 0.25, 0.1, 0.5, 0.25, 0.5, None)
    with collector(monkeypatch) as server:
        writer = OpenTelemetry("first")
        writer.write(1.0, progress.TelemetrySummary(2, "rank-0", {"step_seconds": spread}, 0, 0, ""))
        writer.write(1.5, events.Refused(3, "No."))
        writer.write(1.6, events.Idle(3, "No news."))
        writer.write(2.0, EPOCH)
        writer.close()
    metrics = ExportMetricsServiceRequest.FromString(server.posted["/v1/metrics"][0]).resource_metrics[0]
    about = {item.key: item.value.string_value for item in metrics.resource.attributes}
    assert (about["service.name"], about["esper.run"]) == ("esper", "first")
    gauges = {m.name: m.gauge.data_points[0].as_double for m in metrics.scope_metrics[0].metrics}
    assert gauges["esper.metrics.f1"] == 0.5
    assert gauges["esper.network.parameters"] == 1200
    assert gauges["esper.step_seconds.p95"] == 0.5
    assert "esper.metrics.loss" not in gauges
    spans = ExportTraceServiceRequest.FromString(server.posted["/v1/traces"][0]).resource_spans[0]
    shown = {span.name: span for span in spans.scope_spans[0].spans}
    assert set(shown) == {"esper.no_go", "esper.epoch"}
    epoch = shown["esper.epoch"]
    assert epoch.end_time_unix_nano - epoch.start_time_unix_nano == 1_500_000_000
    told = {item.key: item.value for item in shown["esper.no_go"].attributes}
    assert told["esper.text"].string_value == "Nothing was masked, the plan was refused: No."
    assert told["esper.epoch"].int_value == 3


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "the-lab")
    with collector(monkeypatch) as server:
        writer = OpenTelemetry("first")
        writer.write(2.0, EPOCH)
    metrics = ExportMetricsServiceRequest.FromString(server.posted["/v1/metrics"][0]).resource_metrics[0]
    assert "the-lab" in [item.value.string_value for item in metrics.resource.attributes]


def test_a_collector_that_is_not_there_is_told_of_once_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.05")
    told: list[Event] = []
    writer = OpenTelemetry("first")
    assert writer.address == f"http://127.0.0.1:{port}"
    sink = Apart("OpenTelemetry", writer, told.append, 10)
    sink.emit(EPOCH)
    sink.emit(EPOCH)
    sink.close()
    assert sink.lost == 2
    assert [event.text for event in told if "OTEL_EXPORTER_OTLP_ENDPOINT" in event.text] == [
        event.text for event in told
    ]
    assert len(told) == 1


def test_without_the_library_people_are_told_what_to_install() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
from esper.nissa import OpenTelemetry
OpenTelemetry("first")
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'esper-torch[opentelemetry]'" in outcome.stderr
