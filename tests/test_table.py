"""The table of a recipe, from results.json files made by hand."""

import csv
import json
import shutil
import subprocess

import numpy as np
import pytest
from hand_made_runs import cells_of, rewrite, rows, write_recipe, write_run
from PIL import Image
from small_voc import css, plain_machine

from css.report.choice import read_record
from css.report.record import Record
from css.table.curves import draw_curves
from tasks import InputError

GROUPS_15_1 = [list(range(16)), [16], [17], [18], [19], [20]]
SMALL = [[0, 2], [1], [3]]


@pytest.fixture(scope="module", autouse=True)
def machine(tmp_path_factory):
    with plain_machine(tmp_path_factory.mktemp("cache")):
        yield


def table(recipe, tmp_path, *options):
    return css("table", recipe, "--data-root", tmp_path / "no data", "--runs", tmp_path / "runs", *options)


def small(tmp_path, **keys):
    """A recipe of the protocol 2-1 with classes 1 to 3, and its cells."""
    keys = {"protocols": ["1-1"], "settings": {"classes": [1, 2, 3]}, **keys}
    recipe = write_recipe(tmp_path / "small.yaml", **keys)
    return recipe, cells_of(recipe, tmp_path / "runs")


def small_ious(last):
    return [[0.5, 0.25], [0.5, 0.5, 0.5], last]


def test_published_means_of_plop(tmp_path):
    """IoUs that vary around the published means: 16 classes with background, 5 later ones, 21 together."""
    rng = np.random.default_rng(0)
    old, new = rng.normal(0, 0.05, 16), rng.normal(0, 0.05, 5)
    old, new = old - old.mean() + 0.6512, new - new.mean() + 0.2111
    all_classes = np.concatenate([old, new])
    assert 100 * all_classes.mean() == pytest.approx(54.64, abs=0.005)
    assert 100 * all_classes[1:].mean() != pytest.approx(54.64, abs=0.05)  # the convention can be told
    recipe = write_recipe(
        tmp_path / "one.yaml", published={"PLOP": {"rows": {"plop": {"15-1": [65.12, 21.11, 54.64]}}, "note": "Note."}}
    )
    ious = [all_classes[: 16 + task].tolist() for task in range(6)]
    write_run(cells_of(recipe, tmp_path / "runs")["voc-15-1-overlap-plop-s1"], GROUPS_15_1, ious)
    outcome = table(recipe, tmp_path)
    assert outcome.code == 0, outcome.err
    line = dict(zip(*[rows(outcome.out)[row] for row in (0, 2)], strict=True))
    assert (line["old"], line["new"], line["all"]) == ("65.12", "21.11", "54.64")
    assert line["PLOP"] == "65.12 / 21.11 / 54.64" and "PLOP: old / new / all. Note." in outcome.out
    assert line["old w/o bg"] == f"{100 * old[1:].mean():.2f}" != "65.12"
    assert line["all w/o bg"] == f"{100 * all_classes[1:].mean():.2f}"
    assert line["avg"] == f"{100 * np.mean([np.mean(iou) for iou in ious]):.2f}"
    assert line["s"] == str(200 + 300 + 400 + 500 + 600 + 5 * 7)  # stages of tasks 1 to 5, thresholds included
    assert "Settings as published" in outcome.out


def test_mean_and_deviation_over_seeds_in_every_format(tmp_path):
    recipe, cells = small(tmp_path, seeds=[1, 2, 3], methods=["plop", "joint"], title="100 % of a_b")
    lasts = [[0.9, 0.1, 0.2, 0.6], [0.8, 0.2, 0.2, 0.3], [0.7, 0.3, 0.2, 0.6]]
    for seed, last in enumerate(lasts, 1):
        write_run(cells[f"voc-1-1-overlap-plop-s{seed}"], SMALL, small_ious(last))
        write_run(cells[f"voc-1-1-overlap-joint-s{seed}"], SMALL, [last])
    outcome = table(recipe, tmp_path)
    assert outcome.code == 0, outcome.err
    line = dict(zip(*[rows(outcome.out)[row] for row in (0, 2)], strict=True))
    assert (line["protocol"], line["method"], line["seeds"]) == ("1-1", "plop", "3")
    new = np.array(lasts)[:, 2:].mean(1)
    assert line["new"] == f"{100 * new.mean():.2f} ± {100 * new.std(ddof=1):.2f}" == "35.00 ± 8.66"
    assert line["old"] == "50.00 ± 0.00" and line["old w/o bg"] == "20.00 ± 10.00"
    folder = tmp_path / "runs" / "small"
    assert (folder / "table.md").read_text().strip() == outcome.out.strip()
    first, second = csv.DictReader((folder / "table.csv").open())
    assert (first["method"], first["seeds"], first["seeds_wanted"]) == ("plop", "3", "3")
    assert float(first["new_mean"]) == pytest.approx(35) and float(first["new_std"]) == pytest.approx(8.6603, abs=1e-4)
    assert float(first["seconds_mean"]) == 514 and float(second["seconds_mean"]) == 107
    tex = (folder / "table.tex").read_text()
    assert r"35.00 $\pm$ 8.66" in tex and r"\toprule" in tex and r"100 \% of a\_b" in tex and "±" not in tex
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")


