"""From tables of recordings, soundscapes and labels to batches: which rows and clips, their labels, what is mixed in.

dataset               examples and batches: clips of recordings, with clips of what is mixed in
sources               where clips come from: recordings, soundscapes, noise
tables                a table of recordings: rows used, targets, weights, known labels
labelled_soundscapes  soundscapes that the host labelled: from annotated spans to windows
window_choice         which pseudo-labelled windows are drawn, and how often
window_labels         from teachers' probabilities of windows to labels of clips
window_index          windows found by file and time
recording_labels      what teachers heard in recordings joins what people wrote down
teacher_table         what a teacher such as Perch says of windows, as a table
quiet                 a place without what calls in it, for backgrounds of which nothing is known
crops                 which part of a recording a clip is, and what fills a longer clip
audio_store           audio by file name: decoded by seeking, from memory or from a packing
packing, packed       recordings written once for fast repeated reading; and read again
feeding               batches made ahead of the step that uses them
filecache             what was found out about files, kept as it comes
"""
from birdkit.data.audio_store import AudioStore
from birdkit.data.dataset import ClipDataset, steps_per_epoch, training_batches
from birdkit.data.sources import ClipSource, choose_sources
from birdkit.data.tables import DataError

__all__ = ["AudioStore", "ClipDataset", "ClipSource", "DataError", "choose_sources", "steps_per_epoch",
           "training_batches"]
