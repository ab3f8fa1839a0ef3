"""Indicators of the kind of query: task labels and clusters."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from worker.core.kinds import TASK_BUCKETS, Clusters, Tasks, word_vectors
from worker.core.words import BUCKETS, hashed_words, word_counts


class TestTasks:
    def test_seen_labels_have_each_their_own_indicator(self) -> None:
        """A prior's labels are one-hot; others, and none, are all zeros."""
        found = Tasks(("code", "math")).indicators(["math", "code", None, "poetry"])
        np.testing.assert_array_equal(found, [[0, 1], [1, 0], [0, 0], [0, 0]])

    def test_without_a_prior_labels_are_hashed(self) -> None:
        """Any label has one of 16 buckets, the same one every time."""
        found = Tasks().indicators(["summarise", "translate", "summarise", None])
        assert found.shape == (4, TASK_BUCKETS)
        np.testing.assert_array_equal(found.sum(axis=1), [1, 1, 1, 0])
        np.testing.assert_array_equal(found[0], found[2])

    def test_bucket_is_the_same_in_every_process(self) -> None:
        """A label's bucket does not depend on Python's hash seed, so all workers agree."""
        code = "from worker.core.kinds import Tasks; print(Tasks().indicators(['summarise']).argmax())"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert int(run.stdout) == Tasks().indicators(["summarise"]).argmax()


class TestWords:
    def test_words_and_punctuation_are_counted(self) -> None:
        """Case does not matter, punctuation does, repeats count as logs."""
        buckets, logs = hashed_words("What? what is")
        assert len(buckets) == 3
        assert sorted(logs) == sorted(np.log1p([2.0, 1.0, 1.0]))

    def test_table_has_the_same_counts(self) -> None:
        """The dense table that features are fitted on holds what single texts give."""
        table = word_counts(["a b b", ""])
        buckets, logs = hashed_words("a b b")
        assert table.shape == (2, BUCKETS)
        np.testing.assert_array_equal(table[0, buckets], logs)
        assert table[0].sum() == logs.sum()
        assert table[1].sum() == 0

    def test_middle_of_a_long_text_is_skipped(self) -> None:
        """Of a huge prompt both ends count, so a template at either end is seen in bounded time."""
        padding = "filler " * 1000
        buckets, logs = hashed_words(f"Instruction {padding} needle {padding} Answer")
        needle, ends = hashed_words("needle")[0], hashed_words("Instruction Answer filler")[0]
        assert set(ends) <= set(buckets)
        assert needle[0] not in buckets
        assert logs.max() < np.log(1000)


IDF = np.ones(BUCKETS)
CODE, RECIPE = hashed_words("def return")[0], hashed_words("boil stir")[0]
DIRECTIONS = np.zeros((2, BUCKETS))
DIRECTIONS[0, CODE] = DIRECTIONS[1, RECIPE] = 1.0
# Two embeddings × two vocabularies: (e0, code), (e0, recipe), (e1, code)
CENTRES = np.array([[1.0, 0, 0.7, 0], [1.0, 0, 0, 0.7], [0, 1.0, 0.7, 0]])
CLUSTERS = Clusters(IDF, DIRECTIONS, CENTRES, 0.7)
E0, E1 = np.array([1.0, 0.0]), np.array([0.0, 1.0])


class TestClusters:
    def test_words_decide_where_embeddings_agree(self) -> None:
        """Two prompts of one embedding and different words are of different kinds."""
        found = CLUSTERS.indicators(np.array([E0, E0]), ["def return", "boil stir"])
        np.testing.assert_array_equal(found.argmax(axis=1), [0, 1])

    def test_embedding_decides_where_words_agree(self) -> None:
        """The same words with another embedding are another kind."""
        found = CLUSTERS.indicators(np.array([E0, E1]), ["def return", "def return"])
        np.testing.assert_array_equal(found.argmax(axis=1), [0, 2])

    def test_without_text_the_embedding_decides_alone(self) -> None:
        """An embedding without text goes to a cluster of its own region, words left out."""
        found = CLUSTERS.indicators(np.array([E1, E0, E1]), [None, "boil stir", "def return"])
        np.testing.assert_array_equal(found.argmax(axis=1), [2, 1, 2])

    def test_each_query_has_exactly_one_cluster(self) -> None:
        """The block is one-hot, whatever the words."""
        found = CLUSTERS.indicators(np.array([E0, E1, E0]), ["", None, "unheard of"])
        np.testing.assert_array_equal(found.sum(axis=1), [1, 1, 1])

    def test_word_vectors_have_the_weight_as_length(self) -> None:
        """Words weigh the same for a short and a long text; no text weighs nothing."""
        found = word_vectors(["def", "def return def return", None], IDF, DIRECTIONS, 0.7)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), [0.7, 0.7, 0])
