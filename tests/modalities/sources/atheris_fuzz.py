"""Fuzz a reader by what its inputs reach: those that get to new lines of `modalities` are damaged further.

    python -m tests.modalities.sources.atheris_fuzz READER RUNS [--seed N]

READER is one of `tests.modalities.sources.test_fuzz.READERS`. It ends with exit code 0 after RUNS inputs, and
with another where one of them is neither read nor refused in a sentence, or hangs; libFuzzer then writes that
input to a file in the working directory, and names it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["modalities"], enable_loader_override=False):
    from tests.modalities.sources.test_fuzz import READERS, SECONDS, play


def main():
    """Run as the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("reader", choices=READERS, metavar="READER")
    parser.add_argument("runs", type=int, metavar="RUNS")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    reader = READERS[asked.reader]
    with tempfile.TemporaryDirectory() as folder:
        corpus, pool = Path(folder) / "corpus", Path(folder) / "pool"
        corpus.mkdir()
        pool.mkdir()
        for number, valid in enumerate(reader.valid):
            (corpus / str(number)).write_bytes(valid)
        bounds = [f"-runs={asked.runs}", f"-seed={asked.seed}", f"-timeout={SECONDS}", "-rss_limit_mb=0"]
        atheris.Setup([sys.argv[0], *bounds, str(corpus)], lambda data: play(reader, data, pool))
        atheris.Fuzz()  # which ends the process


if __name__ == "__main__":
    main()