def test_missing_seeds_are_counted(tmp_path):
    recipe, cells = small(tmp_path, seeds=[1, 2, 3], methods=["plop", "mib"])
    for seed, new in ((1, 0.2), (3, 0.4)):
        write_run(cells[f"voc-1-1-overlap-plop-s{seed}"], SMALL, small_ious([0.5, 0.5, new, new]))
    unfinished = write_run(cells["voc-1-1-overlap-plop-s2"], SMALL, small_ious([0.5, 0.5, 1, 1]))
    values = json.loads(unfinished.read_text())
    rewrite(cells["voc-1-1-overlap-plop-s2"], values | {"complete": False, "tasks": values["tasks"][:2]})
    outcome = table(recipe, tmp_path)
    assert outcome.code == 1 and "css: 4 of 6 cells failed" in outcome.complaint
    assert "voc-1-1-overlap-plop-s2 failed: data root" in outcome.err and "mib-s3 failed" in outcome.err
    plop, mib = rows(outcome.out)[2:4]
    assert plop[2] == "2/3" and plop[5] == "30.00 ± 14.14"
    assert mib[2] == "0/3" and set(mib[3:]) == {"-"}


def test_nothing_to_show_and_nothing_to_run_is_refused(tmp_path):
    recipe, _ = small(tmp_path)
    outcome = table(recipe, tmp_path)
    assert outcome.code == 2 and "no data" in outcome.complaint and not (tmp_path / "runs").exists()


def test_a_class_without_ground_truth(tmp_path):
    recipe, cells = small(tmp_path, seeds=[1, 2])
    for seed in (1, 2):
        write_run(cells[f"voc-1-1-overlap-plop-s{seed}"], SMALL, [[0.5, None], [0.5, None, 0.5], [0.9, None, 0.2, 0.4]])
    text = table(recipe, tmp_path).out
    assert rows(text)[2][3:6] == ["90.00 ± 0.00", "-", "30.00 ± 0.00"]
    classes = (tmp_path / "runs/small/table-classes.md").read_text()
    assert ["class 2", "-"] in rows(classes) and ["class 1", "20.00 ± 0.00"] in rows(classes)  # in order of learning


def test_the_same_files_without_checkpoints_and_data(tmp_path):
    """Also when the runs folder has moved, and whatever else lies in a run folder."""
    recipe, cells = small(tmp_path, seeds=[1, 2], methods=["finetune", "plop", "joint"])
    for name, cell in cells.items():
        ious = [[0.5, 0.4, 0.3, 0.2]] if cell.joint else small_ious([0.4, 0.3, 0.2, 0.1])
        write_run(cell, SMALL, ious)
        (cell.config.folder / "task_0").mkdir()
        (cell.config.folder / "task_0/model.safetensors").write_bytes(name.encode())
    folder = tmp_path / "runs/small"
    assert table(recipe, tmp_path).code == 0
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    pictures = ["curves-1-1.png", "forgetting-1-1.png"]
    pages = [*pictures, "report.html"]
    assert names == [*pages, "table-classes.md", "table-tasks.md", "table.csv", "table.md", "table.tex"]
    first = {name: (folder / name).read_bytes() for name in names}
    for cell in cells.values():
        shutil.rmtree(cell.config.folder / "task_0")
    for name in names:
        (folder / name).unlink()
    assert table(recipe, tmp_path).code == 0
    assert {name: (folder / name).read_bytes() for name in names} == first
    rewrite(cells["voc-1-1-overlap-plop-s1"], read_json_with_other_iou(cells["voc-1-1-overlap-plop-s1"]))
    assert table(recipe, tmp_path).code == 0
    assert (folder / "table.md").read_bytes() != first["table.md"]
    assert (folder / "curves-1-1.png").read_bytes() != first["curves-1-1.png"]


