"""What a training run leaves behind while it goes on: checkpoints, and the metrics up to each of them.

progress/
  step-000100/              a checkpoint
  metrics/000100.jsonl      lines of the steps since the checkpoint before, written before the index
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenmill import checkpoint, storage
from tokenmill.checkpoint import Box, Checkpoint, State
from tokenmill.errors import FormatError, IdentityError
from tokenmill.parallel.collectives import Group, barrier, broadcast, gather_objects
from tokenmill.training.learner import Learner

_NONE = -1


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What must be equal for a run to go on from a checkpoint."""

    model: Mapping[str, Any]
    """Sizes of the model."""
    config: Mapping[str, Any]
    """Config of the run, plain values."""
    tokenizer_sha256: str
    """Identity of the tokenizer of the token shards."""


class Progress:
    """Checkpoints of one run.

    Args:
        url: folder that outlives attempts.
        identity: what the checkpoints belong to.
        group: ranks that hold the same parameters; each writes its share of them.
        log: where to say what happens.

    Attributes:
        metrics: lines of all steps so far, oldest first; kept by rank 0.
    """

    def __init__(self, url: str, identity: RunIdentity, group: Group, log: logging.Logger) -> None:
        self._url, self._identity, self._group, self._log = url, identity, group, log
        self.metrics: list[dict[str, Any]] = []

    def folder(self, step: int) -> str:
        """Folder of a step's checkpoint."""
        return checkpoint.step_folder(self._url, step)

    def save(self, learner: Learner, *, step: int, consumed_tokens: int, keep: int) -> None:
        """Write a checkpoint, then remove all but the newest.

        Args:
            learner: what to save.
            step: steps done.
            consumed_tokens: tokens read so far.
            keep: checkpoints to keep.

        Raises:
            StorageError: the bytes could not be written; older checkpoints are untouched.
        """
        folder, is_first = self.folder(step), self._group.rank == 0
        if is_first:
            # An index of an earlier attempt must not vouch for files that are being written again.
            storage.remove(storage.join(folder, checkpoint.INDEX_NAME))
        barrier(self._group)
        boxes = {
            name: Box.whole(value)
            for index, (name, value) in enumerate(sorted(_tensors(learner).items()))
            if index % self._group.size == self._group.rank
        }
        shard = checkpoint.write_shard(folder, self._group.rank, boxes)
        shards = gather_objects(shard, self._group)
        if is_first:
            self._write_metrics(step)
            checkpoint.write_index(folder, self._state(step, consumed_tokens), shards)
            self._prune(keep)
            self._log.info("step %d: checkpoint saved in %s", step, folder)
        barrier(self._group)

    def restore(self, learner: Learner) -> State | None:
        """Go on from the newest checkpoint that is complete and whole; None if there is none.

        Raises:
            IdentityError: the checkpoint belongs to another run.
            VersionError: another version of tokenmill wrote it.
        """
        step = self._newest() if self._group.rank == 0 else _NONE
        agreed = torch.tensor([step], device=self._group.device)
        step = int(broadcast(agreed, self._group).item())
        if step == _NONE:
            return None
        opened = checkpoint.open_folder(self.folder(step))
        self._check_identity(opened)
        for name, value in _tensors(learner).items():
            with torch.no_grad():
                value.copy_(opened.read(name))
        if self._group.rank == 0:
            self.metrics = self._read_metrics(step)
            self._log.info("goes on after step %d, from %s", step, opened.url)
        return opened.state

    def _state(self, step: int, consumed_tokens: int) -> State:
        extra = {
            "config": dict(self._identity.config),
            "tokenizer_sha256": self._identity.tokenizer_sha256,
        }
        return State(step=step, consumed_tokens=consumed_tokens, model=self._identity.model, extra=extra)

    def _newest(self) -> int:
        """Newest step whose files are whole; the index of a damaged one is removed."""
        for step in reversed(checkpoint.list_steps(self._url)):
            folder = self.folder(step)
            try:
                checkpoint.open_folder(folder).verify()
            except FormatError as error:
                self._log.warning("step %d: checkpoint passed over: %s", step, error)
                storage.remove(storage.join(folder, checkpoint.INDEX_NAME))
            else:
                return step
        return _NONE

    def _check_identity(self, opened: Checkpoint) -> None:
        want, got = self._state(0, 0), opened.state
        for what, mine, theirs in (
            ("model", want.model, got.model),
            ("tokenizer", want.extra["tokenizer_sha256"], got.extra.get("tokenizer_sha256")),
            ("config", want.extra["config"], got.extra.get("config")),
        ):
            if storage.dump_json(mine) != storage.dump_json(theirs):
                raise IdentityError(
                    f"the checkpoint belongs to a run with another {what}",
                    where=opened.url,
                    expected=str(mine),
                    got=str(theirs),
                    fix="give the run a folder of its own",
                )

    def _prune(self, keep: int) -> None:
        for step in checkpoint.list_steps(self._url)[:-keep]:
            checkpoint.remove(self.folder(step))

    def _metrics_url(self, step: int) -> str:
        return storage.join(self._url, "metrics", f"{step:06d}.jsonl")

    def _write_metrics(self, step: int) -> None:
        earlier = [other for other in self._metrics_steps() if other < step]
        newest = max(earlier, default=0)
        lines = [storage.dump_json(line) for line in self.metrics if line["step"] > newest]
        storage.write_atomic(self._metrics_url(step), b"".join(lines))

    def _read_metrics(self, step: int) -> list[dict[str, Any]]:
        """Lines up to a step; parts after it belong to a checkpoint that is lost."""
        lines: list[dict[str, Any]] = []
        for other in self._metrics_steps():
            if other > step:
                storage.remove(self._metrics_url(other))
                continue
            data = storage.read_bytes(self._metrics_url(other))
            lines += [json.loads(line) for line in data.splitlines()]
        return lines

    def _metrics_steps(self) -> Sequence[int]:
        names = storage.list_names(storage.join(self._url, "metrics"))
        return [int(name.split(".")[0]) for name in names]


def _tensors(learner: Learner) -> dict[str, Tensor]:
    """Everything that a checkpoint holds, by its name there."""
    model = {f"model.{name}": value for name, value in learner.model.named_parameters()}
    return model | {f"optimizer.{name}": value for name, value in learner.optimizer.state().items()}
