"""Sherman–Morrison and Woodbury."""

import numpy as np

from worker.core.downdate import Groups, downdate, downdate_many


def test_equals_inverting_again() -> None:
    """After one more observation the inverse is that of the matrix with its outer product, and stays symmetric."""
    generator = np.random.default_rng(0)
    root, x = generator.standard_normal((5, 5)), generator.standard_normal(5)
    matrix = np.eye(5) + root @ root.T
    inverse = np.linalg.inv(matrix)
    inverse = (inverse + inverse.T) / 2
    g = inverse @ x
    downdate(inverse, g, 2.0 + float(x @ g))
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix + np.outer(x, x) / 2.0), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(inverse, inverse.T)


def test_many_rows_at_once_equal_inverting_again() -> None:
    """Rows of several arms, one of them without any, end at the inverses and solutions of all rows."""
    generator = np.random.default_rng(1)
    arms, d, noise = [0, 2, 0, 0, 2], 4, 0.3
    X, y = generator.standard_normal((5, d)), generator.standard_normal(5)
    inverses, theta = np.tile(np.eye(d), (3, 1, 1)), np.zeros((3, d))
    groups = Groups(arms, 3)
    steps, missed = downdate_many(inverses, groups.padded(X), groups.padded(y), noise)
    theta += steps
    for k in range(3):
        own = np.array(arms) == k
        inverse = np.linalg.inv(np.eye(d) + X[own].T @ X[own] / noise)
        solved = inverse @ X[own].T @ y[own] / noise
        np.testing.assert_allclose(inverses[k], inverse, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(theta[k], solved, rtol=1e-10, atol=1e-12)
        left = y[own] @ y[own] - y[own] @ X[own] @ solved
        np.testing.assert_allclose(missed[k], left, rtol=1e-10, atol=1e-12)


def test_many_small_batches_do_not_drift() -> None:
    """After 300 batches the inverse is still that of the sum of all rows, to 1e-9."""
    generator = np.random.default_rng(2)
    inverse, matrix = np.eye(6)[None], np.eye(6)
    for _ in range(300):
        X = generator.standard_normal((1, 8, 6))
        downdate_many(inverse, X, np.zeros((1, 8)), 1.0)
        matrix += X[0].T @ X[0]
    np.testing.assert_allclose(inverse[0] @ matrix, np.eye(6), atol=1e-9)
