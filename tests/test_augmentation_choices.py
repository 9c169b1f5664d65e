"""Augmentations, member by member: an example replaced by one of its class, and one of several members for each."""
from __future__ import annotations

import pytest
import torch
from augmentation_batches import N, build, seeded, tones, waves

from birdkit.augmentations import Augmentation
from birdkit.batch import Batch


def test_a_substitute_takes_the_place_where_there_is_one_and_nowhere_else() -> None:
    """An example whose class is in no window would otherwise become silence that carries no weight."""
    batch = waves(tones(4), tones(4, first_hz=5000.0), "matched")
    clips = batch.sources["matched"]
    weight = torch.tensor([3.0, 0.0, 3.0, 0.0])
    batch = batch.replace(sources={"matched": clips.replace(weight=weight, signal=clips.signal * weight[:, None])})
    result = build("substitute")(batch, seeded(0))
    for row in (0, 2):
        assert torch.equal(result.signal[row], batch.sources["matched"].signal[row])
        assert torch.equal(result.target[row], clips.target[row]) and float(result.weight[row]) == 3
    for row in (1, 3):
        assert torch.equal(result.signal[row], batch.signal[row])
        assert torch.equal(result.target[row], batch.target[row]) and float(result.weight[row]) == row + 1


def injectors(**shares: float) -> Augmentation:
    """soundscape_mix of each source, into such a share of the examples."""
    return build("one_of", members=[{"name": "soundscape_mix", "options": {"source": source}, "share": share}
                                    for source, share in shares.items()])


def test_no_example_gets_both_injections_and_the_shares_are_the_published_ones() -> None:
    """2026 first place: pseudo-labelled soundscapes into .75, labelled ones into .1875, the rest untouched."""
    n = 4000
    signal, zero = torch.zeros(n, 8), torch.zeros(n, 3)
    sources = {name: Batch(torch.full((n, 8), 1.0), torch.eye(3)[k].repeat(n, 1), torch.ones(n))
               for k, name in enumerate(("pseudo", "labelled"))}
    batch = Batch(signal, zero, torch.ones(n), sources=sources)
    target = injectors(pseudo=0.75, labelled=0.1875)(batch, seeded(0)).target
    assert float(target.sum(1).max()) == 1
    assert float(target[:, 0].mean()) == pytest.approx(0.75, abs=0.03)
    assert float(target[:, 1].mean()) == pytest.approx(0.1875, abs=0.03)


def test_each_member_sees_the_batch_as_it_came_in() -> None:
    """An example mixed with a neighbour would get the soundscape that another member laid under that neighbour."""
    n = 64
    batch = waves(tones(n, first_hz=500.0) * 0.01, torch.ones(n, N)).replace(target=torch.zeros(n, n))
    member = build("one_of", members=[{"name": "soundscape_mix", "options": {}, "share": 0.5},
                                      {"name": "or_mixup", "options": {}, "share": 0.5}])
    offset = member(batch, seeded(0)).signal.mean(1).abs()
    mixed = offset < 1e-3
    assert 20 < int(mixed.sum()) < 44 and bool((offset[~mixed] > 0.4).all())


def test_the_members_of_one_of_keep_their_own_probability() -> None:
    """A share of .5 of a member with p = 0 is nothing."""
    batch = waves(tones(8), tones(8))
    still = {"name": "soundscape_mix", "options": {"p": 0.0}, "share": 1.0}
    assert torch.equal(build("one_of", members=[still])(batch, seeded(0)).signal, batch.signal)


@pytest.mark.parametrize(("members", "message"), [
    ([("gain", 0.7), ("noise", 0.4)], r"at most 1; it is 1\.1"), ([("gain", -0.1)], "at least 0"), ([], "shares = "),
    ([("gain", 0.5), ("time_mask", 0.5)], r"must share a stage, which \['gain', 'time_mask'\] do not")])
def test_members_that_do_not_go_together_are_refused(members: list[tuple[str, float]], message: str) -> None:
    """Shares above one would silently become smaller ones."""
    with pytest.raises(ValueError, match=message):
        build("one_of", members=[{"name": name, "options": {}, "share": share} for name, share in members])
