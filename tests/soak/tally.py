"""What a soak counts."""

from dataclasses import dataclass, field


@dataclass
class Tally:
    """How many cases were tried, and what came of them.

    Attributes:
        tried: cases so far.
        counts: outcomes that are as they should be, by name ("handled", "bit-equal", ...).
        failures: one line per case that is not, with what repeats it (seed, file, command).
    """

    tried: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def count(self, outcome: str) -> None:
        """Count a case whose outcome is as it should be."""
        self.tried += 1
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def fail(self, line: str) -> None:
        """Count a case whose outcome is wrong."""
        self.tried += 1
        self.failures.append(line)

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in self.counts.items())
        return f"{self.tried} tried: {counts or 'none as it should be'}, {len(self.failures)} wrong"
