"""
The figures and counters as Prometheus metrics, for `GET /metrics` and for an application's own registry.

    REGISTRY.register(headcount.collector())

Figures are those of the fleet or of this node (`scope`). Counters are always those of this node and carry a `node`
label, so that rates stay right when each scrape reaches another worker. Label values are bounded, because strangers can
name any number of versions and routes: the most frequent ones, the current version, and `(other)`.

Needs the extra `headcount[metrics]`.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as PrometheusCollector

from .authorization.authorizer import Authorizer
from .core.counts import bounded
from .core.labels import UNKNOWN
from .core.stats import ABSENCE_STATES
from .node.figures import FigureReader
from .node.hooks import Hooks
from .node.node import Node
from .node.viewers import Viewers

Scope: TypeAlias = Literal["fleet", "node"]

SCRAPE_LINGER: Final = 150.0
"""Seconds. A scrape of an application's own registry cannot wait for other nodes, so their reports are received between
two scrapes. Scrapes are usually at most a minute apart, and one may fail."""

_CLOSED: Final = "closed:"


class Collector(PrometheusCollector):
    """
    Builds the metrics for each scrape. O(versions + routes).

    Args:
        node: The node of this process.
        figures: The node's.
        viewers: The node's.
        hooks: The application's, whose failures are counted.
        authorizer: Its failures are counted as errors of `authorize_stats`.
        scope: Whose figures: the fleet's or this node's.
        linger: Seconds for which reports of other nodes are received after a scrape. None: the caller fetches their
            figures before each scrape.
    """

    def __init__(
        self,
        node: Node,
        figures: FigureReader,
        viewers: Viewers,
        hooks: Hooks,
        authorizer: Authorizer,
        scope: Scope = "fleet",
        linger: float | None = None,
    ) -> None:
        self._node = node
        self._figures = figures
        self._viewers = viewers
        self._hooks = hooks
        self._authorizer = authorizer
        self._scope = scope
        self._linger = linger

    def collect(self) -> Iterator[Metric]:
        """Give all metrics."""
        yield from self._figure_metrics()
        yield from self._counter_metrics()

    def _figure_metrics(self) -> Iterator[Metric]:
        node, figures = self._node, self._figures
        fleet = self._scope == "fleet"
        stats = figures.stats(rows=False, linger=self._linger) if fleet else figures.local_stats()
        current = stats.current_version if fleet else figures.current_version
        known = () if current is None else (current,)
        limit = node.config.max_metric_labels
        yield _gauge_by(
            "headcount_connections",
            "Open connections, by version of the page.",
            "version",
            bounded(stats.versions, limit, (*known, node.config.version, UNKNOWN), always=known),
        )
        yield _gauge_by(
            "headcount_connections_by_route",
            "Open connections, by route of the page; empty without route_tracking.",
            "route",
            bounded(stats.routes, limit),
        )
        outdated = GaugeMetricFamily(
            "headcount_outdated_connections",
            "Open connections on another version than the current one, unknown included; absent while that is unknown.",
        )
        if current is not None:
            outdated.add_metric([], stats.total - stats.versions.get(current, 0))
        yield outdated
        yield _gauge_by(
            "headcount_current_version_info",
            "1 for the current version: the released one, else the one that all nodes serve; absent while unknown.",
            "version",
            dict.fromkeys(known, 1),
        )
        yield GaugeMetricFamily(
            "headcount_nodes_reporting", "Nodes whose connections are in the figures.", value=stats.nodes.reporting
        )
        yield GaugeMetricFamily(
            "headcount_nodes_expected", "Nodes that are expected to report.", value=stats.nodes.expected
        )
        yield GaugeMetricFamily(
            "headcount_partial", "1 if the figures are partial, otherwise 0.", value=int(stats.partial)
        )
        unaccounted = GaugeMetricFamily(
            "headcount_unaccounted_connections",
            "Connections of absent nodes that have not reconnected, by state; nodes with an unknown number are left "
            "out.",
            labels=["state"],
        )
        for state in ABSENCE_STATES:
            count = sum(absence.total or 0 for absence in stats.absences if absence.state == state)
            unaccounted.add_metric([state], count)
        yield unaccounted
        yield GaugeMetricFamily(
            "headcount_nodes_unaccounted",
            "Absent nodes with unaccounted connections.",
            value=len(stats.absences),
        )
        yield GaugeMetricFamily(
            "headcount_last_report_age_seconds",
            "Seconds since the most silent node last reported; 0 for a single node.",
            value=figures.report_age if fleet else 0.0,
        )

        cut = GaugeMetricFamily(
            "headcount_cut_after_seconds",
            "Seconds after which something between browsers and this node ends streams; absent while unknown.",
            labels=["node"],
        )
        if (cut_after := node.cut_after) is not None:
            cut.add_metric([node.id], cut_after)
        yield cut

    def _counter_metrics(self) -> Iterator[Metric]:
        node, counters = self._node, dict(self._node.counters)
        subscribers = GaugeMetricFamily("headcount_subscribers", "Viewers that receive statistics.", labels=["node"])
        subscribers.add_metric([node.id], len(self._viewers.subscriptions))
        yield subscribers
        closes = CounterMetricFamily(
            "headcount_closes", "Streams closed, by reason (viewers included).", labels=["node", "reason"]
        )
        for name, count in sorted(counters.items()):
            if name.startswith(_CLOSED):
                closes.add_metric([node.id, name.removeprefix(_CLOSED)], count)
        yield closes
        errors = CounterMetricFamily(
            "headcount_hook_errors", "Failures of the application's functions, by hook.", labels=["node", "hook"]
        )
        asking = self._authorizer.errors + counters.get("authorize_errors", 0)
        errors.add_metric([node.id, "connection"], self._hooks.errors)
        errors.add_metric([node.id, "authorize_stats"], asking)
        errors.add_metric([node.id, "subscriber"], counters.get("observer_errors", 0))
        yield errors
        for name, text, key in _PLAIN:
            family = CounterMetricFamily(name, text, labels=["node"])
            family.add_metric([node.id], counters.get(key, 0))
            yield family


_PLAIN: Final = (
    ("headcount_opens", "Streams opened (viewers included).", "opened"),
    ("headcount_reconnects", "Streams opened by clients that say they reconnected.", "reconnects"),
    ("headcount_pushes", "Pushes of changed figures to viewers.", "flushes"),
    (
        "headcount_conflated_pushes",
        "Pushes that a slow viewer did not receive because newer figures replaced them.",
        "conflated",
    ),
    ("headcount_slow_peers_dropped", "Streams closed because the peer did not read.", "closed:slow"),
    ("headcount_withdrawn_rights", "Viewers who lost their right while they watched.", "withdrawn"),
    ("headcount_malformed_messages", "Malformed messages refused.", "malformed"),
    ("headcount_releases", "Versions declared current.", "releases"),
)
"""Name without `_total`, which the format adds; help; name in `Node.counters`."""


def render(collector: Collector, accept: str) -> tuple[bytes, str]:
    """Return a scrape's body and content type: OpenMetrics if `accept` asks for it, else the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _gauge_by(name: str, text: str, label: str, counts: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
