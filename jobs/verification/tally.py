"""Adds up what the statements find, and keeps the first examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from jobs.verification.rules import INVARIANTS, RULES
from jobs.verification.values import Finding

#: Examples of one rule; an invariant shows those of all its rules.
EXAMPLES = 5

#: What one statement found: rule, how often, and who.
Found = tuple[str, int, Collection[str]]


class Tally:
    """What is broken so far."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, rule: str, count: int, examples: Iterable[str]) -> None:
        """``count`` more violations of ``rule``; ``examples`` name some of them."""
        if count:
            self._counts[rule] += count
            kept = self._examples[rule]
            kept += list(dict.fromkeys(examples))[: EXAMPLES - len(kept)]

    def add_one(self, rule: str, example: str) -> None:
        self.add(rule, 1, [example])

    def add_all(self, found: Iterable[Found]) -> None:
        for rule, count, examples in found:
            self.add(rule, count, examples)

    def findings(self, invariants: Iterable[str]) -> tuple[Finding, ...]:
        """One finding for each of these, in this order."""
        return tuple(self._finding(invariant) for invariant in invariants)

    def _finding(self, invariant: str) -> Finding:
        rules = [rule for rule in self._counts if rule.partition(".")[0] == invariant]
        return Finding(
            invariant,
            INVARIANTS.get(invariant, "A check of the caller's own"),
            sum(self._counts[rule] for rule in rules),
            tuple(
                f"{example} {RULES.get(rule, 'breaks a check of the caller')}"
                for rule in rules
                for example in self._examples[rule]
            ),
        )
