"""Sherman–Morrison and Woodbury."""

import numpy as np

from worker.core.downdate import downdate


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
