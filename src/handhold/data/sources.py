"""Published sets as the command line names them, and the bar while their labels are gathered."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handhold.data.dataset import MISSING_IMAGES, IndexedSet
from handhold.data.registry import DATASETS, entry, open_dataset
from handhold.errors import FileFormatError

SKIP_DAMAGED = "?skip-damaged"
FORM = f"NAME[/SPLIT][{SKIP_DAMAGED}]:FOLDER with NAME one of {', '.join(DATASETS)}"


@contextmanager
def progress_bar(title: str) -> Generator[Callable[[int, int], None]]:
    """A `progress` to hand on (done, total), drawn on stderr, where that is a terminal, from its
    first call on."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), *Progress.get_default_columns()[:2], MofNCompleteColumn())
    console = Console(stderr=True)
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(title)

    def tell(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)
        if done >= total:
            bar.stop()

    try:
        yield tell
    finally:
        if bar.live.is_started:
            bar.stop()


@dataclass(frozen=True, kw_only=True)
class SetSpec:
    """NAME[/SPLIT][?skip-damaged]:ROOT, such as `dexycb/s0-train:data/dexycb`.

    split None: the set's own choice, by purpose. skip_damaged: go on without the samples that are
    damaged or whose image is missing.
    """

    name: str
    root: str
    split: str | None = None
    skip_damaged: bool = False

    @classmethod
    def parse(cls, text: str) -> SetSpec | None:
        """The set that a text names; None where it names none, as does "photos:FOLDER": of that
        the caller chooses the part."""
        head, _, root = text.partition(":")
        plain = head.removesuffix(SKIP_DAMAGED)
        name, _, split = plain.partition("/")
        if name not in DATASETS or not root or head == "photos":
            return None
        return cls(name=name, root=root, split=split or None, skip_damaged=plain != head)

    def chosen_split(self, purpose: str = "train") -> str:
        """The split that is named, else the set's own for the purpose, "train" or "test"."""
        told = entry(self.name)
        return self.split or (told.train if purpose == "train" else told.test)

    def open(
        self,
        purpose: str = "train",
        *,
        mano: str | Path | None = None,
        skip: Iterable[str] = (),
        workers: int | None = None,
    ) -> IndexedSet:
        """The samples; the index is made first where there is none.

        purpose: as `chosen_split` explains. Raises FileFormatError
        for a set with damaged samples unless `skip_damaged`, and what opening raises.
        """
        split = self.chosen_split(purpose)
        with progress_bar(f"index of {self.name}") as progress:
            found = open_dataset(
                self.name,
                self.root,
                split,
                mano=mano,
                skip=(*skip, MISSING_IMAGES) if self.skip_damaged else skip,
                workers=workers,
                progress=progress,
            )
        problems = found.index.problems
        if problems and not self.skip_damaged:
            raise FileFormatError(
                f"{self.name} in {self.root}: {len(problems)} damaged, the first: {problems[0]}. "
                f"`handhold data check {self.name} {self.root}` lists them; "
                f"{self.name}/{split}{SKIP_DAMAGED}:{self.root} goes on without them"
            )
        return found
