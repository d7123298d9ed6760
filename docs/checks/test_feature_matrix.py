"""The table of cells against modes has every cell."""

import feature_matrix
import pytest


def test_every_cell_has_a_row_with_an_entry_for_each_column():
    rows = feature_matrix.rows()
    assert set(rows) == feature_matrix.cells()
    assert {len(marks) for marks in rows.values()} == {len(feature_matrix.COLUMNS) + 2}
    assert all(rows["GRUCell"])
    assert rows["LRUCell"][-3:] == [False, False, False]


def test_a_cell_that_no_test_sweeps_fails_the_build(monkeypatch):
    monkeypatch.delitem(feature_matrix.laws.CLAIMS, "lru")
    with pytest.raises(ValueError, match="sweeps none of LRUCell"):
        feature_matrix.rows()


def test_a_law_that_is_renamed_is_noticed():
    assert set(feature_matrix.COLUMNS.values()) <= set(feature_matrix.laws.LAWS)
