"""The table of docs/reliability.md, from what the tests found: ``python -m tests.faults.table FILE``.

FILE is what ``pytest --faults=FILE`` leaves: a JSON line for every fault that a run got over.
"""

import json
import sys
from pathlib import Path

FAULTS = {
    "encoder": "an encoder actor is killed",
    "point shard": "a point shard is killed",
    "centroid shard": "a centroid shard is killed",
    "node": "a worker node is killed",
    "two nodes": "two worker nodes are killed at once",
    "driver": "the driver is killed (kill -9), and run again",
    "head": "the head is killed with all on it, and the run done again on a fresh one",
    "disk": "the disk of the output is full, then has room and the run is done again",
    "spill": "the disk that Ray spills to is full while its object store is",
    "S3": "an S3 fails a share of all requests",
    "Ctrl-C": "Ctrl-C, and run again",
    "soak": "a fault every 20 s: 200,000 samples on 2 cores",
}
"""All that tests play, in the order of the table."""

COLUMNS = ("fault", "seeds: when", "what happens", "seconds", "test")


def write_row(file, fault, seed, outcome, seconds, test):
    """Writes down that a run got over a fault.

    Args:
        file: Where, or None.
        fault: A key of `FAULTS`.
        seed: What chance it was, and what that meant.
        outcome: What the run did.
        seconds: What it took, and what a run without the fault takes, or None.
        test: Where it is shown.
    """
    assert fault in FAULTS
    if file is not None:
        row = {"fault": fault, "seed": seed, "outcome": outcome, "seconds": seconds, "test": test}
        with Path(file).open("a") as rows:
            rows.write(json.dumps(row) + "\n")


def table(rows):
    """Markdown of rows as `write_row` writes them; what was found last of a fault and a seed counts."""
    latest = {(row["fault"], row["test"], row["seed"]): row for row in rows}
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for fault, name in FAULTS.items():
        mine = [row for row in latest.values() if row["fault"] == fault]
        if not mine:
            lines.append(f"| {name} | | not played for this table | | |")
        for outcome, test in dict.fromkeys((row["outcome"], row["test"]) for row in mine):
            same = [row for row in mine if (row["outcome"], row["test"]) == (outcome, test)]
            seeds = "; ".join(sorted((row["seed"] for row in same), key=_number))
            lines.append(f"| {name} | {seeds} | {outcome} | {_seconds(same)} | `{test}` |")
    return "\n".join(lines)


def _number(seed):
    """The number with which a seed is told; stages, which have none, stay in their order."""
    first = seed.partition(":")[0]
    return int(first) if first.isdigit() else -1


def _seconds(rows):
    """What runs took, from the shortest to the longest, and what they cost more than one without faults."""
    took = _range([row["seconds"][0] for row in rows])
    if any(row["seconds"][1] is None for row in rows):
        return took
    return f"{took} ({_range([max(0, row['seconds'][0] - row['seconds'][1]) for row in rows])} more)"


def _range(numbers):
    low, high = f"{min(numbers):.0f}", f"{max(numbers):.0f}"
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    found = [json.loads(line) for file in sys.argv[1:] for line in Path(file).read_text().splitlines()]
    print(table(found))
