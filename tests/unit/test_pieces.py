"""How hard a place is, seen without anybody's verdict: what merges, and what opens together."""

import pytest

from aiopsd.config import Config
from aiopsd.correlate.pieces import OPENINGS, Pieces
from aiopsd.correlate.rootcause import SIGNS, Knowledge, confidence, rank
from aiopsd.model import Alert, AlertBatch, AlertIn, JournalRecord, Snapshot, Tick, Verdict
from aiopsd.pipeline import correlate
from aiopsd.pipeline.correlate import CorrelateStage
from aiopsd.topology import Topology

T0 = 1_700_000_000.0
AGAINST = ("foreign", "below", "travels", "shatter", "company")
FOR = ("gap", "heard gap")


@pytest.mark.parametrize("name", [n for n in SIGNS if n in AGAINST + FOR])
def test_every_sign_moves_confidence_one_way(name: str) -> None:
    """More lead never makes a cause less sure, and more of what speaks against it never makes it surer."""
    base = [1.0 if n == "constant" else 0.5 for n in SIGNS]
    more = [1.5 if n == name else x for n, x in zip(SIGNS, base, strict=True)]

    assert (confidence(more) >= confidence(base)) if name in FOR else (confidence(more) <= confidence(base))


def test_a_place_that_shatters_and_an_hour_full_of_incidents_are_less_sure() -> None:
    """The same incident is less sure the more incidents proved pieces here, and the more opened just before."""
    alert = Alert(fingerprint="1", labels={"alertname": "Down"}, starts_at=T0, ends_at=0.0, updated_at=T0, service="a")

    def sure(known: Knowledge) -> float:
        return rank([alert], Topology(3600.0), onset=T0, feedback=known)[0].confidence

    shares = [sure(Knowledge(shatter=s)) for s in (0.0, 0.1, 0.3, 0.6)]
    others = [sure(Knowledge(company=n)) for n in (0, 1, 5, 20)]

    assert shares == sorted(set(shares), reverse=True)
    assert others == sorted(set(others), reverse=True)


def test_the_share_of_pieces_is_learned_and_forgotten() -> None:
    """Half of 200 ends were merges: about half; after 200 ends that were none, next to none."""
    pieces = Pieces()
    for i in range(200):
        pieces.ended(str(i), T0 + i, merged=i % 2 == 0)
    half = pieces.share(T0 + 201.0)
    for i in range(200):
        pieces.ended(str(i), T0 + 200.0 + i, merged=False)

    assert half == pytest.approx(0.5, abs=0.05)
    assert pieces.share(T0 + 402.0) < 0.05


def test_company_is_who_opened_shortly_before() -> None:
    """Of incidents at 0, 200, 290 and 700 s, that at 290 has two others before it and the last one none."""
    pieces = Pieces()
    for at in (290.0, 0.0, 700.0, 200.0):
        pieces.opened(f"{at}", T0 + at)

    assert [pieces.company(f"{at}") for at in (0.0, 200.0, 290.0, 700.0)] == [0, 1, 2, 0]


def test_company_that_is_forgotten_or_was_never_told_of_counts_no_longer() -> None:
    """Of more openings at once than are kept the latest count, but for those that were over within their second."""
    pieces = Pieces()
    for i in range(OPENINGS + 100):
        pieces.opened(str(i), T0)
    for i in range(OPENINGS, OPENINGS + 10):
        pieces.ended(str(i), T0 + 1.0, merged=True)

    assert pieces.company(str(OPENINGS + 99)) == OPENINGS - 10 - 1
    assert pieces.company("0") == 0


def test_what_ends_within_a_second_counts_after_it_in_any_order() -> None:
    """Rankings of that second see the share from before, whichever end came first; later ones see all of them."""
    pieces, other = Pieces(), Pieces()
    before = pieces.share(T0)
    pieces.ended("a", T0, merged=True)
    pieces.ended("b", T0, merged=False)
    other.ended("b", T0, merged=False)
    assert before == pieces.share(T0) == other.share(T0 + 0.5)
    other.ended("a", T0, merged=True)

    assert before < pieces.share(T0 + 2.0) == other.share(T0 + 2.0)
    assert Pieces(pieces.snapshot()).share(T0 + 2.0) == pieces.share(T0 + 2.0)


def test_what_is_gone_before_its_second_is_over_was_never_there() -> None:
    """A first placement that is taken back is neither company nor a piece; one that merges later is both."""
    pieces, other = Pieces(), Pieces()
    for each in (pieces, other):
        each.opened("a", T0)
    pieces.opened("b", T0)
    pieces.ended("b", T0 + 1.0, merged=True)
    assert pieces.snapshot() == other.snapshot()

    pieces.opened("c", T0 + 5.0)
    pieces.ended("c", T0 + 60.0, merged=True)

    assert pieces.share(T0 + 62.0) > other.share(T0 + 62.0)
    assert pieces.company("c") == 1


def test_what_was_seen_survives_and_stays_small() -> None:
    """A memory from plain data goes on as if it had never stopped, and a year of incidents is no larger than a week."""
    pieces = Pieces()
    for i in range(5_000):
        pieces.opened(str(i), T0 + 60.0 * i)
        pieces.ended(str(i), T0 + 60.0 * i + 30.0, merged=i % 3 == 0)
    again = Pieces(pieces.snapshot())
    for each in (pieces, again):
        each.opened("z", T0 + 400_000.0)
        each.ended("z", T0 + 400_030.0, merged=True)

    assert pieces.snapshot() == again.snapshot()
    assert len(pieces.snapshot()["opened"]) <= 1024


class Place:
    """A stage and the record at hand."""

    def __init__(self, snapshot: Snapshot | None = None, at: float = T0, offset: int = 0) -> None:
        self.stage: CorrelateStage = correlate.build(Config(), snapshot)
        self.at, self.offset = at, offset

    def step(self, body: AlertBatch | Tick | Verdict, after: float = 1.0) -> None:
        self.at += after
        self.stage.step([JournalRecord(offset=self.offset, stamp=self.at, body=body)])
        self.offset += 1

    def alert(self, service: str, after: float = 1.0) -> None:
        labels = {"alertname": "Down", "service": service, "severity": "critical"}
        given = AlertIn(labels=labels, starts_at=self.at + after, ends_at=self.at + after + 600.0)
        self.step(AlertBatch(alerts=(given,)), after)
        self.step(Tick(), 5.0)

    def incident(self, service: str) -> str:
        return next(i.id for i in self.stage.incidents.values() if service in i.services and not i.merged_into)

    def sure(self, service: str) -> float:
        root = self.stage.incidents[self.incident(service)].root
        assert root is not None
        return root.confidence


def test_merges_make_the_next_incident_less_sure_after_a_restart_too() -> None:
    """Where ten incidents proved pieces of others, the doubt of the next cause is half as large again as elsewhere."""
    whole, broken = Place(), Place()
    for k in range(10):
        for place in (whole, broken):
            place.alert(f"a{k}", 5_000.0)
            place.alert(f"b{k}", 400.0)
        first, second = broken.incident(f"a{k}"), broken.incident(f"b{k}")
        broken.step(Verdict(request_id=str(k), incident=first, other=second, kind="merge", actor="ann"))
        whole.step(Tick())
    again = Place(broken.stage.snapshot(), broken.at, broken.offset)
    for place in (whole, broken, again):
        place.alert("z", 50_000.0)

    assert 1.0 - again.sure("z") == 1.0 - broken.sure("z") > 1.5 * (1.0 - whole.sure("z"))
