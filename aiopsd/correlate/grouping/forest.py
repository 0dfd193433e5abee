"""The forest: troubles hang on their parents, a tree is an incident; opening, joining, moving, merging, splitting."""

import math
from bisect import insort
from collections.abc import Sequence

import msgspec

from aiopsd.config import CorrelateConfig
from aiopsd.correlate.grouping.crowds import Crowds
from aiopsd.correlate.grouping.graph import ABOVE, Graph, Link, Spot
from aiopsd.correlate.grouping.odds import Odds
from aiopsd.correlate.grouping.state import (
    CHECK_TIMER,
    DROP_TIMER,
    ENDED_TIMER,
    THINK_TIMER,
    Group,
    Revision,
    Row,
    State,
    Trouble,
    Waiting,
    by_onset,
    drop_in,
    set_timer,
)
from aiopsd.correlate.grouping.strangers import Strangers
from aiopsd.model import Verdict, content_id

BURSTS = 16  # incidents that tell whether others come with them
FOLLOW_SPAN = 300.0  # s; callers that got into trouble within it count as followers
PART = 150.0  # s; symptoms of one vertex that end further apart are two troubles
CHECK = 60.0  # s after its first alert at which a trouble thinks again
THINK_ENDED = (90.0, 1200.0)  # s after the end of one
THINK_STEP = 120.0  # s
END_CHECK = 60.0  # s after its end at which a trouble thinks again: what ended together belonged together


class Look(msgspec.Struct, frozen=True):
    """What speaks for each home of an alert."""

    spot: Spot
    near: list[tuple[Trouble, Link]]
    votes: dict[str, float]
    best: dict[str, tuple[float, Trouble, str]]
    own: float
    strange: float
    fell: float
    home: str


