"""What a report says, from results made by hand."""

import json
import math
import re
import sys
from subprocess import run

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image
from small_voc import css

from css.cli.run import parse_run
from css.config.files import as_dict
from css.page import facts
from css.page.charts import Axis, dot_chart, line_chart
from css.page.command import run_command
from css.page.losses import read_losses
from css.page.run import write_run_page
from css.table.line import Line
from css.table.page import paired
from css.table.segmentation import IouColumns
from tasks import InputError


def result(index, new, confusion):
    """One task, its scores by their definition."""
    matrix = np.array(confusion, float)
    hits = matrix.diagonal()
    iou = (hits / (matrix.sum(0) + matrix.sum(1) - hits)).tolist()
    groups = {"old": 0.5, "old_no_bg": 0.4, "new": 0.25, "all": 0.3, "all_no_bg": 0.2, "harmonic": 0.33}
    return {"index": index, "new_classes": new, "train_images": 7, "test_images": 5, "confusion": confusion, "iou": iou,
            "groups": groups, "seconds": {"train": 3.4}}  # fmt: skip


def results(**changes):
    tasks = [
        result(0, [0, 2], [[90, 10], [20, 80]]),
        result(1, [1], [[80, 10, 10], [60, 10, 30], [5, 0, 95]]),
        result(2, [3], [[80, 5, 5, 10], [20, 0, 78, 2], [5, 0, 90, 5], [97, 0, 0, 3]]),
    ]
    config = {"dataset": "shapes", "protocol": "1-1", "setting": "overlap", "method": "plop", "seed": 3}
    return {"complete": True, "avg": 0.4, "tasks": tasks, "config": config, "seed": 3, "class_order": [0, 2, 1, 3],
            "protocol_groups": [[0, 2], [1], [3]], "class_names": ["background", "cat", "dog", "<cow>"],
            "data_fingerprint": "abc", **changes}  # fmt: skip


def write(folder, values):
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(values))
    return folder


def test_fates():
    fates = facts.class_fates(results())
    assert [(fate.name, fate.task) for fate in fates] == [("background", 0), ("dog", 0), ("cat", 1), ("<cow>", 2)]
    dog = fates[1]
    assert dog.learnt == pytest.approx(100 * 80 / 110) and dog.final == 0 and dog.lost == dog.learnt
    assert dog.went == [("cat", 78.0, 0.0), ("<cow>", 2.0, 0.0), ("background", 20.0, 20.0)], "what has grown is first"
    cow = fates[3]
    assert cow.came == [("background", 10.0, 10.0), ("cat", 5.0, 5.0), ("dog", 2.0, 2.0)], "of its own 100 pixels"
    assert [other.grown for other in dog.went] == [True, True, False]
    assert dog.came == [("background", 5.0, 10.0)], "less than then"
    worst = facts.forgotten(fates, last=2)
    assert [fate.name for fate in worst] == ["dog", "background", "cat"], "worst first, without the newest"


def test_a_class_without_truth_has_no_fate():
    values = results()
    values["tasks"][0]["iou"][1] = None
    fates = facts.class_fates(values)
    assert fates[1].lost is None and "dog" not in [fate.name for fate in facts.forgotten(fates, 2)]
    assert facts.heat_over_tasks(values).rows[1][1][0] is None


def test_in_short_names_who_was_forgotten_and_why():
    scores, worst, second, poor = facts.in_short(results(), facts.class_fates(results()))
    assert "all classes 30.0 (20.0 without the background), old 50.0 (40.0" in scores and "new 25.0" in scores
    assert worst == (
        "Forgotten most: dog, 73 % when learnt in task 0, 0 % now; its pixels are called cat (78 %, then 0 %), <cow> "
        "(2 %, then 0 %)."
    )
    assert second == (
        "Next: cat, 68 % when learnt in task 1, 49 % now; its pixels are called <cow> (5 %, then 0 %); wrongly called "
        "cat: dog (78 %, then 30 %)."
    )
    assert "<cow> (3 % in task 2)" in poor


def test_in_short_says_what_there_is_if_no_mistake_has_grown():
    values = results()
    for task in values["tasks"][1:]:
        task["confusion"] = [row[:2] + [0] * (len(row) - 2) for row in values["tasks"][0]["confusion"]]
    fate = facts.class_fates({**values, "tasks": values["tasks"][:2], "class_order": [0, 2]})[1]
    assert facts._why(fate) == "; its pixels are called background (20 %, then 20 %)"


