"""Front ends by name: the published ones and our own, each a FrontEndConfig that the one FrontEnd executes."""
from __future__ import annotations

from collections.abc import Mapping

from birdkit.config import FrontEndConfig

# torchaudio's defaults, which the 2021 second place and the first seed used: HTK mels without area normalisation, and
# whatever gain the file has.
_TORCHAUDIO = {"mel_scale": "htk", "mel_norm": "none", "level": "none", "floor": 1e-10, "scaling": "none"}
# The second seed: librosa's mels of audio at full scale, 80 dB below the loudest cell, and its slopes as channels. It
# took them after folding, where a seam is a false slope; here they come first.
_SEED2025 = {"level": "peak", "floor": 1e-10, "top_db": 80.0, "scaling": "minmax", "channels": "delta",
             "imagenet": True, "edges": "constant", "fmax_hz": 14_000.0}

FRONT_ENDS: Mapping[str, FrontEndConfig] = {
    # The house default: 12 s * 32,000 Hz / 500 = 768 frames, 2 strips of 192 mels: 384 x 384.
    "default": FrontEndConfig(),
    # First seed (2022): 1 + 5 s * 32,000 Hz / 512 = 313 frames of 128 mels, raw decibels; its model normalises each mel
    # band (input_norm = "band").
    "seed2022": FrontEndConfig(clip_s=5.0, hop_samples=512, n_mels=128, fmin_hz=50.0, fmax_hz=14_000.0, strips=1,
                               frames=313, **_TORCHAUDIO),  # type: ignore[arg-type]
    # 2021 second place (Henkel et al.), cfg_ps_12_v21: 1 + 5 s * 32,000 Hz / 320 = 501 frames of 128 mels. Its network
    # sees them turned, (time, mel).
    "henkel2021": FrontEndConfig(clip_s=5.0, n_fft=1024, hop_samples=320, n_mels=128, fmin_hz=50.0, fmax_hz=14_000.0,
                                 strips=1, frames=501, **{**_TORCHAUDIO, "scaling": "db80"}),  # type: ignore[arg-type]
    # The same place's call detectors: 1 + 10 s * 32,000 Hz / 512 = 626 frames of 256 mels. Theirs reach to 16,386 Hz,
    # beyond half the sample rate, and keep 80 dB below the loudest cell of the batch; these below that of the clip.
    "henkel2021-call": FrontEndConfig(clip_s=10.0, hop_samples=512, n_mels=256, fmin_hz=16.0, fmax_hz=16_000.0,
                                      strips=1, frames=626, top_db=80.0, **_TORCHAUDIO),  # type: ignore[arg-type]
    # Second seed (2025), experiment 93: 12 s / 500 = 768 frames, 2 strips of 192 mels: 384 x 384.
    "seed2025-384": FrontEndConfig(**_SEED2025),  # type: ignore[arg-type]
    # Second seed, experiment 39 and pretraining: 12 s / 750 = 512 frames, 2 strips of 128 mels: 256 x 256.
    "seed2025-256": FrontEndConfig(hop_samples=750, n_mels=128, **_SEED2025),  # type: ignore[arg-type]
    # Planned in the second seed and never run: 8 s / 500 = 512 frames, 2 strips of 128 mels: 256 x 256.
    "fold-8s-256": FrontEndConfig(clip_s=8.0, n_mels=128, **_SEED2025),  # type: ignore[arg-type]
    # 2025 first place (Babych): 1 + 20 s * 32,000 Hz / 1252 = 512 frames of 224 mels, three equal channels. The
    # write-up names neither the mel scale nor its normalisation; these are librosa's.
    "babych2025": FrontEndConfig(clip_s=20.0, n_fft=4096, hop_samples=1252, n_mels=224, fmin_hz=0.0, fmax_hz=16_000.0,
                                 level="peak", floor=1e-10, top_db=80.0, scaling="minmax", channels="repeat", strips=1,
                                 frames=512),
    # 2026 first place (Babych): 1 + 5 s * 32,000 Hz / 417 = 384 frames of 128 mels, magnitude. What the
    # write-up leaves open is as in 2025.
    "babych2026": FrontEndConfig(clip_s=5.0, hop_samples=417, n_mels=128, fmin_hz=0.0, fmax_hz=16_000.0, power=1.0,
                                 level="peak", floor=1e-5, top_db=80.0, scaling="minmax", channels="repeat", strips=1,
                                 frames=384),
    # HTS-AT (Chen et al. 2022): 1001 frames of 64 mels stretched to 1024, 4 strips: 256 x 256. Its batch norm of the
    # mel bands (input_norm = "band") comes before the stretch, which gives the same: it is one scale per band.
    "htsat": FrontEndConfig(clip_s=10.0, n_fft=1024, hop_samples=320, n_mels=64, fmin_hz=50.0, fmax_hz=14_000.0,
                            level="none", floor=1e-10, scaling="none", strips=4, frames=1001, stretch=1024),
    # ConformerSED (Miyazaki et al. 2020): 1 + 10 s * 16,000 Hz / 323 = 496 frames of 64 mels, magnitude; then the mean
    # and deviation per mel band of the data set (input_norm = "band"). Their files peak at -3 dB, these clips at 0 dB.
    "conformer": FrontEndConfig(sample_rate_hz=16_000, clip_s=10.0, n_fft=1024, hop_samples=323, n_mels=64,
                                fmin_hz=0.0, fmax_hz=8_000.0, mel_norm="none", window="hamming", power=1.0,
                                level="peak", floor=1e-5, top_db=80.0, scaling="none", strips=1, frames=496),
    # FDY-SED (Nam et al. 2022): 1 + 10 s * 16,000 Hz / 256 = 626 frames of 128 mels, magnitude, -50 to 80 dB (at unit
    # peak no band can reach 74), each band from 0 to 1. Theirs takes the extremes over the batch, this over the clip.
    "fdy_crnn": FrontEndConfig(sample_rate_hz=16_000, clip_s=10.0, hop_samples=256, n_mels=128, fmin_hz=0.0,
                               fmax_hz=8_000.0, mel_scale="htk", mel_norm="none", window="hamming", power=1.0,
                               level="peak", floor=10 ** (-50 / 20), scaling="minmax_band", strips=1, frames=626),
}
