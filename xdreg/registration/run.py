"""A registration from its first stage to the field.

Every stage passes its state to the next one. What is done is stored in the work
directory, where the same run finds it again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xdreg.engines import elastix_process, processes
from xdreg.engines.isolated import Isolated
from xdreg.errors import InputError
from xdreg.registration.blockwise import run_blockwise
from xdreg.registration.landmark_start import tell_of_landmarks
from xdreg.registration.linear_stage import choose_metric, run_linear
from xdreg.registration.manifest import describe_inputs
from xdreg.registration.progress import Listener, StageProgress
from xdreg.registration.result import result_field
from xdreg.registration.source import PairImage, Source
from xdreg.registration.spoken import announced_compiling, logged_stage
from xdreg.registration.state import Shared, initial_state
from xdreg.registration.workdir import differences
from xdreg.registration.workers import check_workers, watched_workers

if TYPE_CHECKING:
    import xarray as xr

    from xdreg.partition import BlockStatus
    from xdreg.registration.plan import Plan
    from xdreg.registration.workdir import WorkDirectory

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A registration that was checked and is ready to run.

    Parameters
    ----------
    plan
        Levels, stages and blocks.
    fixed, moving
        The pair.
    start : matrix, Dataset, itk.Transform or None
        Where to start.
    said
        What to say of a start that was not asked for. The pose is searched then, too.
    directory
        The work directory.
    manifest
        The description that the work directory holds.
    retry
        Statuses of blocks that run again when a run is resumed.
    shared
        The fixed image if several runs share it; it was checked.
    name
        What to call the run in its progress; empty for the only one.
    """

    plan: Plan
    fixed: PairImage
    moving: PairImage
    start: Any
    said: str | None
    directory: WorkDirectory
    manifest: dict[str, Any]
    retry: tuple[BlockStatus, ...] = ()
    shared: Source | None = None
    name: str = ""

    def __call__(
        self, progress: bool | Listener = True, *, check: bool = False
    ) -> xr.Dataset:
        """Run all stages and return the field; ``check`` the images before, too."""
        lines = StageProgress(progress, len(self.plan.stages), self.name)
        with (
            self.directory.lock(),
            self.directory.writing(),
            lines,
            announced_compiling(lines.say),
        ):
            if check:
                self._check_images()
            try:
                with watched_workers(self.plan.worker_memory):
                    field = self._run(lines)
            except KeyboardInterrupt:
                # Threads that wait for an engine would keep Python from ending.
                processes.shutdown()
                raise
            self._check_images()
            return field

    def _check_images(self) -> None:
        """Raise if an image is not what it was when `register` was called."""
        now = describe_inputs(self.plan, self.start, self.fixed, self.moving)
        changed = differences({name: self.manifest[name] for name in now}, now)
        if changed:
            msg = (
                "an image was written after register was called, so that a result "
                f"would mix old and new voxels. What differs: {changed}. Call again"
            )
            remedy = {} if self.directory.temporary else {"fresh": True}
            raise InputError(msg, **remedy)

    def _run(self, lines: StageProgress) -> xr.Dataset:
        check_workers()
        self.plan.resources.check_scheduler()
        at_once = self.plan.limit
        shared = Shared(
            self.shared or Source(self.fixed, self.directory.path, at_once),
            Source(self.moving, self.directory.path, at_once),
            self.directory,
            self.retry,
            searches_pose=self.start is None or self.said is not None,
            allow_mirror=self.manifest["allow_mirror"],
            lines=lines,
            threads=self.plan.resources.threads,
            at_once=at_once,
        )
        if self.shared is None:
            shared.fixed.check()
        shared.moving.check()
        plan, state = self.plan, initial_state(self.start, self.plan)
        if self.said is not None:
            _log.info("%s", self.said)
            lines.say(self.said)
        choice = pose = None
        if plan.undecided:
            choice, pose = choose_metric(shared, plan, state)
            plan = plan.decided(choice.metric)
            _log.info("%s", choice)
            lines.say(str(choice))
        _start_engines(plan)
        diagnostics, found = [], None
        for number, stage in enumerate(plan.stages):
            with logged_stage(number, stage) as ended:
                if stage.options.linear:
                    state, numbers, used = run_linear(
                        shared, number, stage, state, pose
                    )
                    found = used or found
                else:
                    last = number == len(plan.stages) - 1
                    state, numbers = run_blockwise(
                        shared, number, stage, state, last=last
                    )
                ended(numbers["status"])
            diagnostics.append(numbers)
        manifest = self.manifest | shared.fixed.found_mask | shared.moving.found_mask
        field = result_field(
            plan, state, diagnostics, manifest, choice=choice, pose=found
        )
        field = tell_of_landmarks(field, plan)
        return field if self.said is None else field.assign_attrs(start=self.said)


def _start_engines(plan: Plan) -> None:
    """Start engine processes while the first levels are read."""
    if any(stage.by_elastix for stage in plan.stages):
        processes.prepare(1, elastix_process.__name__)
    elif any(stage.isolated for stage in plan.stages):
        processes.prepare(1, Isolated.__module__)
