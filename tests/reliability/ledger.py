"""How the cases of a torture ended; the folders of lost ones are kept."""

import collections
import shutil

from tests.reliability.commands import Place

EQUAL, FALLBACK, ERROR, LOST = "bit-equal", "documented fallback", "named error", "lost"
OUTCOMES = (EQUAL, FALLBACK, ERROR, LOST)


class Ledger:
    """Outcomes by event and command; keeps the folders of lost cases."""

    def __init__(self, place: Place):
        self._place = place
        self.tried: collections.Counter[tuple[str, str]] = collections.Counter()
        self.outcomes: collections.Counter[tuple[str, str, str]] = collections.Counter()

    def add(self, event: str, name: str, outcome: str, events: int = 1, why: str = "") -> None:
        """events: how many the case took, kills for example."""
        self.tried[event, name] += events
        self.outcomes[event, name, outcome] += 1
        if outcome == LOST:
            folder = self._place.root / "lost" / f"{self.outcomes.total()}_{event}_{name}".replace(" ", "_")
            shutil.copytree(self._place.work, folder)
            shutil.copy(self._place.log, folder / "log")
            (folder / "why").write_text(why + "\n")
        print(f"{event}, {name}: {outcome}{': ' + why if why else ''}", flush=True)

    @property
    def lost(self) -> int:
        return sum(count for (*_, outcome), count in self.outcomes.items() if outcome == LOST)

    def table(self) -> str:
        """Markdown."""
        lines = [["event", "command", "events", "cases", *OUTCOMES]]
        for (event, name), events in self.tried.items():
            counts = [self.outcomes[event, name, outcome] for outcome in OUTCOMES]
            lines.append([event, name, str(events), str(sum(counts)), *map(str, counts)])
        totals = [sum(int(line[i]) for line in lines[1:]) for i in range(2, len(lines[0]))]
        lines.append(["all", "", *map(str, totals)])
        lines.insert(1, ["---"] * len(lines[0]))
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
