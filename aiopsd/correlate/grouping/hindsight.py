"""Whole incidents against each other, when more is known: merge, split and move by what makes all of it likelier.

An incident is thought over a while after it began, a while after something in it ended, and when it has been over for
some time. It is weighed against the incidents that began about then in its neighbourhood, and against parts of itself
standing alone; every move must win by a margin, so that nothing goes to and fro.
"""

from collections.abc import Sequence

from aiopsd.correlate.grouping.forest import Forest
from aiopsd.correlate.grouping.graph import HORIZON, Graph
from aiopsd.correlate.grouping.memory import Memory
from aiopsd.correlate.grouping.reasons import why
from aiopsd.correlate.grouping.state import Group, State, Trouble, by_onset
from aiopsd.correlate.grouping.story import Story
from aiopsd.correlate.grouping.strangers import Strangers

JOIN = 6.0  # nats by which one incident must be likelier than two: hiding one costs more than a second page
PART = 0.0  # nats by which two must be likelier than one
AGAIN = 3.0  # ... when the other one only repeats what this one has
MOVE = 1.5  # nats by which a trouble must fit better elsewhere
SLACK = 3.0  # nats; a move that looks worse than this at first sight is not tried
HELD = -16.0  # nats; what fits so well is not tried alone
ROUNDS = 3
BUDGET = 600  # troubles that are moved in trials for one incident: a storm must not stall the rest
STEP = 300  # ... after which no further incident is thought over in the same second
TOLD, STRAY = 8, 4  # troubles of a story whose telling counts as one move, and of those that no path explains
LONG = 64  # vertices of the stories at hand for which one move counts as one more: it is weighed against them all


