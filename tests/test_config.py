"""Configs: frozen, strict, and with the arithmetic in the message."""
import dataclasses
import json

import pytest

from birdkit.config import FrontEndConfig, Member, ModelConfig, RunConfig, SourceConfig
from birdkit.settings import from_dict, replace, to_dict, with_settings


def test_a_config_survives_json() -> None:
    """What the checkpoint stores is what ran."""
    config = replace(RunConfig(), augment__wave=(Member("gain", {"max_db": 6.0}),), frontend__top_db=80.0,
                     inference__postprocess=(Member("smooth"),))
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_an_unknown_key_is_named_with_its_place() -> None:
    """A setting that is silently dropped is an experiment that was never run."""
    values = to_dict(RunConfig())
    values["frontend"]["n_mel"] = 128
    with pytest.raises(ValueError, match=r"RunConfig\.frontend: unknown key 'n_mel'"):
        from_dict(RunConfig, values)


def test_a_missing_key_is_named() -> None:
    """A default that changed since the checkpoint was written must not fill the hole."""
    values = to_dict(RunConfig())
    del values["seed"]
    with pytest.raises(ValueError, match="missing key 'seed'"):
        from_dict(RunConfig, values)


def test_what_a_person_leaves_out_has_its_default() -> None:
    """A source or a member written by hand says what it is about; a checkpoint says everything, see above."""
    config = with_settings(RunConfig(), {"data__sources": [{"name": "matched", "kind": "pseudo_labels", "match": 0.5}]})
    assert config.data.sources == (SourceConfig("matched", "pseudo_labels", match=0.5),)
    with pytest.raises(ValueError, match=r"RunConfig\.data\.sources\[0\]: missing key 'name'"):
        with_settings(RunConfig(), {"data__sources": [{"kind": "pseudo_labels"}]})


def test_a_wrong_type_is_named_with_its_place() -> None:
    """'384' is not 384, and True is not 1."""
    for path, bad in (("n_mels", "192"), ("n_mels", True), ("strips", 2.0), ("imagenet", 1)):
        values = to_dict(RunConfig())
        values["frontend"][path] = bad
        with pytest.raises(TypeError, match=f"RunConfig.frontend.{path}"):
            from_dict(RunConfig, values)


def test_configs_cannot_be_changed_in_place() -> None:
    """The 2021 configs all changed one shared object: importing a second one changed the first."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1  # type: ignore[misc]
    first = RunConfig()
    replace(first, frontend__n_mels=64, seed=5)
    assert first == RunConfig()


def test_replace_refuses_unknown_settings() -> None:
    """A typo in a delta must not pass."""
    with pytest.raises(TypeError, match="sed"):
        replace(RunConfig(), sed=1)
    with pytest.raises(AttributeError, match="frontent"):
        replace(RunConfig(), frontent__n_mels=1)


def test_the_default_is_the_second_seeds_geometry() -> None:
    """12 s * 32,000 / 500 = 768 = 2 * 384, and 2 * 192 = 384."""
    config = FrontEndConfig()
    assert (config.n_samples, config.n_frames, config.image_size) == (384_000, 768, (384, 384))


def test_a_weight_of_nothing_is_refused() -> None:
    """Examples of weight 0 would be decoded for nothing, and `substitute` takes them for none."""
    for setting in ("pseudo__weight", "data__labelled_weight"):
        for bad in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=rf"weight = {bad} must be a number above 0"):
                replace(RunConfig(), **{setting: bad})


@pytest.mark.parametrize(("change", "message"), [
    ({"hop_samples": 501}, r"12 s \* 32000 Hz / hop 501 = 766.467 frames"),
    ({"strips": 5}, r"768 frames; 768 / 5 strips = 153.600"),
    ({"frames": 770}, r"frames = 770, but 12 s at hop 500 has 769"),
    ({"fmax_hz": 17_000.0}, "half the sample rate"),
    ({"floor": 0.0}, "logarithm of silence"),
    ({"imagenet": True}, "three channels"),
    ({"clip_s": 1 / 3}, "not a whole number"),
    ({"level": "loud"}, "one of rms, peak, none"),
])
def test_numbers_that_do_not_fit_are_refused_with_the_arithmetic(change: dict, message: str) -> None:
    """The alternative is a crop or a pad that nobody asked for."""
    with pytest.raises(ValueError, match=message):
        FrontEndConfig(**change)


def test_settings_out_of_range_are_refused() -> None:
    """Early, with the value."""
    with pytest.raises(ValueError, match="split = 5"):
        RunConfig(split=5)
    with pytest.raises(ValueError, match="head_axis = 'both'"):
        ModelConfig(head_axis="both")


@pytest.mark.parametrize(("setting", "value"), [
    ("train__epochs", 0), ("train__batch_size", 0), ("train__peak_lr", -1.0), ("train__peak_lr", 0.0),
    ("train__peak_lr", float("nan")), ("train__final_lr", -1e-6), ("train__final_lr", 1.0),
    ("train__weight_decay", -1.0), ("train__warmup_epochs", -2.0), ("train__warmup_start", 1.5),
    ("train__clip_grad_norm", -1.0), ("train__clip_grad_norm", float("nan")), ("train__ema_decay", 1.5),
    ("train__ema_decay", 1.0), ("train__ema_decay", -0.5), ("train__swa_start", 2.0), ("train__average", -1),
    ("train__validate_every", -1), ("train__save_every_s", -1.0), ("train__session_s", -1.0), ("train__workers", -1),
    ("train__threads", -1), ("train__restart_epochs", 0.0), ("train__restart_decay", -1.0),
    ("train__restart_decay", 2.0), ("data__samples_per_epoch", -5), ("data__cache_gib", -1.0),
    ("splitting__min_per_class", -3), ("validation__n_soundscapes", -3), ("validation__n_soundscapes", 0),
    ("model__dropout", 1.5), ("model__drop_path", -0.1), ("model__hidden", -1), ("model__parts", 0), ("round", -1),
    ("seed", -1)])
def test_a_number_out_of_range_is_refused_by_its_name_and_value(setting: str, value: float) -> None:
    """An exponential average of 1.5 trains, saves and deploys something that is no model."""
    name = setting.rpartition("__")[2]
    with pytest.raises(ValueError, match=rf"{name} = {value}"):
        replace(RunConfig(), **{setting: value})


def test_an_average_of_more_epochs_than_are_validated_is_refused() -> None:
    """Of three asked for, one was averaged, and nobody was told."""
    with pytest.raises(ValueError, match=r"average = 3 epochs, but with validate_every = 0 only 1 of 10 are validated"):
        replace(RunConfig(), train__epochs=10, train__validate_every=0, train__average=3)
    with pytest.raises(ValueError, match=r"average = 4 .* only 3 of 10"):
        replace(RunConfig(), train__epochs=10, train__validate_every=4, train__average=4)
    replace(RunConfig(), train__epochs=10, train__validate_every=4, train__average=3)
