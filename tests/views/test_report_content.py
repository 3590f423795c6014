"""Text and numbers of a report."""

import xdreg
from xdreg.coordinates import grid_of
from xdreg.fields import accuracy as judging
from xdreg.views import report_content


def test_the_worst_blocks_come_first(registered):
    record = xdreg.fields.provenance.last_deformable(registered[2])
    order = xdreg.fields.provenance.worst_blocks(record, 6)
    status = [record.blocks["status"][index] for index in order]
    assert status[0] != 0
    good = [v for v in order if record.blocks["status"][v] == 0]
    similar = [record.blocks["similarity_after"][v] for v in good]
    assert similar == sorted(similar)
    assert record.partition.counts == record.blocks["status"].shape == (2, 3)


def test_what_stands_out_is_said(registered):
    pair, moving, field = registered
    wrong = field.assign(displacement=5 - 16 * field.displacement)
    other = {"fixed": grid_of(pair.fixed[:, :80]), "moving": grid_of(moving)}
    text = " ".join(
        report_content.remarks(
            wrong,
            report_content.Similarity("correlation", 0.9, 0.8),
            report_content.folding(wrong, []),
            judging.landmark_errors(wrong, pair.fixed_points, pair.moving_points),
            {1: judging.LabelOverlap(100, (80, 80), (70, 60))},
            other,
        )
    )
    for part in (
        "fixed image given to this report is not the one that was registered: 64 × 80",
        "1 of 6 blocks of the last stage contributes no update (1 rejected)",
        "agree no better",
        "of all points of the field",
        "landmarks are farther off",
        "1 of 1 label overlaps less",
    ):
        assert part in text
