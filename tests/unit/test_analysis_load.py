import numpy as np
import pytest

from analysis import merge
from analysis.load import labels, load, predictions
from analysis.place import StudyError
from tests.unit.analysis_cases import Outcome, make_cell, write_result


def merged(site, workspace, *cells):
    for index, cell in enumerate(cells):
        write_result(workspace, cell, Outcome(n_epochs=index + 1, n_rows=24 * (index + 1)))
    assert merge.main(["demo", "--site", str(site)]) == 0
    return load(workspace.merged("demo"))


def test_cells_come_in_the_order_of_the_tables(site, workspace):
    lora = [
        make_cell("lora", rank=rank, heads=heads)
        for rank, heads in ((16, "trained"), (4, "frozen"), (4, "trained"))
    ]
    study = merged(site, workspace, make_cell("ia3"), *lora, make_cell("full"))
    assert [(cell.strategy, cell.rank, cell.heads) for cell in study.cells] == [
        ("full", None, "trained"),
        ("lora", 4, "trained"),
        ("lora", 4, "frozen"),
        ("lora", 16, "trained"),
        ("ia3", None, "trained"),
    ]


def test_epochs_and_predictions_stay_with_their_cell(site, workspace):
    cells = [make_cell("random_init"), make_cell("full"), make_cell("head_only")]
    study = merged(site, workspace, *cells)
    sizes = {cell.strategy: len(cell.epochs["epoch"]) for cell in study.cells}
    assert sizes == {"random_init": 1, "full": 2, "head_only": 3}
    assert all(cell.best_epoch == len(cell.epochs["epoch"]) - 1 for cell in study.cells)
    assert set(study.cells[0].epochs) >= {"train_loss", "balanced_accuracy/genus"}
    rows = [(cell.strategy, level, len(true)) for cell, level, true, _ in predictions(study)]
    assert rows[:3] == [("full", "superkingdom", 48), ("full", "phylum", 48), ("full", "genus", 48)]
    assert rows[-1] == ("head_only", "genus", 72)
    for _, level, true, predicted in predictions(study):
        wrong = true != predicted
        n_classes = len(study.classes[level])
        assert np.array_equal(predicted[wrong], (true[wrong] + 1) % n_classes)


def test_a_label_names_the_learning_rate_only_where_it_tells_cells_apart(site, workspace):
    fast, slow = (make_cell("lora", learning_rate=rate) for rate in (5e-4, 2e-4))
    study = merged(site, workspace, make_cell("full"), fast, slow)
    short = labels(study)
    assert [short[cell.cell_id] for cell in study.cells] == [
        "full",
        "lora r4 lr 0.0002",
        "lora r4 lr 0.0005",
    ]


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    path.write_text("not HDF5")
    with pytest.raises(StudyError, match=r"x\.h5: its bytes are not those"):
        load(path)
