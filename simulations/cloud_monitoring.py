"""Scorecard: Microsoft's cloud monitoring series through the shipped detect stage, strictly online.

`--data` is a folder with data/*/*.csv (TimeStamp, Value, Label).
"""

from simulations import datasets, detection


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    args = detection.parser("cloud-monitoring", __doc__.split("\n")[0]).parse_args(argv)
    config = detection.config(args)
    corpus = datasets.cloud_monitoring(args.data)
    if not corpus:
        print(f"no data/*/*.csv in {args.data}")
        return 2
    out = detection.play(detection.single(corpus), config)
    if args.alarms:
        detection.write_alarms(args.alarms, "series", [s.name for s in corpus], out.alarms)
    figures = detection.figures(corpus, out)
    return detection.finish(figures, args.json, "cloud monitoring", "series")