def test_in_short_when_nothing_was_forgotten():
    values = results()
    for task, iou in zip(values["tasks"], ([0.9, 0.5], [0.9, 0.6, 0.4], [0.9, 0.6, 0.45, 0.7]), strict=True):
        task["iou"] = iou
    said = facts.in_short(values, facts.class_fates(values))
    assert len(said) == 2 and said[1] == "No class has lost a point since it was learnt."


def test_heats():
    over = facts.heat_over_tasks(results())
    assert over.columns == ["task 0", "task 1", "task 2"]
    assert over.rows[2] == ("cat", [None, pytest.approx(100 * 95 / 140), pytest.approx(100 * 90 / 183)])
    confusion = facts.heat_of_confusion(results())
    assert confusion.rows[1] == ("dog", [20, 0, 78, 2])


def test_page(tmp_path):
    page = write_run_page(write(tmp_path / "run", results())).read_text()
    assert "Forgotten most: dog" in page and "&lt;cow&gt;" in page and "<cow>" not in page
    assert "not finished" not in page and "Losses" not in page and "Test images after" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "url(" not in page, "a request would leave the file"
    unfinished = write_run_page(write(tmp_path / "run", results(complete=False))).read_text()
    assert "This run is not finished." in unfinished


def test_page_of_a_first_task(tmp_path):
    values = results(complete=False)
    values["tasks"] = values["tasks"][:1]
    page = write_run_page(write(tmp_path / "run", values)).read_text()
    assert "Forgetting, worst first" not in page and "Confusion at the end" in page


def test_page_of_many_classes_has_no_matrix_that_cannot_be_read(tmp_path):
    size = 50
    matrix = np.full((size, size), 1) + 100 * np.eye(size, dtype=int)
    values = results(class_order=list(range(size)), class_names=[f"class {k}" for k in range(size)])
    values["tasks"] = [result(0, list(range(size)), matrix.tolist())]
    page = write_run_page(write(tmp_path / "run", values)).read_text()
    assert "Confusion at the end" not in page and "class 49" in page


def test_page_of_image_labels(tmp_path):
    tasks = [
        {"index": 0, "new_classes": [0, 1], "train_images": 9, "test_images": 4, "accuracy": [0.9],
         "class_accuracy": [0.8, 1.0]},
        {"index": 1, "new_classes": [2, 3], "train_images": 9, "test_images": 8, "accuracy": [0.6, 0.7],
         "class_accuracy": [0.2, 1.0, 0.7, 0.7]},
    ]  # fmt: skip
    values = results(tasks=tasks, acc=0.65, bwt=-0.3, class_order=[0, 1, 2, 3])
    page = write_run_page(write(tmp_path / "run", values)).read_text()
    assert "Mean accuracy over the tasks 65.0 %, backward transfer -30.0 points" in page
    assert "Forgotten most: background, 80 % when learnt in task 0, 20 % now" in page, "class 0 is one like the others"
    assert "its pixels" not in page


def test_page_embeds_its_pictures(tmp_path):
    values = results()
    fact = {"file": "example_0_lost.png", "why": "lost", "image": "a<b", "iou": 0.125, "class_id": 2, "head": 20}
    values["tasks"][-1]["pictures"] = [fact, {**fact, "file": "gone.png"}]
    home = write(tmp_path / "run", values) / "task_2"
    home.mkdir()
    Image.new("RGB", (30, 40), "red").save(home / fact["file"])
    page = write_run_page(tmp_path / "run").read_text()
    assert page.count("data:image/webp;base64,") == 3, "truth, prediction, errors; nothing of the missing file"
    assert "dog: where most of it is missed (a&lt;b), IoU 12 % of this class" in page