def read_json_with_other_iou(cell):
    values = json.loads((cell.config.folder / "results.json").read_text())
    values["tasks"][-1]["iou"][0] = 0.99
    return values


def test_tasks_and_forgetting(tmp_path):
    recipe, cells = small(tmp_path, methods=["plop", "joint"])
    write_run(cells["voc-1-1-overlap-plop-s1"], SMALL, [[0.9, 0.8], [0.7, 0.3, 0.6], [0.5, 0.1, 0.7, 0.2]])
    write_run(cells["voc-1-1-overlap-joint-s1"], SMALL, [[0.9, 0.8, 0.7, 0.6]])
    assert table(recipe, tmp_path).code == 0
    tables = (tmp_path / "runs/small/table-tasks.md").read_text()
    old = rows(tables.partition("old:\n")[2].partition("old w/o bg:")[0])
    assert old[2:] == [["plop", "1", "85.00", "50.00", "30.00"], ["joint", "1", "-", "-", "85.00"]]
    lost = read_record(cells["voc-1-1-overlap-plop-s1"].config.folder).forgetting()
    assert lost == {0: pytest.approx(0.4), 2: pytest.approx(0.7), 1: pytest.approx(-0.1), 3: 0}
    picture = np.array(Image.open(tmp_path / "runs/small/curves-1-1.png").convert("RGB"))
    assert picture.shape[1] > 1000 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_a_single_task_forgets_nothing(tmp_path):
    recipe, cells = small(tmp_path, protocols=["3-0"], methods=["finetune"])
    write_run(cells["voc-3-0-overlap-finetune-s1"], [[0, 1, 2, 3]], [[0.9, 0.8, 0.7, 0.6]])
    outcome = table(recipe, tmp_path)
    assert outcome.code == 0 and rows(outcome.out)[2][6] == "75.00", outcome.err
    assert not (tmp_path / "runs/small/forgetting-3-0.png").exists()


