"""
The figures and counters as Prometheus metrics, for `GET /metrics` and for an application's own registry.

    REGISTRY.register(headcount.collector())

Figures are those of the fleet or of this node (`scope`). Counters are always those of this node and carry a `node`
label, so that rates stay right when each scrape reaches another worker. Label values are bounded, at a time and over
time, because visitors can name any number of versions and routes (core/shown_labels.py).

Needs the extra `headcount[metrics]`.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as PrometheusCollector

from .authorization.authorizer import Authorizer
from .core.ends import REFUSALS
from .core.labels import UNKNOWN
from .core.shown_labels import ShownLabels, versions_known_to_the_fleet
from .core.stats import ABSENCE_STATES
from .core.visibility import EVERYTHING, Visibility
from .node.figures import FigureReader
from .node.hooks import Hooks
from .node.node import Node
from .node.rollout import Rollout
from .node.viewers import Viewers

Scope: TypeAlias = Literal["fleet", "node"]

SCRAPE_LINGER: Final = 150.0
"""Seconds. A scrape of an application's own registry cannot wait for other nodes, so their reports are received between
two scrapes. Scrapes are usually at most a minute apart, and one may fail."""

_CLOSED: Final = "closed:"


class MetricLabels:
    """
    Which labels have series of their own, for all scrapes of one process: several scrapers see the same ones.

    Args:
        limit: Labels of one metric at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()  # an application's own registry may be scraped in a thread
        self._choices: dict[tuple[Scope, str], ShownLabels] = {}

    def choose(
        self,
        scope: Scope,
        label: str,
        counts: Mapping[str, int],
        now: float,
        known: Iterable[str] = (),
        always: Iterable[str] = (),
    ) -> dict[str, int]:
        """Return the counts to show of `version` or `route`; see `ShownLabels.choose`."""
        with self._lock:
            choice = self._choices.setdefault((scope, label), ShownLabels(self._limit))
            return choice.choose(counts, now, known, always)


