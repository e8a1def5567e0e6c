"""Published sets as the command line names them, and the bar while their labels are gathered."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handhold.data.dataset import LENIENT, IndexedSet
from handhold.data.registry import DATASETS, entry, open_dataset
from handhold.errors import FileFormatError, InputError
from handhold.scene import Side

SKIP_DAMAGED = "?skip-damaged"
RENDERED = ("occlusion", "masks")  # labels that are rendered on the fly when asked for
# sets that label what hides the hand: a mask of what is seen of it, or an object with its mesh
OCCLUDED = ("dexycb", "ho3d-v2", "ho3d-v3", "obman", "mow")
OBJECTS = "objects="  # a folder of meshes for it
SIDES = ("side=right", "side=left")  # what hands count as whose side the set does not tell
FORM = (
    f"NAME[/SPLIT][{SKIP_DAMAGED}][?occlusion][?masks][?{OBJECTS}MESHES][?side=right|left]:"
    f"FOLDER with NAME one of "
    f"{', '.join(DATASETS)}"
)


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
    """NAME[/SPLIT][?OPTION...]:ROOT, such as `dexycb/s0-train?occlusion:data/dexycb`.

    split None: the set's own choice, by purpose. skip_damaged (?skip-damaged): go on without the
    samples that are damaged or whose image is missing. rendered (?occlusion, ?masks): labels to
    make where the set lacks them (`data.occlusion`), with the objects' meshes of the folder
    `objects` (?objects=FOLDER) or else of the set itself. side (?side=right, ?side=left): taken of
    every hand of a set that does not tell it: the user's assumption, not a label.
    """

    name: str
    root: str
    split: str | None = None
    skip_damaged: bool = False
    rendered: tuple[str, ...] = ()
    objects: str | None = None
    side: Side | None = None

    @classmethod
    def parse(cls, text: str) -> SetSpec | None:
        """The set that a text names; None where it names none, as does "photos:FOLDER": of that
        the caller chooses the part. Raises InputError for an option that there is not."""
        head, _, root = text.partition(":")
        plain, *options = head.split("?")
        name, _, split = plain.partition("/")
        if name not in DATASETS or not root or head == "photos":
            return None
        known = [item for item in options if f"?{item}" == SKIP_DAMAGED or item in RENDERED]
        folders = [item for item in options if item.startswith(OBJECTS) and item != OBJECTS]
        sides = [item for item in options if item in SIDES]
        if len(known) + len(folders) + len(sides) < len(options):
            raise InputError(f"data {text!r}: an option is unknown; expected {FORM}")
        if sides and "side" in entry(name).labels:
            raise InputError(f"data {text!r}: ?{sides[-1]}: the labels of {name} tell the sides")
        return cls(
            name=name,
            root=root,
            split=split or None,
            skip_damaged=SKIP_DAMAGED[1:] in known,
            rendered=tuple(item for item in RENDERED if item in known),
            objects=folders[-1].removeprefix(OBJECTS) if folders else None,
            side=None if not sides else "left" if sides[-1] == SIDES[1] else "right",
        )

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
        if "occlusion" in self.rendered and self.name not in OCCLUDED:
            warnings.warn(
                f"{self.name}?occlusion: the set labels nothing that could hide the hand, so its "
                f"visible share stays unknown; it is made for {', '.join(OCCLUDED)}",
                stacklevel=2,
            )
        if self.rendered:  # reads the hand's own mask; a mask that is asked for is never skipped
            skip = set(skip) - {"hand_mask", "hand_mask_amodal"}
            skip = skip - {"object_mask"} if "masks" in self.rendered else skip
        with progress_bar(f"index of {self.name}") as progress:
            found = open_dataset(
                self.name,
                self.root,
                split,
                mano=mano,
                skip=(*skip, *LENIENT) if self.skip_damaged else skip,
                workers=workers,
                progress=progress,
            )
        problems = found.index.problems
        if problems and not self.skip_damaged:
            lenient = shlex.quote(f"{self.name}/{split}{SKIP_DAMAGED}:{self.root}")
            raise FileFormatError(
                f"{self.name} in {self.root}: {len(problems)} damaged, the first: {problems[0]}. "
                f"`handhold data check {self.name} {shlex.quote(self.root)}` lists them; "
                f"{lenient} goes on without them"
            )
        found.assumed_side = self.side
        if self.rendered:
            from handhold.data.occlusion import Renderer

            found.renderer = Renderer(found.files, self.rendered, self.objects)
        return found