def test_the_band_is_one_deviation_around_the_mean(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = {}
    monkeypatch.setattr(Axes, "fill_between", lambda self, x, low, high, **_: drawn.update(low=low, high=high))
    scores = np.array([[0.9, 0.5, np.nan], [0.7, 0.5, np.nan]])
    draw_curves(tmp_path / "a.png", "title", {"plop": dict.fromkeys(("old", "new", "all"), scores)})
    assert drawn["low"][:2] == pytest.approx([80 - 14.142, 50], abs=0.01) and np.isnan(drawn["low"][2])
    assert drawn["high"][:2] == pytest.approx([80 + 14.142, 50], abs=0.01)


def test_caption_lists_what_differs(tmp_path):
    ablation = {"method": "plop", "name": "median", "options": {"thresholds": "median"}}
    keys = {"classes": [1, 2, 3], "model": {"encoder": "resnet18"}, "train": {"crop": 96, "epochs": 2}}
    recipe, cells = small(tmp_path, methods=["plop", ablation], settings=keys)
    write_run(cells["voc-1-1-overlap-plop-s1"], SMALL, small_ious([0.5] * 4))
    write_run(cells["voc-1-1-overlap-median-s1"], SMALL, small_ious([0.6] * 4))
    text = table(recipe, tmp_path).out
    for words in ("model.encoder is 'resnet18' here and 'resnet101' there", "train.crop is 96 here and 512 there"):
        assert words in text
    assert "median 1-1: thresholds is 'median' here and 'official' there" in text
    assert "train.lr" not in text and "protocol is" not in text and "precision" not in text


def test_rows_that_only_a_paper_has(tmp_path):
    published = {"us": {"rows": {"plop+s2mf": {"1-1": [1, 2, 3]}, "ewc": {"15-1": [4, 5, 6]}}}}
    recipe, cells = small(tmp_path, published=published)
    write_run(cells["voc-1-1-overlap-plop-s1"], SMALL, small_ious([0.5] * 4))
    lines = rows(table(recipe, tmp_path).out)
    assert len(lines) == 4 and lines[3][1:4] == ["plop+s2mf", "-", "-"] and lines[3][-1] == "1.00 / 2.00 / 3.00"


def test_a_paper_that_gives_a_part(tmp_path):
    recipe, cells = small(tmp_path, published={"us": {"rows": {"plop": {"1-1": [None, None, 67.6]}}}})
    write_run(cells["voc-1-1-overlap-plop-s1"], SMALL, small_ious([0.5] * 4))
    assert rows(table(recipe, tmp_path).out)[2][-1] == "- / - / 67.60"
    assert (tmp_path / "runs/small/table.csv").read_text().splitlines()[1].endswith(",,,67.60")


def test_methods_with_settings_of_their_own(tmp_path):
    recipe, cells = small(tmp_path, methods=["plop", "star"])
    write_run(cells["voc-1-1-overlap-plop-s1"], SMALL, small_ious([0.5] * 4))
    text = table(recipe, tmp_path).out
    assert "star: later_batch_norm is 'freeze' here and 'train' there; later_rates.encoder is 0.1 here and 1.0" in text
    assert "plop: later" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config["train"].update(crop=256), "train.crop is 512 here and 256 there"),
        (lambda config: config["model"].update(encoder="resnet18"), "model.encoder"),
        (lambda config: config.update(setting="disjoint"), "setting"),
        (lambda config: config["options"].update(thresholds="median"), "options.thresholds"),
        (lambda config: config.update(method="mib"), "method is 'plop' here and 'mib' there"),
        (lambda config: config.update(seed=5), "seed is 2 here and 5 there"),
        (lambda config: config["train"].update(precision="bf16"), "train.precision (fp32 and bf16)"),
        (lambda config: config.update(train=3), "train"),
    ],
)
def test_runs_that_disagree(change, words, tmp_path):
    recipe, cells = small(tmp_path, seeds=[1, 2])
    for name, cell in cells.items():
        path = write_run(cell, SMALL, small_ious([0.5] * 4))
        if name.endswith("s2"):
            values = json.loads(path.read_text())
            change(values["config"])
            rewrite(cell, values)
    outcome = table(recipe, tmp_path)
    assert outcome.code == 2 and words in outcome.complaint and "plop-s2" in outcome.complaint
    assert not (tmp_path / "runs/small/table.md").exists()


def test_runs_of_other_data_and_hardware(tmp_path):
    recipe, cells = small(tmp_path, seeds=[1, 2])
    write_run(cells["voc-1-1-overlap-plop-s1"], SMALL, small_ious([0.5] * 4), hardware={"gpu": "one"})
    write_run(cells["voc-1-1-overlap-plop-s2"], SMALL, small_ious([0.5] * 4), hardware={"gpu": "two"})
    assert table(recipe, tmp_path).code == 0
    write_run(cells["voc-1-1-overlap-plop-s2"], SMALL, small_ious([0.5] * 4), data_fingerprint="xyz")
    outcome = table(recipe, tmp_path)
    assert outcome.code == 2 and "disagree in the data (abc and xyz)" in outcome.complaint


