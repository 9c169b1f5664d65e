"""The one aggregation: clips and windows by the same formula."""
import pytest
import torch

from birdkit.output import POOLED, SEDOutput, pool_probabilities, probabilities


def make(clips: int = 2, segments: int = 6, classes: int = 3) -> SEDOutput:
    torch.manual_seed(0)
    logits = torch.randn(clips, segments, classes)
    attention = torch.softmax(torch.randn(clips, segments, classes), 1)
    return SEDOutput((logits * attention).sum(1), logits, attention)


def test_a_window_that_is_the_clip_is_the_clip() -> None:
    """Validation on clips and submission of windows are one number, not two formulas as in the second seed."""
    output = make()
    coverage = torch.zeros(2, 12)
    coverage[0, :6] = coverage[1, 6:] = 1.0
    assert torch.allclose(probabilities(output, coverage), probabilities(output), atol=1e-6)


def test_pooled_over_clips_a_window_is_the_mean_of_what_it_overlaps() -> None:
    """Three quarters of one clip and a quarter of the next: three parts of the one opinion, one of the other."""
    output = SEDOutput(torch.tensor([[2.0], [-2.0]]), torch.zeros(2, 4, 1), torch.full((2, 4, 1), 0.25))
    coverage = torch.tensor([[0.0, 1, 1, 1, 1, 0, 0, 0]])
    expected = 0.75 * torch.tensor(2.0).sigmoid() + 0.25 * torch.tensor(-2.0).sigmoid()
    assert probabilities(output, coverage, pool="clips").item() == pytest.approx(expected.item())
    whole = torch.tensor([[1.0] * 4 + [0.0] * 4])
    assert torch.equal(probabilities(output, whole, pool="clips"), probabilities(output)[:1])
    with pytest.raises(ValueError, match="pool = 'frames'"):
        probabilities(output, whole, pool="frames")


def test_a_window_hears_only_its_own_segments() -> None:
    """A loud call elsewhere in the clip must not be written into every window."""
    output = make(clips=1)
    coverage = torch.tensor([[1.0, 1, 0, 0, 0, 0]])
    before = probabilities(output, coverage)
    output.segment_logits[0, 2:] += 50
    assert torch.equal(probabilities(output, coverage), before)


def test_a_half_covered_segment_counts_half() -> None:
    """Windows need not end where segments end."""
    output = SEDOutput(torch.zeros(1, 1), torch.tensor([[[3.0], [0.0]]]), torch.full((1, 2, 1), 0.5))
    assert probabilities(output, torch.tensor([[1.0, 0.5]])).item() == pytest.approx(torch.tensor(2.0).sigmoid().item())


def test_overlapping_clips_that_agree_change_nothing() -> None:
    """The average of two equal opinions is that opinion."""
    one = make(clips=1)
    two = SEDOutput(one.clip_logits.repeat(2, 1), one.segment_logits.repeat(2, 1, 1), one.attention.repeat(2, 1, 1))
    assert torch.allclose(probabilities(two, torch.ones(1, 12)), probabilities(one), atol=1e-6)


def test_a_window_without_audio_is_refused() -> None:
    """A number for it would be invented."""
    with pytest.raises(ValueError, match="window 1 covers no segment"):
        probabilities(make(clips=1), torch.tensor([[1.0] * 6, [0.0] * 6]))


def test_half_precision_logits_come_out_in_float32() -> None:
    """Autocast must not round probabilities."""
    output = make()
    half = SEDOutput(*(value.bfloat16() for value in (output.clip_logits, output.segment_logits, output.attention)))
    assert probabilities(half).dtype == torch.float32
    assert probabilities(half, torch.ones(1, 12)).dtype == torch.float32


def of_kind(pooled: str) -> SEDOutput:
    """Two clips of six segments whose clips follow from their segments as `pooled` says."""
    one = make()
    clip = {"logits": one.clip_logits, "probabilities": pool_probabilities(one.segment_logits, one.attention),
            "max": one.segment_logits.amax(1), "free": one.clip_logits + 1.5}[pooled]
    return SEDOutput(clip, one.segment_logits, one.attention, pooled)


@pytest.mark.parametrize("pooled", POOLED)
def test_however_it_is_pooled_a_window_that_is_the_clip_is_the_clip(pooled: str) -> None:
    """What the second seed submitted (pooled probabilities) was never what it validated (pooled logits)."""
    output, coverage = of_kind(pooled), torch.zeros(2, 12)
    coverage[0, :6] = coverage[1, 6:] = 1.0
    assert torch.allclose(probabilities(output, coverage), probabilities(output), atol=1e-6)


@pytest.mark.parametrize("pooled", ["logits", "probabilities", "max"])
def test_however_it_is_pooled_a_window_hears_only_its_own_segments(pooled: str) -> None:
    """A loud call in the other half of the clip, and in a sliver of the neighbouring segment, stays there."""
    output, coverage = of_kind(pooled), torch.zeros(1, 12)
    coverage[0, :3] = 1.0
    before = probabilities(output, coverage)
    output.segment_logits[0, 3:] += 50
    assert torch.equal(probabilities(output, coverage), before)
    if pooled == "max":
        coverage[0, 3] = 0.01
        assert torch.equal(probabilities(output, coverage), before)


def test_pooled_probabilities_keep_both_tails() -> None:
    """Logits of -40 and 40 have probabilities that float32 rounds to 0 and 1; their logits must not be infinite."""
    logits = torch.tensor([[[-40.0, 40.0, 2.0], [-40.0, 40.0, -2.0]]])
    pooled = pool_probabilities(logits, torch.full((1, 2, 3), 0.5))
    assert torch.allclose(pooled, torch.tensor([[-40.0, 40.0, 0.0]]), atol=1e-4)


def test_an_unknown_way_of_pooling_is_refused() -> None:
    """A typing error in a new head must not be pooled as something else."""
    with pytest.raises(ValueError, match="pooled = 'mean'"):
        SEDOutput(torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1), "mean")
