"""A labelling run on the cluster that RAY_ADDRESS names, as a process: `python node_run.py PHOTOS OUT SETTINGS`.

SETTINGS are those of `Execution`, as JSON, and `delay_s`, what the model takes for a picture. The last line of standard
output is the result, as JSON.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from pipelines.labelling.label import label
from tests.support.colour_labeller import SMALL, colours, request_for


def main(photos: str, out: str, told: str) -> None:
    """Run it."""
    settings = json.loads(told)
    model = colours(delay_s=settings.pop("delay_s"))
    result = label(request_for(Path(photos), out), replace(SMALL, **settings), model=model)
    print(json.dumps(asdict(result)))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
