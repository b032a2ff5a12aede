"""The loop's one door: deals samples to ranks, follows the engine's steps, saves and resumes.

What counts is the optimizer step.  A step's samples are those handed out since the step before, so
whatever does not fit (a save inside an accumulation, a batch that was handed out and never
trained on) is refused at once: a record that is not true would be worse than none.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from deepspeed_trainer.contract import ATTEMPT_ENV, CHECKPOINT_DIR_ENV, RESUMED_ENV
from deepspeed_trainer.fields import ContractError
from deepspeed_trainer.fingerprint.order import Order, sample_seed
from deepspeed_trainer.fingerprint.record import BEGINNING, FOLDER, Start
from deepspeed_trainer.loop import feed
from deepspeed_trainer.loop.engine import (
    add_to_saves,
    follow,
    follow_loads,
    gradient_norm,
    layout_of,
    orders_of,
)
from deepspeed_trainer.loop.journal import Journal
from deepspeed_trainer.loop.state import (
    Sidecar,
    SidecarMissing,
    capture_random_states,
    restore_random_states,
    seed_everything,
)

SAVER: Final = "deepspeed_trainer.loop"
STATE_KEY: Final = "dsjob_loop"
"""In the client_state of a save: what all ranks share."""


class Loop:
    """Batches of a data set for the ranks of one DeepSpeed engine, in one order for all of them.

    `data` is a map-style data set, or a DataLoader over one whose workers and collate function are
    used.  `folder` is where the program saves; by default DSJOB_CHECKPOINT_DIR.  Make it after
    `deepspeed.initialize` and before any load.

    Raises:
        TypeError, ValueError: it cannot deal such data to such an engine; the message says why.
    """

    def __init__(
        self,
        engine: Any,
        data: Any,
        *,
        seed: int = 0,
        shuffle: bool = True,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if engine.loaded_checkpoint_dp_world_size is not None:
            raise ValueError("the engine has loaded a checkpoint: make the Loop before that")
        self._engine = engine
        self._rank = torch.distributed.get_rank()
        self._layout = layout_of(engine)
        self._source = feed.describe_source(data, self._layout.micro_batch)
        self._order = Order(seed, len(self._source.dataset), shuffle)
        self.folder = _choose_folder(folder)
        """Where `save` saves and `load` looks."""
        self.step = 0
        """Optimizer steps done, those before a resume included."""
        self.samples = 0
        """Samples of all ranks in those steps."""
        self._handed_out: list[int] = []
        self._losses: list[Any] = []
        self._journal = Journal(self._journal_path())
        self._chain = BEGINNING
        self._has_loaded = self._has_begun = False
        self._restore: Any = None
        follow(engine, self._losses.append, self._note_step)
        in_job = CHECKPOINT_DIR_ENV in os.environ
        add_to_saves(engine, self._describe, self._write_sidecar, in_job=in_job)
        follow_loads(engine, self._note_loaded)
        self._orders = orders_of(engine)
        self._orders.offer(SAVER)

    @property
    def epoch(self) -> int:
        """Whole passes over the data set that are done."""
        return self.samples // self._order.length

    def batches(self, *, epochs: int | None = None, steps: int | None = None) -> Iterator[Any]:
        """Yield this rank's micro-batches until so many epochs or optimizer steps are done in all.

        Both count from the run's beginning, so what was done before a resume is not done again.
        Every rank gets equally many.  A batch may begin in one epoch and end in the next; what is
        left at the very end and fills no optimizer step is left out.

        Without a load before, the newest save in `folder` is loaded first.

        Raises:
            RuntimeError: a batch was handed out and no optimizer step was taken with it.
        """
        if not self._has_loaded:
            self.load()
        self._require_whole_step("the next batches were asked for")
        self._begin()
        end = self._find_end(epochs, steps)
        try:
            yield from self._hand_out(end)
        finally:
            self._journal.flush()

    def save(self, client_state: Mapping[str, Any] | None = None, tag: str | None = None) -> None:
        """Save engine and loop into `folder`; all ranks call it, after `engine.step()`.

        The tag is step<N> by default.  A program that keeps a client_state of its own is not
        asked to save when its pod is told to go: only it knows what to keep.
        """
        self._engine.save_checkpoint(
            str(self.folder), tag or f"step{self.step}", dict(client_state or {})
        )

    def load(self) -> dict[str, Any]:
        """Load the newest save in `folder`, if there is one; all ranks call it.

        Returns the client_state of the save, empty when there is none.

        Raises:
            RuntimeError: there is a save and DeepSpeed did not load it.
            SidecarMissing: this rank's part of the save is not there or is not whole.
            ValueError: the save read another data set, or in another order.
        """
        _, client_state = self._engine.load_checkpoint(str(self.folder))
        return _own_part(client_state)

    # Steps.

    def _hand_out(self, end: int) -> Iterator[Any]:
        for ids, batch in feed.read(
            self._source,
            self._order,
            self._layout,
            rank=self._rank,
            start=self.samples,
            end=end,
        ):
            if len(self._handed_out) == self._layout.micro_batch * self._layout.accumulation:
                self._require_whole_step("a further batch was asked for")
            if not self._handed_out:
                self._orders.meet(self.save)
            if self._restore is not None:
                self._restore()
                self._restore = None
            self._handed_out.extend(ids)
            yield batch
        self._orders.meet(self.save)

    def _note_step(self) -> None:
        wanted = self._layout.micro_batch * self._layout.accumulation
        if len(self._handed_out) != wanted:
            raise RuntimeError(
                f"an optimizer step after {len(self._handed_out)} samples of this rank where"
                f" {wanted} make a step: call engine.step() once for each batch of Loop.batches"
            )
        norm = gradient_norm(self._engine)
        self.step += 1
        self._journal.note(self.step, self.samples, self._handed_out, self._losses, norm)
        self.samples += self._layout.step_samples
        self._handed_out.clear()
        self._losses.clear()

    def _require_whole_step(self, what: str) -> None:
        if self._handed_out:
            raise RuntimeError(
                f"{what} while {len(self._handed_out)} samples of this rank were handed out and are"
                f" in no optimizer step: with {self._layout.accumulation} micro-batches a step,"
                " call engine.step() for each of them, and save after the last"
            )

    def _find_end(self, epochs: int | None, steps: int | None) -> int:
        ends = []
        if epochs is not None:
            ends.append(epochs * self._order.length)
        if steps is not None:
            ends.append(self.samples + (steps - self.step) * self._layout.step_samples)
        if not ends:
            raise ValueError("say how long to train: batches(epochs=...) or batches(steps=...)")
        return min(ends)

    # Saves and loads.

    def _describe(self, client_state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what all ranks share, at the beginning of a save."""
        self._stop_offering(client_state)
        self._require_whole_step("engine.save_checkpoint was called")
        self._flush()  # a save that is cut short leaves the record of what led to it
        return {
            STATE_KEY: {
                "step": self.step,
                "samples": self.samples,
                "world_size": self._layout.world_size,
                **self._describe_order(),
            }
        }

    def _stop_offering(self, client_state: Any) -> None:
        """What a program keeps beside the loop's only the program can save."""
        if _own_part(client_state):
            self._orders.offer("")

    def _describe_order(self) -> dict[str, Any]:
        order = self._order
        return {"seed": order.seed, "length": order.length, "shuffle": order.is_shuffled}

    def _write_sidecar(self, folder: Path) -> None:
        sidecar = Sidecar(
            step=self.step,
            chain=self._flush(),
            random_states=capture_random_states(),
            record=self._journal.take_since_save() if self._has_begun else (),
        )
        sidecar.write(folder, self._rank)

    def _flush(self) -> str:
        return self._journal.flush() if self._has_begun else self._chain

    def _note_loaded(self, folder: Path | None, client_state: Any) -> None:
        self._has_loaded, self._has_begun = True, False
        self._handed_out.clear()
        self._losses.clear()
        self._stop_offering(client_state)
        state = (client_state or {}).get(STATE_KEY)
        if folder is None or state is None:
            self.step = self.samples = 0
            self._chain, self._restore = BEGINNING, None
            if folder is not None and self._rank == 0:
                sys.stderr.write(
                    f"deepspeed_trainer.loop: {folder} was not saved with a Loop; its weights are"
                    " loaded, and the data starts from the first sample\n"
                )
            return
        self._refuse_other_data(folder, state)
        if state["world_size"] == self._layout.world_size:
            sidecar = _read_sidecar(folder, self._rank, state["step"])
            states, self._chain = sidecar.random_states, sidecar.chain
            self._restore = lambda: restore_random_states(states)
        else:
            # No rank of another world has a past to continue.
            place = state["samples"] + self._rank
            self._chain = BEGINNING
            self._restore = lambda: seed_everything(sample_seed(self._order, place))
        self.step, self.samples = state["step"], state["samples"]

    def _refuse_other_data(self, folder: Path, state: Mapping[str, Any]) -> None:
        for name, own in self._describe_order().items():
            if state[name] != own:
                raise ValueError(
                    f"{folder} was saved with {name} {state[name]}, this Loop has {own}: the"
                    " samples that are left cannot be told; use the same data and seed, or start"
                    " in another folder"
                )

    # Records.

    def _begin(self) -> None:
        """Write down a start, once after each load; all ranks agree on its number."""
        if self._has_begun:
            return
        starts = torch.tensor(Journal.count_starts(self._journal_path()), dtype=torch.int64)
        starts = starts.to(self._engine.device)
        torch.distributed.all_reduce(starts, op=torch.distributed.ReduceOp.MAX)
        self._journal.begin(
            Start(
                attempt=int(os.environ.get(ATTEMPT_ENV, "1")),
                start=int(starts) + 1,
                rank=self._rank,
                layout=self._layout,
                order=self._order,
                step=self.step,
                position=self.samples,
                chain=self._chain,
                adopted=_is_adopted(),
            )
        )
        self._has_begun = True

    def _journal_path(self) -> Path:
        in_attempt = CHECKPOINT_DIR_ENV in os.environ
        base = Path(os.environ[CHECKPOINT_DIR_ENV]).parent if in_attempt else self.folder
        return base / FOLDER / f"rank-{self._rank:05d}.jsonl"


def _is_adopted() -> bool | None:
    """Return whether the job continues from another run's save; None where there is no job."""
    if CHECKPOINT_DIR_ENV not in os.environ:
        return None
    return bool(json.loads(os.environ.get(RESUMED_ENV, "{}")).get("adopted"))


def _own_part(client_state: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (client_state or {}).items() if name != STATE_KEY}


def _choose_folder(folder: str | os.PathLike[str] | None) -> Path:
    chosen = folder if folder is not None else os.environ.get(CHECKPOINT_DIR_ENV)
    if chosen is None:
        raise ValueError(f"say where to save: Loop(..., folder=...), or set {CHECKPOINT_DIR_ENV}")
    return Path(chosen)


def _read_sidecar(folder: Path, rank: int, step: int) -> Sidecar:
    try:
        sidecar = Sidecar.read(folder, rank)
    except (OSError, ContractError) as error:
        raise SidecarMissing(
            f"the checkpoint {folder} lacks what rank {rank} needs to continue exactly: {error}"
        ) from error
    if sidecar.step != step:
        raise SidecarMissing(
            f"in the checkpoint {folder} of step {step} the part of rank {rank} is of step"
            f" {sidecar.step}: a save into the same tag was cut short; take an older checkpoint"
        )
    return sidecar
