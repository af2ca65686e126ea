"""The figures as a table beside their bars, and as the flat JSON that scripts read."""

import dataclasses
from collections.abc import Iterator, Mapping

import rich.console
import rich.table

from benchmarks import runs

WIDTH = 150
LARGE_BUILD = "build_large_tree_pss_mib"
MANY_FILES_BUILD = "build_many_files_tree_pss_mib"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line: a figure computed from the run's flat values, and the bar it must reach."""

    name: str
    unit: str
    bar: str
    inputs: tuple[str, ...]
    form: str = "value"
    """`value`: the input itself; `ratio`: first input divided by the second."""
    spread: str = ""
    """What the names of the least and the greatest figure of all rounds begin with; empty where the
    figure is the input itself."""

    def is_measured(self, flat: Mapping[str, float]) -> bool:
        """Whether the run has all that this needs."""
        return all(name in flat for name in self.inputs)

    def figure(self, flat: Mapping[str, float]) -> float:
        """The figure of this run."""
        first = flat[self.inputs[0]]
        return first / flat[self.inputs[1]] if self.form == "ratio" else first

    def range(self, flat: Mapping[str, float]) -> str:
        """The least and the greatest figure of all rounds, where the run has them."""
        found = self._extremes(flat)
        return f"{found[0]:.3g} to {found[1]:.3g}" if len(found) == 2 else ""

    def verdict(self, flat: Mapping[str, float]) -> str:
        """In one word: a bar that only some rounds reach is neither reached nor missed."""
        figures = [self.figure(flat), *self._extremes(flat)]
        reached = [self._reaches(figure) for figure in figures]
        return "ok" if all(reached) else "unsure" if any(reached) else "MISSED"

    def _extremes(self, flat: Mapping[str, float]) -> list[float]:
        name = self.spread or (self.inputs[0] if self.form == "value" else "")
        return [flat[each] for each in (f"{name}_min", f"{name}_max") if each in flat]

    def _reaches(self, figure: float) -> bool:
        relation, _, limit = self.bar.partition(" ")
        return figure >= float(limit) if relation == ">=" else figure <= float(limit)

    def line(self, flat: Mapping[str, float]) -> str:
        """All of it in one line, for one that is shown before the table."""
        rounds = f" ({self.range(flat)})" if self.range(flat) else ""
        figure = f"{self.figure(flat):.3g} {self.unit}".strip()
        return f"{self.name}: {figure}{rounds}, bar {self.bar}: {self.verdict(flat)}"


def _compared(name: str, bar: str, ours: str, theirs: str, spread: str = "") -> Row:
    """The ratio of two times; its rounds are found under a name, by default that of the first."""
    return Row(name, "x", bar, (f"{ours}_s", f"{theirs}_s"), "ratio", f"{spread or ours}_ratio")


def _gigabytes(size: str, prefix: str) -> Iterator[Row]:
    """What an image of gigabytes costs, beside overlayfs on the same disk."""
    for name, bar, ours, theirs in (
        ("build / overlayfs pull", "<= 0.7", "build", "pull_overlayfs"),
        ("first output, cold: uimgacc / overlayfs", "<= 0.8", "import_uimgacc", "import_overlayfs"),
        ("read all: uimgacc / overlayfs", "<= 0.8", "readall_uimgacc", "readall_overlayfs"),
    ):
        yield _compared(f"image of {size}: {name}", bar, f"{prefix}_{ours}", f"{prefix}_{theirs}")
    memory = f"{prefix}_build_tree_pss_mib"
    yield Row(f"image of {size}: memory of a build", "MiB", "<= 400", (memory,))


