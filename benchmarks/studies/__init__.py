"""What `pilot evaluate` cannot say: parts of the router switched off, damaged feedback, drift, the paper's rivals.

Every study yields runs of one cell (split, seed, budget), made of the pieces of
`worker.evaluate` and of the router itself; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from studies.stage import Stage
from worker.evaluate.experiment import Run

Study = Callable[[Stage], Iterator[Run]]
