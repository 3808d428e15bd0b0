"""Counters of the server, as Prometheus reads them. No torch here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)  # seconds


class Metrics:
    """Requests by route and status, their times, and what else is counted. Changed by one thread."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, int], int] = defaultdict(int)
        self.times: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS) + 1))
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.active = 0

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has its answer."""
        self.requests[method, route, status] += 1
        at = next((place for place, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
        self.times[route][at] += 1
        self.seconds[route] += seconds

    def text(self, gauges: Mapping[str, Mapping[str, float]]) -> str:
        """The exposition format; gauges: by name, a value a bundle."""
        lines = ["# TYPE longtail_requests_total counter"]
        for (method, route, status), count in sorted(self.requests.items()):
            labels = f'method="{method}",route="{_quoted(route)}",status="{status}"'
            lines.append(f"longtail_requests_total{{{labels}}} {count}")
        lines.append("# TYPE longtail_request_seconds histogram")
        for route, times in sorted(self.times.items()):
            label = f'route="{_quoted(route)}"'
            for bound, total in zip([*map(str, BOUNDS), "+Inf"], accumulate(times), strict=True):
                lines.append(f'longtail_request_seconds_bucket{{{label},le="{bound}"}} {total}')
            lines.append(f"longtail_request_seconds_sum{{{label}}} {self.seconds[route]:.6f}")
            lines.append(f"longtail_request_seconds_count{{{label}}} {sum(times)}")
        lines += ["# TYPE longtail_requests_active gauge", f"longtail_requests_active {self.active}"]
        for name, count in sorted(self.counts.items()):
            lines += [f"# TYPE longtail_{name}_total counter", f"longtail_{name}_total {count}"]
        for name, values in gauges.items():
            lines.append(f"# TYPE longtail_{name} gauge")
            lines += [f'longtail_{name}{{bundle="{_quoted(bundle)}"}} {value:g}' for bundle, value in values.items()]
        return "\n".join(lines) + "\n"


def _quoted(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
