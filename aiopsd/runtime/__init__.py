"""The imperative shell: assignment, poll, step, commit, deliver. The only loops of the program live here.

    ingest.py     a log of alerts, topology or changes -> decoded bodies in the journal, once per origin
    detect.py     a metric log -> DetectStage per partition -> events in the journal; answers questions for evidence
    correlate.py  the journal -> CorrelateStage -> decisions and position in one transaction -> outbox, read model
    deliver.py    the outbox -> notifiers and trainers
    door.py       what HTTP handlers may ask
    home.py       who owns the journal and the store, seen from a detect host; in this process
    worker.py     the same over a socket, for `workers: N`

Everything here is given its clock, its logs and its plug-ins by `app`.
"""
