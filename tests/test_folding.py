"""Folding: exact inverses, the earliest strip on top, seams where they belong."""
import numpy as np
import pytest
import torch

from birdkit.folding import fold, unfold


@pytest.mark.parametrize("strips", [1, 2, 3, 4, 8])
def test_unfold_undoes_fold(strips: int) -> None:
    """The second seed's fold for four strips stacked the same part three times; an exact inverse cannot."""
    spectrogram = torch.randn(2, 3, 5, 48)
    image = fold(spectrogram, strips)
    assert image.shape == (2, 3, 5 * strips, 48 // strips)
    assert torch.equal(unfold(image, strips), spectrogram)
    assert torch.equal(fold(unfold(image, strips), strips), image)


def test_the_first_half_of_the_clip_is_the_top_strip() -> None:
    """Anyone looking at an image must know where time starts."""
    spectrogram = np.arange(12.0).reshape(2, 6)
    assert np.array_equal(fold(spectrogram, 2)[:2], spectrogram[:, :3])
    assert np.array_equal(fold(spectrogram, 2)[2:], spectrogram[:, 3:])


def test_numpy_and_torch_agree() -> None:
    """One definition serves plots and training."""
    spectrogram = np.random.default_rng(0).random((3, 4, 12))
    assert np.array_equal(fold(torch.from_numpy(spectrogram), 3).numpy(), fold(spectrogram, 3))


def test_normalising_and_folding_commute() -> None:
    """So the front end may standardise before it folds, and a mask on the unfolded spectrogram keeps the statistics."""
    spectrogram = torch.randn(4, 1, 8, 32, dtype=torch.float64)

    def standardise(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean((-2, -1), keepdim=True)) / x.std((-2, -1), keepdim=True)

    assert torch.allclose(fold(standardise(spectrogram), 2), standardise(fold(spectrogram, 2)))


def test_a_feature_map_unfolds_like_its_image() -> None:
    """A cell of the map that saw the bottom strip lands in the second half of the clip."""
    image = fold(torch.arange(24.0).reshape(1, 1, 2, 12), 2)  # (1, 1, 4, 6)
    pooled = torch.nn.functional.max_pool2d(image, 2)  # (1, 1, 2, 3)
    assert torch.equal(unfold(pooled, 2).flatten(), torch.tensor([13.0, 15.0, 17.0, 19.0, 21.0, 23.0]))


@pytest.mark.parametrize(("size", "strips"), [(10, 3), (10, 0)])
def test_what_does_not_divide_is_refused(size: int, strips: int) -> None:
    """Dropping the odd frames in silence would shift every later window."""
    with pytest.raises(ValueError, match="strips"):
        fold(np.zeros((2, size)), strips)
    with pytest.raises(ValueError, match="strips"):
        unfold(np.zeros((size, 2)), strips)