DAMAGES = {
    "text as IoU": lambda v: v["tasks"][2].update(iou=["a", 0, 0, 0]),
    "number as text": lambda v: v["tasks"][2].update(iou=["0.5", 0, 0, 0]),
    "percent": lambda v: v["tasks"][2].update(iou=[50, 0, 0, 0]),
    "not a number": lambda v: v["tasks"][2].update(iou=[float("nan"), 0, 0, 0]),
    "too few IoUs": lambda v: v["tasks"][2].update(iou=[0.5, 0.5, 0.5]),
    "no list of tasks": lambda v: v.update(tasks=3),
    "no task": lambda v: v.update(tasks=[]),
    "tasks of another kind": lambda v: v.update(tasks=["a"]),
    "config of another kind": lambda v: v.update(config=[1]),
    "complete of another kind": lambda v: v.update(complete="yes"),
    "unknown class": lambda v: v.update(class_names=["background"]),
    "other classes": lambda v: v["tasks"][1].update(new_classes=[3]),
    "other order": lambda v: v.update(class_order=[0, 1, 2, 3]),
    "complete too early": lambda v: v.update(tasks=v["tasks"][:2]),
    "group missing": lambda v: v["tasks"][0].update(groups={}),
    "seed missing": lambda v: v["config"].pop("seed"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_results(damage, tmp_path):
    recipe, cells = small(tmp_path)
    (cell,) = cells.values()
    path = write_run(cell, SMALL, small_ious([0.5] * 4))
    assert css("report", cell.config.folder).code == 0
    values = json.loads(path.read_text())
    DAMAGES[damage](values)
    rewrite(cell, values)
    outcome = css("report", cell.config.folder)
    assert outcome.code == 2 and "results.json" in outcome.complaint
    if damage not in ("group missing", "seed missing"):  # stored means and the heading are the report's alone
        outcome = table(recipe, tmp_path)
        assert outcome.code == 1 and "results.json" in outcome.err


@pytest.mark.parametrize("damage", ["text as IoU", "no list of tasks"])
def test_a_damaged_run_is_named_and_the_others_are_shown(damage, tmp_path):
    recipe, cells = small(tmp_path, seeds=[1, 2, 3])
    bad, *good = cells.values()
    path = write_run(bad, SMALL, small_ious([0.5] * 4))
    for cell in good:
        write_run(cell, SMALL, small_ious([0.25] * 4))
    values = json.loads(path.read_text())
    DAMAGES[damage](values)
    rewrite(bad, values)
    shown = table(recipe, tmp_path)
    assert shown.code == 1 and "2/3" in shown.out and "25.00 ± 0.00" in shown.out
    assert f"{bad.name} failed: {path}" in shown.err and "1 of 3 cells failed" in shown.err
    reported = css("report", bad.config.folder.parent)
    assert reported.code == 1 and reported.out.count("seed 2") == reported.out.count("seed 3") == 1
    assert str(path) in reported.complaint and "seed 1" not in reported.out


def test_foreign_linked_and_missing_results_hide_no_run(tmp_path):
    cells = small(tmp_path, seeds=[1, 2])[1]
    for cell in cells.values():
        write_run(cell, SMALL, small_ious([0.5] * 4))
    runs = next(iter(cells.values())).config.folder.parent
    for name in ("foreign", "dangling", "folder", "loop"):
        (runs / name).mkdir()
    (runs / "foreign" / "results.json").write_text('{"accuracy": 0.5}')
    (runs / "dangling" / "results.json").symlink_to("nowhere")
    (runs / "folder" / "results.json").mkdir()
    (runs / "loop" / "again").symlink_to(runs)
    (tmp_path / "linked").symlink_to(runs)
    for top in (runs, tmp_path / "linked"):
        outcome = css("report", top)
        assert outcome.code == 1 and "Traceback" not in outcome.err
        assert outcome.out.count("seed 1") == outcome.out.count("seed 2") == 1
        lines = [line for line in outcome.err.splitlines() if not line.startswith("Report: ")]
        assert len(lines) == 3 and all(line.startswith("css: ") for line in lines)
        assert all(name in outcome.err for name in ("dangling", "folder", "foreign"))
    only = css("report", runs / "foreign", runs / "folder")
    assert only.code == 2 and "foreign" in only.complaint and f"Nor can {runs / 'folder'} be shown" in only.complaint


def test_seconds_of_runs_without_stages(tmp_path):
    _, cells = small(tmp_path)
    (cell,) = cells.values()
    path = write_run(cell, SMALL, small_ious([0.5] * 4))
    values = json.loads(path.read_text())
    for task in values["tasks"]:
        task["seconds"] = {"train": 11.0, "since_start_or_restart": 500.0}
    rewrite(cell, values)
    record = read_record(cell.config.folder)
    assert isinstance(record, Record) and record.later_seconds() == 22


def test_absent_results(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_record(tmp_path)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_latex_compiles(tmp_path):
    recipe, cells = small(tmp_path, title=r"a_b & c% #1 {x} ~ ^ \ ± †")
    write_run(cells["voc-1-1-overlap-plop-s1"], SMALL, small_ious([0.5] * 4))
    assert table(recipe, tmp_path).code == 0
    body = (tmp_path / "runs/small/table.tex").read_text()
    document = "\n".join([
        r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}", body, r"\end{document}",
    ])  # fmt: skip
    (tmp_path / "all.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "all.tex"], cwd=tmp_path, check=True, capture_output=True)
