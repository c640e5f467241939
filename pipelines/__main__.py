"""``python -m pipelines`` is the ``evenset`` command; it is what ``ray job submit`` runs."""

from pipelines.cli import command

if __name__ == "__main__":
    command()
