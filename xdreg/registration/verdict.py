"""A verdict on a registration from what its field records, with the reasons.

It needs no images and no truth: it finds what went visibly wrong. A registration that
it calls good can still be wrong, as where two regions look alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from xdreg.engines.pose_text import DOUBTFUL
from xdreg.fields.diagnostics import HARMLESS, status_name
from xdreg.fields.provenance import manifest_of, pose_of, stages_of
from xdreg.partition import BlockStatus

if TYPE_CHECKING:
    import xarray as xr

    from xdreg.fields.provenance import StageRecord

Word = Literal["good", "doubtful", "failed", "unknown"]

#: Share of the blocks with content that may be unused before the verdict is doubtful,
#: and before it is failed.
UNUSED = (0.1, 0.5)

#: Statuses of blocks that speak against nothing.
USED = (float(BlockStatus.SUCCESS), float(BlockStatus.NOT_IMPROVED))

#: Share of the chunks read that may be missing.
MISSING = 0.1

#: Agreement above chance, by either metric, below which the images have met nowhere.
#: As of `xdreg.engines.metric_choice`, which measures it where they start.
AGREEMENT = 0.1

#: Mean similarity by local correlation from which a stage has found what the start has
#: not. Images that do not belong together are bent to less.
FOUND = 0.4


@dataclass(frozen=True)
class Verdict:
    """Whether a registration can be trusted as it is.

    Parameters
    ----------
    word
        ``"good"``: nothing speaks against it. ``"doubtful"``: look at it before you use
        it. ``"failed"``: do not use it. ``"unknown"``: the field records no run.
    reasons
        What speaks against it, the worst first.
    """

    word: Word
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the word and the reasons in a line."""
        return ": ".join(filter(None, [self.word, "; ".join(self.reasons)]))


def verdict(field: xr.Dataset) -> Verdict:
    """Return the verdict on the registration that made a field.

    Parameters
    ----------
    field : Dataset
        A displacement field.

    Returns
    -------
    Verdict
    """
    stages = [stage for stage in stages_of(field) if stage.statuses]
    if not any(stage.name for stage in stages):
        return Verdict("unknown", ("the field records no registration",))
    failures, doubts = [], []
    pose = pose_of(field)
    margin = pose.get("margin")
    if isinstance(margin, int | float) and margin < DOUBTFUL:
        doubts.append(
            f"another pose fits about as well (margin {margin:.2f}, less than "
            f"{DOUBTFUL})"
        )
    if not any(
        stage.options.get("metric") == "lncc" and stage.mean("similarity_after") > FOUND
        for stage in stages
    ):
        doubts += _of_choice(manifest_of(field).get("choice"))
    for stage in stages:
        failed, doubtful = _of_stage(stage, last=stage is stages[-1])
        failures += failed
        doubts += doubtful
    if not any((s.blocks["status"] == BlockStatus.SUCCESS).any() for s in stages):
        doubts.append(
            "no stage improved the similarity: the images agree already, or share "
            "nothing that the metric sees"
        )
    word: Word = "failed" if failures else "doubtful" if doubts else "good"
    return Verdict(word, (*failures, *doubts))


def _of_choice(choice: object) -> list[str]:
    """Return what the choice of the metric has seen that means doubt.

    It may come from any store, and there is none where the user named a metric.
    """
    seen = choice if isinstance(choice, dict) else {}
    found = [seen.get(name) for name in ("correlation", "shapes")]
    agreement = [v for v in found if isinstance(v, int | float) and math.isfinite(v)]
    if len(agreement) < len(found) or max(agreement) >= AGREEMENT:
        return []
    return [
        "the images hardly agree better than by chance where the registration started "
        f"(agreement {max(0.0, *agreement):.2f}, less than {AGREEMENT}): is initial "
        "right?"
    ]


def _of_stage(stage: StageRecord, *, last: bool) -> tuple[list[str], list[str]]:
    """Return what of a stage means failure, and what means doubt."""
    status = stage.blocks["status"]
    tried = ~np.isin(status, [float(s) for s in (*HARMLESS, BlockStatus.PENDING)])
    name = f"stage {stage.number} ({stage.name})"
    if not tried.any():
        text = f"{name} found nothing to register: the images share no content"
        return ([text], []) if last else ([], [])
    # Where the images agree already, there is nothing to improve.
    unused = ~np.isin(status[tried], USED)
    count, share = int(unused.sum()), float(unused.mean())
    failures, doubts = [], []
    verb = "was" if count == 1 else "were"
    which = "it was" if tried.sum() == 1 else f"{count} of {tried.sum()} blocks {verb}"
    words = sorted({status_name(v) for v in status[tried][unused]})
    text = f"{name}: {which} not used ({', '.join(words)})"
    # An earlier stage that does nothing leaves the work to those after it.
    if last and share > UNUSED[1]:
        failures.append(text)
    elif (last and share > UNUSED[0]) or (stage.linear and share):
        doubts.append(text)
    pair = [stage.blocks.get(f"similarity_{when}") for when in ("before", "after")]
    if last and all(v is not None and np.isfinite(v[tried]).any() for v in pair):
        before, after = (float(np.nanmean(v[tried])) for v in pair if v is not None)
        if after < before:
            text = f"{name} made the images less similar, {before:.3f} → {after:.3f}"
            failures.append(text)
    missing = np.nan_to_num(stage.blocks.get("missing_chunks", np.zeros(1)))
    if last and missing.max() > MISSING:
        doubts.append(f"chunks of the images are missing, up to {missing.max():.0%}")
    return failures, doubts
