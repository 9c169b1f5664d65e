"""Pictures: they hold what they say they hold."""
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, noise, tone

from birdkit import reports


def history(score: list[float]) -> pd.DataFrame:
    n = len(score)
    return pd.DataFrame({"epoch": range(1, n + 1), "step": range(n), "lr": np.linspace(1e-3, 0, n), "seconds": 1.0,
                         "loss": np.linspace(1, 0.5, n), "score": score, "low": np.array(score) - 0.1,
                         "high": np.array(score) + 0.1, "weights": "ema"})


def texts(picture) -> str:
    """All words in a picture."""
    return " ".join(text.get_text() for text in picture.findobj(lambda artist: hasattr(artist, "get_text")))


def test_a_notebook_can_show_a_picture() -> None:
    """As the value of a cell, without pyplot."""
    assert reports.learning_curve(history([0.6, 0.8]))._repr_png_().startswith(b"\x89PNG")


def test_the_learning_curve_names_the_last_and_the_best() -> None:
    """They differ, and one deploys the best."""
    assert "last 0.700, best 0.900" in texts(reports.learning_curve(history([0.6, 0.9, 0.7])))
    assert "nothing validates" in texts(reports.learning_curve(history([np.nan])))


def test_the_learning_curve_shows_an_average_apart() -> None:
    """The mean of several epochs is none of them: as one more epoch it would look like a jump of the training."""
    epochs = history([0.6, 0.7])
    average = epochs.iloc[-1:].assign(score=0.9, weights="average")
    picture = reports.learning_curve(pd.concat([epochs, average]))
    assert "last 0.700, best 0.700, average of epochs 0.900" in texts(picture)
    score = picture.axes[1]
    assert [len(line.get_xdata()) for line in score.lines] == [2, 1]


def test_pseudo_labels_are_counted_per_class() -> None:
    """Two of four windows hold a label; one class is never heard."""
    table = pd.DataFrame({"file": ["a", "a", "b", "b"], "start_s": [0.0, 5, 0, 5], "end_s": [5.0, 10, 5, 10],
                          "ant": [0.9, 0.8, 0.1, 0.0], "bee": [0.1, 0.2, 0.3, 0.0]})
    assert "4 windows of 2 soundscapes; 50% hold a label, 1 of 2 classes heard" in texts(reports.pseudo_labels(table))
    assert "no teacher yet" in texts(reports.pseudo_labels(table.iloc[:0]))


@pytest.fixture
def minute(tmp_path):
    """Ten seconds with a tone in the second window."""
    sf.write(tmp_path / "s.ogg", np.concatenate([noise(5, amplitude=0.01), tone(4000, 5)]), RATE)
    return pd.DataFrame({"file": ["s.ogg"] * 2, "start_s": [0.0, 5], "end_s": [5.0, 10], "ant": [0.1, 0.9],
                         "bee": [0.2, 0.1]}), tmp_path


def test_a_soundscape_shows_its_tone_and_its_predictions(minute) -> None:
    """The spectrogram above, the windows below, on one axis of time."""
    table, root = minute
    picture = reports.soundscape(table, root=root)
    upper, lower = (axes.get_images()[0].get_array() for axes in picture.axes[:2])
    bands = upper[:, upper.shape[1] // 2 + 20:-20].mean(axis=1)
    assert 60 < int(np.argmax(bands)) < 100  # 4 kHz of 20 to 15,000 Hz, in 128 mels
    assert np.allclose(lower, [[0.1, 0.9], [0.2, 0.1]]) and "ant" in texts(picture)


def test_truth_is_marked_where_it_is_known(minute) -> None:
    """A dot in the window and row of the class."""
    table, root = minute
    truth = pd.DataFrame({"ant": [0, 1], "bee": [0, 0]})
    marks = reports.soundscape(table, root=root, truth=truth).axes[1].lines[0]
    assert marks.get_xdata().tolist() == [7.5] and marks.get_ydata().tolist() == [0]


def test_per_class_puts_the_worst_first(tmp_path) -> None:
    """With the number of windows that the figure rests on."""
    rows = [f"s_{5 * n}" for n in range(1, 5)]
    truth = pd.DataFrame({"row_id": rows, "ant": [1, 0, 0, 0], "bee": [0, 1, 1, 0]})
    said = pd.DataFrame({"row_id": rows, "ant": [0.9, 0.1, 0.1, 0.1], "bee": [0.9, 0.1, 0.8, 0.2]})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    said.to_csv(tmp_path / "submission.csv", index=False)
    picture = reports.per_class(tmp_path / "submission.csv", tmp_path / "truth.csv")
    assert [tick.get_text() for tick in picture.axes[0].get_xticklabels()] == ["bee (2)", "ant (1)"]