def _starts() -> Iterator[Row]:
    """How a first output far from the store compares with one from the local disk."""
    bars = (
        ("0.5 ms, with a profile / all local", "<= 1.1", "far_05ms_profile", "far_local"),
        ("2 ms, with a profile / all local", "<= 1.1", "far_2ms_profile", "far_local"),
        ("2 ms, without a profile / today", "<= 0.85", "far_2ms_first", "far_2ms_today"),
    )
    for measured, since in (("", "pod"), ("_container", "container's start")):
        for name, bar, first, second in bars:
            ratio = f"{first}{measured}_ratio"
            inputs = (f"{first}{measured}_s", f"{second}{measured}_s")
            yield Row(f"{since} -> output, {name}", "x", bar, inputs, "ratio", ratio)


ROWS = (
    _compared("pull: overlayfs / uimgacc", ">= 70", "pull_overlayfs", "pull_uimgacc"),
    _compared("pull: uimgacc / SOCI lazy", "<= 1.2", "pull_uimgacc", "pull_soci", "pull_soci"),
    Row("layer blobs fetched by cached pulls", "", "<= 0", ("pull_uimgacc_layer_blobs",)),
    Row("manifest appears -> registered, 2 layers", "ms", "<= 50", ("register_2_layers_ms",)),
    Row("manifest appears -> registered, 40 layers", "ms", "<= 200", ("register_40_layers_ms",)),
    _compared(
        "read all: uimgacc / SOCI", "<= 0.65", "readall_uimgacc", "readall_soci", "readall_soci"
    ),
    _compared(
        "read all: uimgacc / overlayfs on disk",
        "<= 1.05",
        "readall_uimgacc",
        "readall_overlayfs",
        "readall_overlayfs",
    ),
    _compared("build / overlayfs pull", "<= 0.6", "build", "pull_overlayfs"),
    Row("memory of a build, large image, all processes", "MiB", "<= 300", (LARGE_BUILD,)),
    Row("the same, 300,000 small files", "MiB", "<= 300", (MANY_FILES_BUILD,)),
    Row("HEADs a layer, private image in the store", "", "<= 1", ("build_again_heads_per_layer",)),
    Row("layer blobs fetched by that build", "", "<= 0", ("build_again_layer_blobs",)),
    Row("slowest request p99, 2,000 snapshots", "ms", "<= 10", ("rpc_p99_ms",)),
    Row("List by reference p99, 2,000 snapshots", "ms", "<= 10", ("list_by_ref_p99_ms",)),
    Row(
        "List by reference, median: 2,000 / 500 snapshots",
        "x",
        "<= 1.5",
        ("list_by_ref_p50_ms", "list_by_ref_few_p50_ms"),
        "ratio",
    ),
    Row("100 containers at once: added, median", "ms", "<= 10", ("create100_added_ms",)),
    Row("start to serving, 500 layers", "s", "<= 1", ("snapshotter_start_s",)),
    Row("snapshotter RSS, 508 layers, 110 pods", "MiB", "<= 60", ("snapshotter_rss_mib",)),
    Row("the same with its workers (PSS)", "MiB", "<= 60", ("snapshotter_tree_pss_mib",)),
    Row("snapshotter RSS, 2,000 snapshots", "MiB", "<= 60", ("snapshotter_2000_rss_mib",)),
    Row("agent RSS, 508 layers, 110 pods", "MiB", "<= 115", ("agent_rss_mib",)),
    Row("the same with its workers (PSS)", "MiB", "<= 115", ("agent_tree_pss_mib",)),
    Row("idle CPU of both, with these", "%", "<= 0.5", ("idle_cpu_percent",)),
    Row("pod bound -> registered, by the API", "ms", "<= 80", ("kube_register_ms",)),
    Row("the same amid 20 changes/s of 250 pods", "ms", "<= 80", ("kube_busy_register_ms",)),
    Row("agent's CPU for those changes", "%", "<= 10", ("kube_busy_cpu_percent",)),
    Row("idle API requests per minute", "", "<= 4", ("kube_idle_requests_per_minute",)),
    Row("agent RSS, 250 pods by the API", "MiB", "<= 115", ("kube_agent_rss_mib",)),
    Row("the same with its workers (PSS)", "MiB", "<= 115", ("kube_agent_tree_pss_mib",)),
    Row("a collection that finds nothing, 100,000 layers", "s", "<= 10", ("collect_idle_s",)),
    Row("the same, nothing has changed since", "s", "<= 1", ("collect_unchanged_s",)),
    Row("a collection that deletes half of them", "s", "<= 45", ("collect_delete_half_s",)),
    Row("collector RSS for that", "MiB", "<= 150", ("collect_rss_mib",)),
    Row("1 ms from the server: finds nothing, 50,000", "s", "<= 60", ("collect_far_idle_s",)),
    Row(
        "1 ms from the server: deletes 25,000 of 50,000",
        "s",
        "<= 60",
        ("collect_far_delete_quarter_s",),
    ),
    Row("100,000 layers are signed", "s", "<= 300", ("sign_s",)),
    Row("the same, again by another key", "s", "<= 300", ("sign_again_s",)),
    Row("RSS for that", "MiB", "<= 150", ("sign_rss_mib",)),
    Row("1,000 caches looked at after a restart", "s", "<= 30", ("control_restart_s",)),
    Row("the same, all of their statuses lost", "s", "<= 30", ("control_adopt_s",)),
    Row("API requests for each of them", "", "<= 3", ("control_adopt_requests",)),
    Row("controller's highest RSS, 1,000 caches", "MiB", "<= 160", ("control_rss_mib",)),
    Row("the same with its workers (PSS)", "MiB", "<= 160", ("control_tree_pss_mib",)),
    Row("object applied -> first byte of a layer", "s", "<= 5", ("control_applied_first_byte_s",)),
    Row("builder's start -> first byte, slowest", "s", "<= 5", ("control_first_byte_slowest_s",)),
    Row("cache published -> Ready, slowest", "s", "<= 1", ("control_ready_after_slowest_s",)),
    Row(
        "idle API requests of a node and minute, fleet",
        "",
        "<= 0.5",
        ("fleet_idle_requests",),
    ),
    Row("the benchmark of the fleet", "min", "<= 15", ("fleet_minutes",)),
    *_gigabytes("3 GB", "torch"),
    *_gigabytes("5 GB and more", "large"),
    *_starts(),
    Row(
        "store requests of a start with a profile",
        "",
        "<= 250",
        ("far_2ms_profile_reads",),
        spread="far_2ms_profile_reads",
    ),
    Row(
        "a container reads, beside copying / without",
        "x",
        "<= 1.1",
        ("far_beside_copying_s", "far_without_copying_s"),
        "ratio",
    ),
    Row(
        "switch to the copy under a reader, median",
        "ms",
        "<= 200",
        ("far_switch_ms",),
        spread="far_switch_ms",
    ),
    Row("errors in 1,000 switches there and back", "", "<= 0", ("far_switch_errors",)),
    Row(
        "read all: all copies made / overlayfs on the same disk",
        "x",
        "<= 0.8",
        ("local_readall_s", "local_readall_overlayfs_s"),
        "ratio",
        "local_readall_ratio",
    ),
)


def measured(flat: Mapping[str, float]) -> list[Row]:
    """The rows for which a run has all figures."""
    return [row for row in ROWS if row.is_measured(flat)]


def show(flat: Mapping[str, float], record: runs.Record) -> None:
    """Print the table of what this run measured, and below what run that was."""
    table = rich.table.Table(box=None, caption=record.text, caption_justify="left")
    for column in ("FIGURE", "MEASURED", "ROUNDS", "BAR", "", "FROM"):
        table.add_column(column, justify="right" if column == "MEASURED" else "left")
    for row in measured(flat):
        source = " / ".join(f"{name} {flat[name]:.4g}" for name in row.inputs)
        table.add_row(
            row.name,
            f"{row.figure(flat):.3g} {row.unit}",
            row.range(flat),
            row.bar,
            row.verdict(flat),
            source,
        )
    # Where no terminal says how wide it is, lines are not broken.
    console = rich.console.Console()
    (console if console.is_terminal else rich.console.Console(width=WIDTH)).print(table)
