"""Scorecard: the Numenta Anomaly Benchmark through the shipped detect stage, strictly online.

`--data` is a folder with NAB's data/ and labels/. Unlike NAB's own runner nothing here knows the minimum, maximum or
length of a file.
"""

from simulations import datasets, detection


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the data cannot be read."""
    args = detection.parser("nab", __doc__.split("\n")[0]).parse_args(argv)
    try:
        config = detection.config(args)
        corpus = datasets.nab(args.data)
    except OSError as e:
        print(f"cannot read {args.data}: {e}")
        return 2
    out = detection.play(detection.single(corpus), config)
    if args.alarms:
        detection.write_alarms(args.alarms, "series", [s.name for s in corpus], out.alarms)
    scores = [s[0] for s in out.scores]
    figures = detection.figures(corpus, out)
    figures["nab"] = detection.nab_figures(corpus, scores, out, config.detect.threshold)
    return detection.finish(figures, args.json, "NAB", "series")