class Collector(PrometheusCollector):
    """
    Builds the metrics for each scrape. O(versions + routes).

    Args:
        node: The node of this process.
        figures: The node's.
        viewers: The node's.
        hooks: The application's, whose failures are counted.
        authorizer: Its failures are counted as errors of `authorize_stats`.
        rollout: The node's.
        scope: Whose figures: the fleet's or this node's.
        linger: Seconds for which reports of other nodes are received after a scrape. None: the caller fetches their
            figures before each scrape.
        labels: Chooses the labels; the same for all collectors of one Headcount.
        visibility: What the scraper may see.
    """

    def __init__(
        self,
        node: Node,
        figures: FigureReader,
        viewers: Viewers,
        hooks: Hooks,
        authorizer: Authorizer,
        rollout: Rollout,
        scope: Scope = "fleet",
        linger: float | None = None,
        *,
        labels: MetricLabels,
        visibility: Visibility = EVERYTHING,
    ) -> None:
        self._node = node
        self._figures = figures
        self._viewers = viewers
        self._hooks = hooks
        self._authorizer = authorizer
        self._rollout = rollout
        self._scope = scope
        self._linger = linger
        self._labels = labels
        self._visibility = visibility

    def collect(self) -> Iterator[Metric]:
        """Give all metrics."""
        yield from self._figure_metrics()
        yield from self._counter_metrics()

    def _figure_metrics(self) -> Iterator[Metric]:
        node, figures = self._node, self._figures
        fleet = self._scope == "fleet"
        stats = self._visibility.stats(
            figures.stats(rows=False, linger=self._linger) if fleet else figures.local_stats()
        )
        current = stats.current_version if fleet else figures.current_version
        known = versions_known_to_the_fleet(
            node.config.version, current, stats.nodes.versions, (UNKNOWN, *node.known_versions)
        )
        declared = () if current is None else (current,)
        now = node.clock()
        yield _gauge_by(
            "headcount_connections",
            "Open connections, by version of the page.",
            "version",
            self._labels.choose(self._scope, "version", stats.versions, now, known, declared),
        )
        if self._visibility.routes:
            yield _gauge_by(
                "headcount_connections_by_route",
                "Open connections, by route of the page; empty without route_tracking.",
                "route",
                self._labels.choose(self._scope, "route", stats.routes, now),
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
            dict.fromkeys(declared, 1),
        )
        yield GaugeMetricFamily(
            "headcount_nodes_reporting", "Nodes whose connections are in the figures.", value=stats.nodes.reporting
        )
        yield GaugeMetricFamily(
            "headcount_nodes_expected", "Nodes that are expected to report.", value=stats.nodes.expected
        )
        yield _gauge_by(
            "headcount_nodes",
            "Nodes that are expected to report, by the version that they serve; unknown: they do not say.",
            "version",
            self._labels.choose(self._scope, "nodes", stats.nodes.by_version, now, known, declared),
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
        yield _gauge_by(
            "headcount_connections_away",
            "Pages whose connection broke off and that may come back, by version of the page.",
            "version",
            self._labels.choose(self._scope, "away", stats.away, now, known, declared),
        )
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

        strangers = GaugeMetricFamily(
            "headcount_stranger_nodes",
            "Nodes with another secret under the same fleet name; their connections are not counted, and figures are "
            "partial.",
            labels=["node"],
        )
        strangers.add_metric([node.id], len(node.border.strangers))
        yield strangers

        cut = GaugeMetricFamily(
            "headcount_cut_after_seconds",
            "Seconds after which something between browsers and the servers ends streams; absent while unknown.",
            labels=["node"],
        )
        if (cut_after := node.cut_after if fleet else node.cut_after_here) is not None:
            cut.add_metric([node.id], cut_after)
        yield cut

        yield from self._rollout_metrics()

    def _rollout_metrics(self) -> Iterator[Metric]:
        node = self._node
        pages = GaugeMetricFamily(
            "headcount_rollout_pages",
            "Pages of this node by what they did about the version declared last; waiting: not asked yet.",
            labels=["node", "state"],
        )
        share = GaugeMetricFamily(
            "headcount_rollout_share",
            "Share of the outdated pages that had a turn in the release declared last, 0 to 1; absent without one.",
            labels=["node"],
        )
        if (found := self._rollout.counts()) is not None:
            for state in ("accepted", "refused", "silent", "gone", "waiting"):
                pages.add_metric([node.id, state], getattr(found, state))
            pages.add_metric([node.id, "deferred"], sum(found.deferred.values()))
            share.add_metric([node.id], self._rollout.share())
        yield pages
        yield share

    def _counter_metrics(self) -> Iterator[Metric]:
        node, counters = self._node, dict(self._node.counters)
        counters["strangers"] = node.border.ignored
        subscribers = GaugeMetricFamily("headcount_subscribers", "Viewers that receive statistics.", labels=["node"])
        subscribers.add_metric([node.id], len(self._viewers.subscriptions))
        yield subscribers
        incomplete = GaugeMetricFamily(
            "headcount_half_open_connections",
            "TCP connections that have not sent a whole request; absent where the server does not tell.",
            labels=["node"],
        )
        if node.count_incomplete_requests is not None:
            incomplete.add_metric([node.id], node.count_incomplete_requests())
        yield incomplete
        given_up = CounterMetricFamily(
            "headcount_half_open_closes",
            "TCP connections closed before their request was whole, by reason.",
            labels=["node", "reason"],
        )
        for name in ("timeout", "limit", "size"):
            given_up.add_metric([node.id, name], counters.get(f"incomplete_request:{name}", 0))
        yield given_up
        closes = CounterMetricFamily(
            "headcount_closes", "Streams closed, by reason (viewers included).", labels=["node", "reason"]
        )
        for name, count in sorted(counters.items()):
            if name.startswith(_CLOSED):
                closes.add_metric([node.id, name.removeprefix(_CLOSED)], count)
        yield closes
        refused = CounterMetricFamily(
            "headcount_refused_connections", "Connections refused by a limit, by reason.", labels=["node", "reason"]
        )
        for end in REFUSALS:
            refused.add_metric([node.id, end.cause], counters.get(f"refused:{end.cause}", 0))
        yield refused
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
    (
        "headcount_rate_limited_messages",
        "Messages refused because their stream sent too many.",
        "rate_limited",
    ),
    ("headcount_releases", "Versions declared current.", "releases"),
    ("headcount_ignored_fleet_messages", "Messages and stored values of strangers that were ignored.", "strangers"),
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
