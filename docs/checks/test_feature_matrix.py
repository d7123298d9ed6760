"""The table of cells against modes has every cell."""

import feature_matrix
import pytest


def test_every_cell_has_a_row_with_an_entry_for_each_column():
    rows = feature_matrix.rows()
    assert set(rows) == feature_matrix.cells()
    assert {len(marks) for marks in rows.values()} == {len(feature_matrix.COLUMNS) + 3}
    assert all(rows["GRUCell"])
    assert rows["LRUCell"][-4:] == [False, False, False, False]
    assert {kind for kind, marks in rows.items() if marks[-2]} == {
        *("SimpleRNNCell", "MinimalRNNCell", "GRUCell", "LSTMCell")
    }


def test_a_cell_that_no_test_sweeps_fails_the_build(monkeypatch):
    monkeypatch.delitem(feature_matrix.laws.CLAIMS, "lru")
    with pytest.raises(ValueError, match="sweeps none of LRUCell"):
        feature_matrix.rows()


def test_a_law_that_is_renamed_is_noticed():
    assert set(feature_matrix.COLUMNS.values()) <= set(feature_matrix.laws.LAWS)