class Hindsight:
    """Reconsiders incidents; what changes is left in `pending` of the state."""

    def __init__(self, s: State, graph: Graph, memory: Memory, strangers: Strangers, forest: Forest) -> None:
        self.s = s
        self.graph = graph
        self.memory = memory
        self.strangers = strangers
        self.forest = forest
        self._budget = 0
        self._stories: dict[str, Story] = {}

    def busy(self) -> bool:
        """Whether enough was thought over in this second: the rest waits for the next one."""
        s = self.s
        if s.trials_at != s.now:
            s.trials, s.trials_at = 0, s.now
        return s.trials >= STEP

    def reconsider(self, group: Group) -> None:
        """Look for a likelier story of this incident and those beside it that have changed since."""
        s = self.s
        self._stories = {}
        self._budget = BUDGET
        for _ in range(ROUNDS):
            if group.id not in s.groups or not self._round(group):
                break
        if group.id in s.groups:
            group.seen = s.count
        s.trials += BUDGET - self._budget
        self._stories = {}

    def _round(self, group: Group) -> bool:
        s = self.s
        moved = False
        beside: dict[str, dict[int, None]] = {}  # other group -> its troubles that are near one of ours
        near: dict[int, dict[str, None]] = {}  # trouble of ours -> other groups near it
        worth: dict[str, bool] = {}  # other group -> whether something is new since one of us looked at the other
        for tid in group.troubles:
            trouble = s.troubles[tid]
            spot = self.graph.spot(trouble.vertex)
            others = [other for other, _ in self.graph.near_kept(spot, trouble.onset)]
            if trouble.parent < 0:  # incidents without a path between them are compared at their roots
                strangers = self.strangers.near(trouble.vertex, trouble.texts, trouble.onset, self.strangers.over, spot)
                others += [other for other, _, _ in strangers]
            for oid in s.kept.get(trouble.vertex, ()):  # what fires again may have begun long ago
                other = s.troubles[oid]
                if abs(other.onset - trouble.onset) > HORIZON and not other.names.keys().isdisjoint(trouble.names):
                    others.append(other)
            for other in others:
                gid = other.group
                if gid == group.id:
                    continue
                new = worth.get(gid)
                if new is None:
                    its = s.groups[gid]
                    new = worth[gid] = max(group.changed, its.changed) >= max(group.seen, its.seen)
                if new:
                    beside.setdefault(gid, {})[other.id] = None
                    near.setdefault(tid, {})[gid] = None
        for gid in beside:
            if gid in s.groups and group.id in s.groups:
                moved |= self._merge(group, s.groups[gid])
        if group.id not in s.groups:
            return True
        for tid, gids in near.items():
            for gid in gids:
                if gid in s.groups and group.id in s.groups and tid in group.troubles:
                    moved |= self._try(s.troubles[tid], s.groups[gid])
        for gid, tids in beside.items():
            for tid in tids:
                if gid in s.groups and group.id in s.groups and tid in s.groups[gid].troubles:
                    moved |= self._try(s.troubles[tid], group)
        if group.id in s.groups and len(group.troubles) > 1 and group.changed >= group.seen:
            for tid in list(group.troubles):
                if tid in group.troubles:
                    moved |= self._try(s.troubles[tid], None)
        return moved

    def _story(self, gid: str) -> Story:
        story = self._stories.get(gid)
        if story is None:
            troubles = [self.s.troubles[t] for t in self.s.groups[gid].troubles]
            story = self._stories[gid] = Story(self.s, self.graph, self.memory, self.strangers, troubles)
            self._budget -= len(troubles) // TOLD + story.astray // STRAY
        return story

    def _merge(self, one: Group, other: Group) -> bool:
        """Make one of two if that is likelier."""
        if self._budget <= 0:
            return False
        small, large = sorted((one, other), key=lambda g: len(g.troubles))
        troubles = [self.s.troubles[t] for t in small.troubles]
        if any(t.pinned for t in troubles):
            return False
        mine, its = self._story(small.id), self._story(large.id)
        if not self._lures(its, mine) and not self._lures(mine, its):
            return False
        if self._guessed(mine) or self._guessed(its):
            return False  # what is only guessed is no ground to hide another incident
        echo = all(v in its.parts for v in mine.parts)  # nothing new: further spells of what is there
        return self._shift(troubles, small, large, AGAIN if echo else JOIN)

    def _guessed(self, story: Story) -> bool:
        """Whether the cause of a story is a callee that says nothing."""
        cause = story.cause()[1]
        return not story.parts[cause].troubles[0].names and not self.graph.is_host(cause)

    @staticmethod
    def _lures(story: Story, other: Story) -> bool:
        """Whether a story explains the cause of another one about as well as that one does itself."""
        gain, cause = other.cause()
        first = other.parts[cause].troubles[0]
        return story.offers(first) > gain + other.holds(first) - SLACK

    def _try(self, trouble: Trouble, target: Group | None) -> bool:
        """Move a trouble with what hangs on it, or alone, if that is likelier."""
        source = self.s.groups[trouble.group]
        if source is target or self._budget <= 0:
            return False
        margin = MOVE if target is not None else PART
        holds = self._story(source.id).holds(trouble)
        if target is not None:
            if self._story(target.id).offers(trouble) < holds - SLACK:
                return False
        elif holds > HELD:
            return False
        below = list(self.forest.subtree(trouble).values())
        for chosen in ([trouble], below) if len(below) > 1 else ([trouble],):
            if len(chosen) == len(source.troubles) or any(t.pinned for t in chosen):
                continue
            if self._shift(chosen, source, target, margin):
                return True
        return False

    def _shift(self, chosen: Sequence[Trouble], source: Group, target: Group | None, margin: float) -> bool:
        chosen = self.forest.with_silent(chosen, source)
        if target is None and len(chosen) == len(source.troubles):
            return False
        mine = self._story(source.id)
        its = self._story(target.id) if target is not None else Story(self.s, self.graph, self.memory, self.strangers)
        if target is not None and len(its.parts) == 1 and all(t.vertex in its.parts for t in chosen):
            return False  # one noisy vertex through the day is no story: pairs decide whether it fires again
        if target is not None and not its.lived(chosen):
            return False
        if self._budget <= 0:
            return False
        self._budget -= 1 + len(chosen) * (1 + (len(mine.parts) + len(its.parts)) // LONG)
        before = mine.value + its.value
        mine.mark()
        its.mark()
        for trouble in chosen:
            mine.remove(trouble)
            its.add(trouble)
        if target is None or len(chosen) == len(source.troubles):
            its.settle()
        if mine.value + its.value <= before + margin:
            mine.back()
            its.back()
            return False
        first = min(chosen, key=by_onset)
        _, by, how = its.passed[first.vertex]
        if by:
            reason = why(self.graph, first.vertex, first.onset, its.parts[by].troubles[0], how)
        elif target is None:
            reason = "its trouble is better explained by itself"
        else:
            reason = "what happened as a whole is likelier as one"
        kept = self.forest.shift(chosen, source, target, reason)
        if target is not None:
            self._stories.pop(target.id, None)
        del self._stories[source.id]
        self._stories[kept.id] = its
        if source.id in self.s.groups and source is not kept:
            self._stories[source.id] = mine
            mine.settle()
            self._hang(mine)
        its.settle()
        self._hang(its)
        return True

    def _hang(self, story: Story) -> None:
        """Let each trouble hang where the story says it came from: a tree, whatever circles the likelihoods make."""
        _, cause = story.cause()
        link, unlink, troubles = self.forest.link, self.forest.unlink, self.s.troubles
        for part in story.parts.values():
            for trouble in part.troubles:
                unlink(trouble)
        for v, part in story.parts.items():
            first, here = part.troubles[0], {t.id for t in part.troubles}
            for later in part.troubles[1:]:
                link(later, troubles[later.echo_of] if later.echo_of in here else first)
            by = story.passed[v][1]
            if v != cause and by:
                parent = story.parts[by].troubles[0]
                if not self.forest.hangs_on(parent, first):
                    link(first, parent)
                else:
                    link(first, story.parts[cause].troubles[0])