def test_report_writes_pages_without_heavy_imports(tmp_path):
    write(tmp_path / "run", results())
    program = (
        "import sys; from css.cli.main import main; code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'albumentations', 'matplotlib', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    command = [sys.executable, "-c", program, "report", tmp_path / "run"]
    outcome = run(command, capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "run" / "report.html").is_file()


def test_report_into_a_folder_that_cannot_be_written(tmp_path):
    folder = write(tmp_path / "run", results())
    (folder / "report.html").mkdir()
    (folder / "report.html" / "kept").touch()
    outcome = css("report", folder)
    assert outcome.code == 2 and "report.html" in outcome.complaint and "plop, seed 3" in outcome.out


def test_losses(tmp_path):
    steps = [
        {"task": 0, "stage": "fit", "epoch": k // 100, "iteration": k, "lr": 0.1, "ce": float(k)} for k in range(200)
    ]
    lines = [*map(json.dumps, steps), '{"task": 0, "stage": "f']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    ((where, terms),) = read_losses(tmp_path / "log.jsonl").items()
    assert where == (0, "fit") and set(terms) == {"ce"} and len(terms["ce"]) <= 80
    xs, ys = zip(*terms["ce"], strict=True)
    assert 0 < xs[0] < 0.05 and 1.95 < xs[-1] < 2, "epochs"
    assert ys[0] == 1.0 and np.mean(ys) == pytest.approx(99.5, abs=1), "means of three steps"
    assert read_losses(tmp_path / "none.jsonl") == {}


def test_line_chart_is_fitted_to_the_data():
    svg = line_chart("T", {"a": [(0, 40.0), (1, 44.0)], "b": [(0, math.nan), (1, 41.0)]}, "x", "y", dots=True)
    ys = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert len(ys) == 3 and max(ys) - min(ys) > 100, "the range of the values takes most of the height"
    assert 'aria-label="T"' in svg and isinstance(svg, Markup)
    assert line_chart("T", {"a": []}, "x", "y") == ""
    assert "&lt;b&gt;" in line_chart("T", {"<b>": [(0, 1.0)], "c": [(0, 2.0)]}, "x", "y")


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [(0, 100, False, [0, 20, 40, 60, 80, 100]), (0.2, 0.31, False, [0.2, 0.25, 0.3]),
     (0.01, 3, True, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]), (5, 5, False, [5])],
)  # fmt: skip
def test_ticks(low, high, log, ticks):
    assert Axis(low, high, 0, 100, log).ticks() == pytest.approx(ticks)


def test_dot_chart_shows_every_seed():
    svg = dot_chart("T", {"plop": [10.0, 20.0, 30.0], "mib": [15.0], "none": []}, "mIoU")
    assert svg.count("<circle") == 4 and svg.count('class="mean"') == 2
    spread = [float(x) for pair in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="25', svg) for x in pair]
    assert spread[1] - spread[0] > 50, "mean 20 and deviation 10 on an axis of about 10 to 30"


def test_paired_differences_use_common_seeds():
    class Run:
        def __init__(self, seed, score):
            self.config, self.score = {"seed": seed}, score

        def means(self, task=-1):
            return {"all": self.score}

    first = Line("1-1", "a", [Run(1, 0.5), Run(2, 0.4), Run(3, 0.9)], 3, {})
    second = Line("1-1", "b", [Run(2, 0.3), Run(1, 0.6)], 3, {})
    difference = paired(first, second, IouColumns())
    assert difference.mean == pytest.approx(0) and (difference.above, difference.seeds) == (1, 2)
    assert difference.deviation == pytest.approx(10 * math.sqrt(2))
    assert paired(first, Line("1-1", "c", [Run(9, 0.1)], 1, {}), IouColumns()) is None


@pytest.mark.parametrize(
    "words",
    [["shapes", "15-1"],
     ["voc", "2-1", "--classes", "cat", "dog", "cow", "--train.bn-group", "None", "--method", "ewc"],
     ["shapes", "10-5", "--method", "plop+s2mf", "--train.sync-bn", "--train.halve-at", "0.5", "0.75",
      "--options.no-align", "--name", "a b", "--task0", "runs/x"]],
)  # fmt: skip
def test_the_command_makes_the_same_run(words, monkeypatch):
    import shlex

    monkeypatch.setattr("css.cli.run._require_fit", lambda _: None)  # the data is not here
    config = parse_run(words)
    again = parse_run(shlex.split(run_command(as_dict(config)))[2:])
    assert as_dict(again) == as_dict(config)


def test_a_missing_run_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        write_run_page(tmp_path)