class Forest:
    """Structure and its changes; every change that somebody must hear of is left in `pending`."""

    def __init__(
        self, s: State, config: CorrelateConfig, graph: Graph, odds: Odds, crowds: Crowds, strangers: Strangers
    ) -> None:
        self.s = s
        self.config = config
        self.graph = graph
        self.odds = odds
        self.crowds = crowds
        self.strangers = strangers
        self.untold: dict[str, None] = {}  # incidents of this step that nobody has been told of

    def open(self, gid: str) -> Group:
        s = self.s
        s.count += 1
        group = s.groups[gid] = Group(id=gid, opened=self.s.now, order=s.count)
        return group

    def free_id(self, item: Waiting) -> str:
        s = self.s
        gid, k = content_id("incident", item.fp, item.starts_at), 0
        while gid in s.groups or gid in s.gone:
            k += 1
            gid = content_id("incident", item.fp, item.starts_at, k)
        return gid

    def new(self, item: Waiting, gid: str, parent: int, look: Look) -> Trouble:
        """A trouble for an alert that is no further symptom of another one."""
        trouble = self._add(
            Trouble(
                id=0,
                vertex=item.vertex,
                onset=item.onset,
                group=gid,
                parent=parent,
                names={item.name: item.onset},
                texts={item.name: item.text},
                own=look.own,
                strange=look.strange,
                fell=look.fell,
            ),
            look.spot,
            look.near,
        )
        self.strangers.begun.add(trouble)
        self.take_alert(trouble, item)
        return trouble

    def raise_silent(self, vertex: str, onset: float, member: Trouble) -> Trouble:
        """A trouble without alerts at what several run on, in the incident of one of them."""
        spot, own = self.graph.spot(vertex), self.odds.own(vertex, (), onset)
        near = self.graph.near(spot, onset)
        return self._add(Trouble(id=0, vertex=vertex, onset=onset, group=member.group, own=own), spot, near)

    def dismiss(self, trouble: Trouble) -> None:
        """A silent trouble on which nothing hangs any more is none."""
        s = self.s
        del s.troubles[trouble.id]
        del s.groups[trouble.group].troubles[trouble.id]
        self.unlink(trouble)
        drop_in(s.hot, trouble.vertex, trouble.id)
        self.let_go(trouble)
        self.crowds.update(trouble)

    def keep(self, trouble: Trouble) -> None:
        """It is company for what ends about when it does."""
        kept = self.s.kept.get(trouble.vertex)
        if kept is None:
            self.s.kept[trouble.vertex] = {trouble.id: None}
        else:
            kept[trouble.id] = None
        self.graph.began.put(trouble)

    def let_go(self, trouble: Trouble) -> None:
        """It ended so long ago that it is no company for what ends now."""
        drop_in(self.s.kept, trouble.vertex, trouble.id)
        self.graph.began.drop(trouble)

    def _add(self, trouble: Trouble, spot: Spot, near: list[tuple[Trouble, Link]]) -> Trouble:
        """Give a trouble its number and its place among those near it."""
        s, vertex = self.s, trouble.vertex
        s.count += 1
        trouble.id = s.count
        trouble.value = trouble.own
        trouble.born = s.now
        trouble.under = spot.hosts
        trouble.fan = self.graph.fan(vertex) if spot.is_host else len(spot.callers)
        trouble.deps = len(spot.callees)
        if near or spot.is_host:
            trouble.followers = self._followers(spot, trouble.onset, near)
        if not near:
            trouble.apart = self.graph.topology.version
        s.troubles[trouble.id] = trouble
        group = s.groups[trouble.group]
        group.troubles[trouble.id] = None
        group.changed = s.count
        if trouble.parent >= 0:
            s.troubles[trouble.parent].children[trouble.id] = None
        s.hot.setdefault(vertex, {})[trouble.id] = None
        self.keep(trouble)
        self.crowds.update(trouble)
        set_timer(s, s.now + CHECK, CHECK_TIMER, trouble.id)
        return trouble

    def _followers(self, spot: Spot, onset: float, near: list[tuple[Trouble, Link]]) -> int:
        """How many callers of a vertex are in trouble; those near it hear of it, callees count it as one of theirs."""
        if spot.is_host:  # what runs there is not near it
            hot, troubles = self.s.hot, self.s.troubles
            members = [(troubles[tid], ABOVE) for caller in hot.keys() & spot.callers.keys() for tid in hot[caller]]
            near = [*near, *members]
        callers: dict[str, None] = {}
        for other, link in near:
            other.apart = -1
            if abs(other.onset - onset) < FOLLOW_SPAN:
                if link.down == 1:
                    other.followers += 1
                if link.up == 1:
                    callers[other.vertex] = None
        return len(callers)

    def think(self, group: Group, due: float) -> None:
        """Have an incident reconsidered at about `due`: at most once a minute."""
        due = math.ceil(due / THINK_STEP) * THINK_STEP
        if due not in group.due:
            group.due[due] = None
            set_timer(self.s, due, THINK_TIMER, group.id)

    def take_alert(self, trouble: Trouble, item: Waiting) -> None:
        s = self.s
        fp = item.fp
        old = s.rows.get(fp)
        if old is not None:
            before = s.troubles[old.trouble]
            before.alerts.pop(fp, None)
            if old.firing:
                s.groups[before.group].firing -= 1
        s.rows[fp] = Row(trouble.id, item.name, True, item.starts_at)
        trouble.alerts[fp] = None
        trouble.ended = -1.0
        group = s.groups[trouble.group]
        group.firing += 1
        group.size += 1
        if group.size == 2:
            insort(s.bursts, item.onset)
            del s.bursts[:-BURSTS]
        pair = f"{item.vertex}|{item.name}"
        drop_in(s.pairs, pair, trouble.id)  # it fires; what ended of this pair elsewhere may still come back

    def take_end(self, item: Waiting) -> None:
        s = self.s
        stamp = s.second
        row = s.rows.get(item.fp)
        if row is None or not row.firing:
            return
        row.firing = False
        row.ended = item.onset
        trouble = s.troubles[row.trouble]
        group = s.groups[trouble.group]
        group.firing -= 1
        if not group.firing:
            group.over_since = stamp
            set_timer(self.s, stamp + self.config.retention, DROP_TIMER, group.id)
        for fp in trouble.alerts:
            other = s.rows[fp]
            if other.firing and other.name == row.name:
                break
        else:
            s.pairs.setdefault(f"{trouble.vertex}|{row.name}", {})[trouble.id] = item.onset
        if not any(s.rows[fp].firing for fp in trouble.alerts):
            trouble.ended = max(s.rows[fp].ended for fp in trouble.alerts)
            self.strangers.over.add(trouble)
            s.count += 1
            group.changed = s.count
            set_timer(self.s, stamp + END_CHECK, ENDED_TIMER, trouble.id)
            for after in THINK_ENDED:
                self.think(group, stamp + after)

    def unquiet(self, group: Group) -> None:
        group.quiet = False
        fps = tuple(fp for tid in group.troubles for fp in self.s.troubles[tid].alerts)
        self.s.pending.append(Revision("move", "", group.id, fps, True, "it is no longer alone"))

    def subtree(self, trouble: Trouble) -> dict[int, Trouble]:
        out = {trouble.id: trouble}
        stack = [trouble]
        while stack:
            for child in stack.pop().children:
                if child not in out:
                    out[child] = self.s.troubles[child]
                    stack.append(out[child])
        return out

    def hangs_on(self, trouble: Trouble, on: Trouble) -> bool:
        """Whether `trouble` is `on` or below it in their tree."""
        troubles = self.s.troubles
        while trouble is not on:
            if trouble.parent < 0:
                return False
            trouble = troubles[trouble.parent]
        return True

    def unlink(self, trouble: Trouble) -> None:
        if trouble.parent < 0:
            return
        parent = self.s.troubles.get(trouble.parent)
        if parent is not None:
            parent.children.pop(trouble.id, None)
        trouble.parent = -1
        self.crowds.update(trouble)

    def link(self, trouble: Trouble, parent: Trouble, why: str = "") -> None:
        """Hang a trouble on another one of its incident; `why` is told, if it is anything new."""
        if trouble.parent == parent.id:
            return
        if why:
            self.say(trouble, why)
        self.unlink(trouble)
        trouble.parent = parent.id
        parent.children[trouble.id] = None
        self.crowds.update(trouble)

    def part_ways(self, trouble: Trouble) -> list[Trouble]:
        """Symptoms of one vertex that ended far apart had two causes: one trouble for each."""
        s = self.s
        ends = sorted((s.rows[fp].ended, fp) for fp in trouble.alerts)
        cuts = [i for i in range(1, len(ends)) if ends[i][0] - ends[i - 1][0] > PART]
        if trouble.echoed >= 0 or not cuts:
            return [trouble]
        out = [trouble]
        for i, cut in enumerate(cuts):
            fps = [fp for _, fp in ends[cut : cuts[i + 1] if i + 1 < len(cuts) else len(ends)]]
            out.append(self.cut(trouble, fps))
        trouble.ended = ends[cuts[0] - 1][0]
        return out

    def cut(self, trouble: Trouble, fps: list[str]) -> Trouble:
        """A trouble of their own, at the same place, for some alerts of a trouble."""
        s = self.s
        s.count += 1
        names: dict[str, float] = {}
        for fp in fps:
            names.setdefault(s.rows[fp].name, trouble.names.get(s.rows[fp].name, trouble.onset))
        other = Trouble(
            id=s.count,
            vertex=trouble.vertex,
            onset=min(names.values()),
            group=trouble.group,
            names=names,
            ended=max(s.rows[fp].ended for fp in fps),
            born=trouble.born,
            under=trouble.under,
            strange=trouble.strange,
            fell=trouble.fell,
            fan=trouble.fan,
            deps=trouble.deps,
            followers=trouble.followers,
        )
        s.troubles[other.id] = other
        s.groups[trouble.group].troubles[other.id] = None
        self.keep(other)
        for fp in fps:
            del trouble.alerts[fp]
            other.alerts[fp] = None
            s.rows[fp].trouble = other.id
        left = {s.rows[fp].name for fp in trouble.alerts}
        for name in names:  # who fires again belongs to the trouble that has its name now
            pair = f"{trouble.vertex}|{name}"
            ended = s.pairs.get(pair, {}).get(trouble.id)
            if ended is not None:
                s.pairs[pair][other.id] = ended
        for name in trouble.names.keys() - left:  # nor does one whose alert has fired in another trouble since
            drop_in(s.pairs, f"{trouble.vertex}|{name}", trouble.id)
        trouble.names = {n: at for n, at in trouble.names.items() if n in left}
        other.texts = {n: text for n, text in trouble.texts.items() if n in names}
        trouble.texts = {n: text for n, text in trouble.texts.items() if n in left}
        before, trouble.onset = trouble.onset, min(trouble.names.values())
        self.graph.began.moved(trouble, before)
        for item in (trouble, other):
            item.own = self.odds.own(item.vertex, item.names, item.onset)
        self.crowds.update(trouble)
        parent = s.troubles.get(trouble.parent)
        self.link(other, parent if parent is not None else trouble)
        return other

    def say(self, trouble: Trouble, why: str) -> None:
        """Its alerts stay in their incident for another reason."""
        if trouble.alerts:
            here = "" if self.s.groups[trouble.group].quiet else trouble.group
            self.s.pending.append(Revision("why", here, here, tuple(trouble.alerts), False, why))

    def move(self, trouble: Trouble, parent: Trouble | None, why: str) -> None:
        """Hang a trouble with all that hangs on it below another parent; None: on its own."""
        s = self.s
        below = self.subtree(trouble)
        source = s.groups[trouble.group]
        self.unlink(trouble)
        if parent is None:
            if len(below) == len(source.troubles):
                return
            target = None
        else:
            target = s.groups[parent.group]
            self.link(trouble, parent)
        if self.shift(list(below.values()), source, target, why).id == source.id or source.id not in s.groups:
            self.say(trouble, why)  # two incidents became one for its sake

    def with_silent(self, chosen: Sequence[Trouble], source: Group) -> Sequence[Trouble]:
        """These troubles of an incident, or all of it when only silent ones would stay behind."""
        troubles, here = self.s.troubles, {t.id for t in chosen}
        if any(troubles[tid].names for tid in source.troubles if tid not in here):
            return chosen
        return [troubles[tid] for tid in source.troubles]

    def shift(self, chosen: Sequence[Trouble], source: Group, target: Group | None, why: str) -> Group:
        """Move troubles to another group (None: a new one), all of them: a merge; the group where they are then."""
        s = self.s
        chosen = self.with_silent(chosen, source)
        if target is None and len(chosen) == len(source.troubles):
            return source
        opened = target is None
        if target is None:
            first = min(chosen, key=by_onset)
            fp = next(iter(first.alerts), "")
            starts = s.rows[fp].starts_at if fp in s.rows else first.onset
            target = self.open(self.free_id(Waiting(fp, True, starts_at=starts)))
        elif len(chosen) == len(source.troubles):
            kept, gone = sorted((source, target), key=self.seniority)
            self.absorb(gone, kept, why)
            return kept
        if target.quiet:
            self.unquiet(target)
        for item in chosen:
            del source.troubles[item.id]
            target.troubles[item.id] = None
            item.group = target.id
            for fp in item.alerts:
                row = s.rows[fp]
                source.firing -= row.firing
                target.firing += row.firing
                source.size -= 1
                target.size += 1
        s.count += 1
        source.changed = target.changed = s.count
        fps = tuple(fp for item in chosen for fp in item.alerts)
        if not source.firing:
            source.over_since = self.s.now
            set_timer(self.s, self.s.now + self.config.retention, DROP_TIMER, source.id)
        if not target.firing and opened:
            target.over_since = self.s.now
            set_timer(self.s, self.s.now + self.config.retention, DROP_TIMER, target.id)
        s.pending.append(Revision("move", "" if source.quiet else source.id, target.id, fps, opened, why))
        return target

    def seniority(self, group: Group) -> tuple[bool, bool, float, int]:
        """Of two that become one the older survives, if anybody was told of it."""
        return (group.quiet, group.id in self.untold, group.opened, group.order)

    def absorb(self, gone: Group, kept: Group, why: str) -> None:
        s = self.s
        fps = tuple(fp for tid in gone.troubles for fp in s.troubles[tid].alerts)
        if kept.quiet:
            self.unquiet(kept)
        for tid in gone.troubles:
            s.troubles[tid].group = kept.id
            kept.troubles[tid] = None
        s.count += 1
        kept.changed = s.count
        kept.firing += gone.firing
        kept.size += gone.size
        del s.groups[gone.id]
        for due in gone.due:
            self.think(kept, due)
        if gone.quiet:
            s.pending.append(Revision("move", "", kept.id, fps, False, why))
        else:
            s.gone[gone.id] = self.s.now
            s.pending.append(Revision("merge", gone.id, kept.id, fps, False, why))

    def follow(self, group: Group, origin: Trouble, why: str) -> None:
        """All of an incident hangs on a trouble of another one."""
        tops = [t for tid in group.troubles if (t := self.s.troubles[tid]).parent < 0]
        kept, gone = sorted((group, self.s.groups[origin.group]), key=self.seniority)
        self.absorb(gone, kept, why)
        for top in tops:
            self.link(top, origin)
            top.traced = True

    def unite(self, one: Group, other: Group, v: Verdict) -> list[Trouble]:
        """Two incidents are one, and the cause of the later one hangs on that of the earlier: the trouble decided."""
        kept, gone = sorted((one, other), key=self.seniority)
        tops = [[t for tid in g.troubles if (t := self.s.troubles[tid]).parent < 0] for g in (kept, gone)]
        self.absorb(gone, kept, f"{v.actor or 'an operator'} merged them")
        first, later = sorted((min(top, key=by_onset) for top in tops), key=by_onset)
        self.link(later, first)
        later.pinned = True
        return [later]

    def split(self, group: Group, v: Verdict) -> list[Trouble]:
        """The named alerts leave, each trouble whole, and stay together in an incident of their own.

        Returns:
            The troubles whose place an operator has decided by that.
        """
        s = self.s
        chosen = dict.fromkeys(s.rows[fp].trouble for fp in v.fingerprints if fp in s.rows)
        leaving = [s.troubles[tid] for tid in chosen if tid in group.troubles]
        if not leaving or len(leaving) == len(group.troubles):
            return []
        first: Trouble | None = None
        for trouble in leaving:
            for child in list(trouble.children):  # what hung on it stays where it is
                if child not in chosen:
                    self.unlink(s.troubles[child])
            self.unlink(trouble)
            self.move(trouble, first, f"{v.actor or 'an operator'} split them")
            trouble.pinned = True
            first = first or trouble
        staying = [s.troubles[tid] for tid in group.troubles]
        for trouble in staying:
            trouble.pinned = True
        return [*leaving, *staying]

    def forget(self, incident: str) -> None:
        """Drop an incident and its alerts; what was learned from them stays."""
        s = self.s
        group = s.groups.pop(incident, None)
        if group is None:
            return
        for tid in group.troubles:
            trouble = s.troubles.pop(tid)
            for fp in trouble.alerts:
                del s.rows[fp]
            self.unlink(trouble)
            for child in trouble.children:
                s.troubles[child].parent = -1
                self.crowds.update(s.troubles[child])
            for name in trouble.names:
                drop_in(s.pairs, f"{trouble.vertex}|{name}", tid)
            drop_in(s.hot, trouble.vertex, tid)
            self.let_go(trouble)
            self.crowds.update(trouble)
