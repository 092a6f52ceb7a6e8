"""Tables from hand-made results."""

import pytest

from css.report.choice import run_table
from css.report.text import markdown, percent

GROUPS = {"old": 0.5, "old_no_bg": 0.25, "new": None, "all": 0.5, "all_no_bg": 0.25, "harmonic": None}


def results(**changes):
    names = ["background", "cat", "dog", "cow", "bus", "car"]
    tasks = [
        {"index": 0, "new_classes": [0, 1, 2, 3, 4], "train_images": 12, "test_images": 5, "groups": GROUPS, "iou": []},
        {
            "index": 1, "new_classes": [5], "train_images": 3, "test_images": 6, "iou": [0.9, 0.2, None, 0, 1, 0.12345],
            "groups": {**GROUPS, "new": 0.12345, "harmonic": 0.198, "all_no_bg": 0.4},
        },
    ]  # fmt: skip
    config = {"dataset": "shapes", "protocol": "4-1", "setting": "disjoint", "method": "plop", "seed": 3}
    return {
        "config": config, "class_names": names, "class_order": [0, 2, 1, 3, 4, 5], "tasks": tasks, "avg": 0.5,
        "complete": True, **changes,
    }  # fmt: skip


def rows(text):
    """The cells of every line of a Markdown table in the text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0.00"), (0.123456, "12.35"), (1.0, "100.00")])
def test_percent(value, text):
    assert percent(value) == text


def test_markdown_table_is_aligned():
    table = markdown(["class", "IoU"], [["cat", "7.00"], ["a long name", "100.00"]])
    assert table.splitlines() == [
        "| class       |    IoU |",
        "|-------------|-------:|",
        "| cat         |   7.00 |",
        "| a long name | 100.00 |",
    ]


def test_markdown_table_without_rows():
    assert markdown(["class", "IoU"], []).splitlines() == ["| class | IoU |", "|-------|----:|"]


def test_run_table():
    text = run_table(results())
    assert text.startswith("shapes 4-1 disjoint, plop, seed 3: mIoU in %\n")
    header, _, first, second, *classes = rows(text)
    assert header == ["task", "train", "test", "old", "old w/o bg", "new", "all", "all w/o bg", "harmonic"]
    assert first == ["0: cat ... bus", "12", "5", "50.00", "25.00", "-", "50.00", "25.00", "-"]
    assert second == ["1: car", "3", "6", "50.00", "25.00", "12.35", "50.00", "40.00", "19.80"]
    assert "avg 50.00." in text and "After task 1:" in text and "not finished" not in text
    assert classes[2:] == [
        ["background", "90.00"], ["dog", "20.00"], ["cat", "-"], ["cow", "0.00"], ["bus", "100.00"], ["car", "12.35"],
    ]  # fmt: skip


def test_run_table_of_an_unfinished_run():
    tasks = results()["tasks"][:1]
    tasks[0]["iou"] = [0.1, 0.2, 0.3, 0.4, 0.5]
    text = run_table(results(tasks=tasks, complete=False))
    assert "This run is not finished." in text and "After task 0:" in text
    assert [name for name, *_ in rows(text)[-5:]] == ["background", "dog", "cat", "cow", "bus"]
