"""Scorecard: online services of many metrics (JumpStarter) through the shipped detect stage and its service join.

`--data` is a folder of one .npz a service (values[rows, metrics], label[rows], first_labelled), 5-minute rows.
"""

import numpy as np

from simulations import datasets, detection


def inputs(services: datasets.Services) -> list[detection.Input]:
    """As the detect stage gets them; the metrics have numbers for names."""
    names = tuple({"__name__": "value", "metric": str(m)} for m in range(services.values.shape[2]))
    return [
        detection.Input(s.name, names, services.ts, np.ascontiguousarray(services.values[:, i].T))
        for i, s in enumerate(services.labelled)
    ]


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    args = detection.parser("jumpstarter", __doc__.split("\n")[0]).parse_args(argv)
    try:
        config = detection.config(args)
        services = datasets.jumpstarter(args.data)
    except OSError as e:
        print(f"cannot read {args.data}: {e}")
        return 2
    out = detection.play(inputs(services), config)
    if args.alarms:
        detection.write_alarms(args.alarms, "service", [s.name for s in services.labelled], out.alarms)
    figures = detection.figures(services.labelled, out)
    return detection.finish(figures, args.json, "JumpStarter", "service")
