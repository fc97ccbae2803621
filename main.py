"""Entry: `uv run main.py VERB`, the same as the console script `pulmo`."""

from pulmo.main import run

if __name__ == "__main__":
    run()
