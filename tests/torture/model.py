"""What an account may hold. One client works on it, one request after the other, so its state is
known exactly, except for requests whose outcome is unknown: each of those may have taken effect,
may do so later, or never. The model keeps every state that fits all answers so far. An answer that
fits none of them is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

FREE_USES = 3


class WrongAnswer(Exception):
    """An answer that no possible state allows."""


@dataclass(frozen=True, slots=True)
class State:
    """One possible state of the account. `applied` names the writes that took effect."""

    free: int = FREE_USES
    paid: int = 0
    uses: int = 0
    applied: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Write:
    """A charge of `amount` credits (below 0) or a grant (above 0), known by its `name`."""

    name: str
    amount: int

    def on(self, state: State) -> State | None:
        """The state after this write; None when it is refused for lack of credits."""
        applied = state.applied | {self.name}
        if self.amount > 0:
            return replace(state, paid=state.paid + self.amount, applied=applied)
        if state.free > 0:
            return State(state.free - 1, state.paid, state.uses + 1, applied)
        if state.paid + self.amount < 0:
            return None
        return State(0, state.paid + self.amount, state.uses + 1, applied)


class Account:
    """Every possible state, and the writes whose outcome is unknown."""

    def __init__(self) -> None:
        self.states = {State()}
        self.pending: dict[str, Write] = {}

    def seen(self, what: str, fits: Callable[[State], bool]) -> None:
        """Judges an answer about the present state."""
        self._keep(what, (state for state in self._reachable() if fits(state)))

    def written(self, write: Write, what: str, fits: Callable[[State], bool]) -> None:
        """Records that the write was acknowledged. `fits` judges the state right after it, unless
        the write had taken effect before."""

        def after(state: State) -> State | None:
            if write.name in state.applied:
                return state
            result = write.on(state)
            return result if result is not None and fits(result) else None

        self._keep(what, filter(None, map(after, self._reachable())))
        self.pending.pop(write.name, None)

    def refused(self, write: Write, what: str, fits: Callable[[State], bool]) -> None:
        """Records that the write was refused for lack of credits. Earlier attempts of it may still
        arrive."""
        self._keep(
            what,
            (
                state
                for state in self._reachable()
                if write.name not in state.applied and write.on(state) is None and fits(state)
            ),
        )

    def unknown(self, write: Write) -> None:
        """Records that the outcome of the write is unknown."""
        self.pending[write.name] = write

    def settle(self, present: Iterable[str], what: str) -> None:
        """Records that no request is under way any more: these writes took effect, and no
        others."""
        names = frozenset(present)
        self._keep(what, (state for state in self._reachable() if state.applied == names))
        self.pending.clear()

    def _reachable(self) -> set[State]:
        """The present states, and those to which pending writes may have led by now."""
        found = set(self.states)
        fresh = list(found)
        while fresh:
            state = fresh.pop()
            for write in self.pending.values():
                after = None if write.name in state.applied else write.on(state)
                if after is not None and after not in found:
                    found.add(after)
                    fresh.append(after)
        return found

    def _keep(self, what: str, states: Iterable[State]) -> None:
        kept = set(states)
        if not kept:
            possible = sorted({(s.free, s.paid, s.uses) for s in self._reachable()})
            raise WrongAnswer(f"{what}; possible (free, paid, uses) were {possible[:9]}")
        self.states = kept
