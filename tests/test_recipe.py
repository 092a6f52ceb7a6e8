"""Recipes: what cells they name, and what is wrong with them."""

from pathlib import Path

import pytest
from hand_made_runs import cells_of, write_recipe

from css.recipe.cells import make_cells
from css.recipe.plan import read_recipe
from css.recipe.tidy import related
from tasks import InputError

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
ABLATION = {"name": "median", "method": "plop", "options": {"thresholds": "median"}}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes(path):
    recipe = read_recipe(path)
    cells = make_cells(recipe, path, Path("runs"))
    labels = {cell.label for cell in cells} | {"gd-wild"}  # needs a folder of images that the user names
    assert all(source.rows.keys() <= labels for source in recipe.published.values())
    assert len({cell.config.folder for cell in cells}) == len(cells)


def test_table2_has_the_published_weight_of_mib():
    path = next(path for path in RECIPES if path.stem == "table2")
    cells = make_cells(read_recipe(path), path, Path("runs"))
    weights = {(c.config.protocol, c.config.options.kd_weight) for c in cells if c.label == "mib"}
    assert weights == {("19-1", 10), ("15-5", 10), ("15-1", 100)}
    rivals = {label for (protocol, label) in {c.line for c in cells} if protocol == "15-1"} - {
        label for (protocol, label) in {c.line for c in cells} if protocol == "19-1"
    }
    assert rivals == {"lgkd", "plop+ewf", "plop+ewf+align", "ssul", "analytic", "dkd", "dkd+align", "barm", "star",
                      "star+align"}  # fmt: skip
    assert len(cells) == 3 * 3 * 12 + 3 * len(rivals)


def test_a_cell(tmp_path):
    recipe = write_recipe(
        tmp_path / "small.yaml", seeds=[7], methods=["finetune", ABLATION], options={"plop": {"floor": 0.5}},
        settings={"train": {"epochs": 3, "lr": 0.5}, "setting": "disjoint"},
    )  # fmt: skip
    cells = cells_of(recipe, tmp_path / "runs")
    assert list(cells) == ["voc-15-1-disjoint-finetune-s7", "voc-15-1-disjoint-median-s7"]
    config = cells["voc-15-1-disjoint-median-s7"].config
    assert config.folder == tmp_path / "runs/small/voc-15-1-disjoint-median-s7"
    assert (config.method, config.seed, config.train.epochs, config.train.lr) == ("plop", 7, 3, 0.5)
    assert config.options.thresholds == "median" and config.options.floor == 0.5
    shorter = make_cells(read_recipe(recipe), recipe, tmp_path, epochs=2)[0].config.train
    assert (shorter.epochs, shorter.later_epochs, shorter.lr) == (2, None, 0.5)


def test_a_row_with_settings_of_its_own(tmp_path):
    """They stand beside the recipe's; only what the first task does not see leaves it shared."""
    rows = [
        {"method": "frozen+align", "name": name, "settings": settings}
        for name, settings in {
            "plain": {},
            "columns": {"model": {"classifier_features": "hypercolumn"}},
            "faster": {"train": {"lr": 0.2}},
        }.items()
    ]
    recipe = write_recipe(tmp_path / "small.yaml", methods=rows, settings={"model": {"encoder": "resnet18"}})
    plain, columns, faster = cells_of(recipe, tmp_path).values()
    assert columns.config.model.classifier_features == "hypercolumn" and columns.config.model.encoder == "resnet18"
    assert plain.config.model.classifier_features == "auto" and faster.config.train.lr == 0.2
    assert related(plain, columns) and not related(plain, faster)


def test_two_recipes_may_share_their_runs(tmp_path):
    first = write_recipe(tmp_path / "first.yaml", runs="common")
    second = write_recipe(tmp_path / "second.yaml", runs="common", methods=["plop", "mib"])
    assert cells_of(first, tmp_path).keys() < cells_of(second, tmp_path).keys()
    assert all(c.config.folder.parent == tmp_path / "common" for c in cells_of(second, tmp_path).values())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"methods": ["plop", "plop"]}, "two cells have the name voc-15-1-overlap-plop-s1"),
        ({"methods": [{"method": "mib", "name": "plop"}, "plop"]}, "two cells have the name"),
        ({"seeds": [1, 1]}, "two cells have the name"),
        ({"protocols": ["15-1", "15-1"]}, "two cells have the name"),
        ({"methods": [{"name": "mine"}]}, "method"),
        ({"methods": [{"method": "plop", "option": {}}]}, "option"),
        ({"methods": [{"method": "plop", "options": {"factor": 3}}]}, "factor"),
        ({"methods": [{"method": "plop", "protocols": ["15-5"]}]}, "'15-5', which is not among its protocols"),
        ({"methods": [{"method": "plop", "name": "../a"}]}, "has a / in its name"),
        ({"methods": []}, "methods is empty"),
        ({"seeds": []}, "seeds is empty"),
        ({"published": {"us": {"rows": {"plop": {"15-1": [1, 2]}}}}}, "published"),
        ({"published": {"us": {"colour": "red", "rows": {}}}}, "colour"),
        ({"settings": {"train": 3}}, "train"),
        ({"methods": [{"method": "plop", "settings": {"train": {"colour": 3}}}]}, "colour"),
        ({"methods": [{"method": "plop", "settings": {"seed": 3}}]}, "settings.seed"),
    ],
)
def test_bad_recipes(keys, words, tmp_path):
    path = write_recipe(tmp_path / "bad.yaml", **keys)
    with pytest.raises(InputError) as raised:
        make_cells(read_recipe(path), path, tmp_path, epochs=3)
    message = str(raised.value)
    assert words in message and "bad.yaml" in message and message.endswith(".") and "\n" not in message
