"""Rollouts to 10,000 simulated sites: what the schedule costs, in wall time and memory, and how long sites wait, in virtual time.

The schedule is the one that carries out real rollouts; sites, link and time are simulated (`containers.fleet.simulate`). 20 % of
the sites are away when the rollout begins, 1 % fail. After every run the events are checked by a second count, and replayed.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import Figures, arguments, medians, progress, report, run_alone, show
from containers.fleet.policy import Policy
from containers.fleet.schedule import Schedule
from containers.fleet.simulate import Run, World, simulate, violations

WAVES = Policy(canary=1, waves=(5, 25, 100), soak_s=300)
CASES = {  # the last figure: share of sites that pull
    "at_once": (Policy(), math.inf, 0.0),
    "waves": (WAVES, math.inf, 0.0),
    "abort": (Policy(), 3000.0, 0.0),
    "half_pull": (Policy(), math.inf, 0.5),
    "half_pull_waves": (WAVES, math.inf, 0.5),
    "all_pull": (Policy(), math.inf, 1.0),
    "all_pull_1000": (Policy(max_parallel=1000), math.inf, 1.0),
}
DRAWN = ("at_once", "waves", "abort")
SITES, THOUSAND = 10_000, 1_250  # 1,000 of the latter are online, but for chance
SIZES = (10_000, 50_000, 100_000, 200_000, 300_000, 350_000, 400_000, 600_000, 1_000_000)
GOAL_MIN = 5.0
PERCENTILES = {"p50": 50, "p95": 95, "max": 100}


def percentiles(run: Run) -> dict[str, float]:
    """Minutes from the start of the rollout until online sites are brought up to date."""
    return {name: float(np.percentile(run.minutes(), p)) for name, p in PERCENTILES.items()}


def run_case(name: str, site_bytes: int) -> None:
    """One rollout to 10,000 sites, checked."""
    policy, abort_at_s, pulling = CASES[name]
    world = World(sites=SITES, site_bytes=site_bytes, pulling=pulling)
    start = time.perf_counter()
    run = simulate(world, policy, abort_at_s=abort_at_s)
    seconds = time.perf_counter() - start
    wrong = violations(policy, world.names, run.events)
    assert not wrong, wrong
    assert Schedule(policy, world.names, run.events).sites == run.schedule.sites, "a replay gives another state"
    counts = {state: run.schedule.counts[state] for state in ("done", "failed", "skipped")}
    us = seconds / len(run.events) * 1e6
    report(seconds=seconds, events=len(run.events), us_an_event=us, **counts, **percentiles(run))


def run_series(site_bytes: Sequence[int]) -> dict[str, list[float]]:
    """p50, p95 and max of 1,000 online sites at once, by the size of the update."""
    found: dict[str, list[float]] = {name: [] for name in PERCENTILES}
    for size in site_bytes:
        world = World(sites=THOUSAND, site_bytes=size)
        run = simulate(world, Policy())
        assert not violations(Policy(), world.names, run.events)
        for name, minutes in percentiles(run).items():
            found[name].append(minutes)
    return found


def largest_bytes() -> int:
    """The largest update, in steps of 10 kB, with which 95 % of 1,000 online sites are up to date within the goal."""
    low, high = 0, 100  # fits, does not
    while high - low > 1:
        middle = (low + high) // 2
        fits = run_series([middle * 10_000])["p95"][0] < GOAL_MIN
        low, high = (middle, high) if fits else (low, middle)
    return low * 10_000


def draw(series: dict[str, list[float]], site_bytes: int, to: Path) -> None:
    """How far rollouts are as time goes by, and how long 1,000 sites take by the size of the update."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for name in DRAWN:
        policy, abort_at_s, _ = CASES[name]
        run = simulate(World(sites=SITES, site_bytes=site_bytes), policy, abort_at_s=abort_at_s)
        minutes = np.sort(list(run.final_s.values())) / 60
        left.plot(minutes, np.arange(1, len(minutes) + 1), label=name.replace("_", " "))
    left.axhline(len(run.online), color="#999", linewidth=0.8, linestyle="--", label="online at the start")
    left.set(xlabel=f"minutes, {site_bytes / 1e6:g} MB a site", ylabel="sites brought up to date", xlim=(0, 240))
    for name, values in series.items():
        right.plot([size / 1000 for size in SIZES], values, "o-", label=name)
    right.axhline(GOAL_MIN, color="#999", linewidth=0.8, linestyle="--")
    right.set(xlabel="kB a site", ylabel="minutes, 1,000 online sites", ylim=(0, None))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(to, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run every case in a process of its own, then the series."""
    parser = arguments("Rollouts to 10,000 simulated sites: wall time, memory, and minutes until sites are up to date.")
    parser.add_argument("--bytes", type=int, default=1_000_000, help="that an update ships to each site")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures there (PNG or SVG)")
    options = parser.parse_args()
    runs: dict[str, list[Figures]] = {case: [] for case in CASES}
    for i in range(options.runs):
        for case, found in runs.items():
            found.append(run_alone("benchmarks.fleet", [case, str(options.bytes)]))
        progress(f"run {i + 1} of {options.runs}: order of events right, replay the same")
    figures: dict[str, float] = {}
    shapes: dict[str, str] = {}
    units = {"seconds": "{:.1f} s", "rss_mb": "{:.0f} MB", "us_an_event": "{:.0f} µs", "events": "{:,.0f}"}
    for case, found in runs.items():
        of_case = medians(found)
        figures |= {f"{case} {name}": value for name, value in of_case.items()}
        shapes |= {
            f"{case} {name}": units.get(name, "{:.1f} min" if name in PERCENTILES else "{:,.0f}") for name in of_case
        }
    show(f"rollouts to {SITES:,} sites, {options.bytes:,} bytes each, 10 Mbit/s", figures, shapes, None)
    series = run_series(SIZES)
    print(f"\n1,000 online sites at once, minutes\n{'kB a site':>12}" + "".join(f"{name:>8}" for name in series))
    for at, size in enumerate(SIZES):
        print(f"{size / 1000:>12,.0f}" + "".join(f"{values[at]:>8.1f}" for values in series.values()))
        figures |= {f"1000 sites, {size} bytes, {name}": values[at] for name, values in series.items()}
    figures["bytes_within_goal"] = largest_bytes()
    print(f"p95 is under {GOAL_MIN:g} min up to {figures['bytes_within_goal'] / 1000:,.0f} kB a site")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if options.plot is not None:
        draw(series, options.bytes, options.plot)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [name, site_bytes] if name in CASES:
            run_case(name, int(site_bytes))
        case _:
            main()
