"""`css demo`, on fewer and smaller scenes, and with a tiny network."""

from small_voc import css, plain_machine, read_results

from css.cli.demo import _SETTINGS
from tasks.datasets.shapes import Shapes


def test_demo_writes_a_picture_and_a_table(tmp_path, monkeypatch):
    scenes = Shapes(size=64, train_images=80, test_images=20)
    monkeypatch.setattr("tasks.datasets.registry._rendered", lambda source: scenes)
    small = {"epochs": 1, "later_epochs": 1, "crop": 64, "batch": 8, "workers": 0}
    monkeypatch.setitem(_SETTINGS, "train", small)
    monkeypatch.setitem(_SETTINGS, "model", {"encoder": "tu-test_resnet"})
    with plain_machine(tmp_path / "cache"):
        outcome = css("demo", "--out", tmp_path / "shown")
    assert outcome.code == 0, outcome.err
    results, picture = read_results(tmp_path / "shown"), tmp_path / "shown" / "task_2" / "pictures.png"
    assert [len(task["new_classes"]) for task in results["tasks"]] == [4, 1, 1] and results["complete"]
    assert picture.exists() and (tmp_path / "shown" / "table.md").exists() and str(picture) in outcome.out
