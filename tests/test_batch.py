"""Batches."""
import torch

from birdkit.batch import Batch


def test_replace_leaves_the_original_alone_and_keeps_the_sources() -> None:
    """Augmentations hand on what they do not touch."""
    background = Batch(torch.ones(2, 8), torch.zeros(2, 3), torch.ones(2))
    batch = Batch(torch.zeros(2, 8), torch.zeros(2, 3), torch.ones(2), sources={"noise": background})
    changed = batch.replace(signal=torch.full((2, 8), 2.0))
    assert changed.sources["noise"] is background and len(changed) == 2
    assert torch.equal(batch.signal, torch.zeros(2, 8))


def test_moving_to_a_device_moves_the_sources_too() -> None:
    """Half a batch on the card is a crash in the middle of the first step."""
    background = Batch(torch.ones(2, 8), torch.zeros(2, 3), torch.ones(2))
    moved = Batch(torch.zeros(2, 8), torch.zeros(2, 3), torch.ones(2), sources={"noise": background}).to("meta")
    assert {moved.signal.device.type, moved.sources["noise"].target.device.type} == {"meta"}
