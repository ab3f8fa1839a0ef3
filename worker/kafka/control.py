"""The two control topics as every worker sees them: which models there are, and who may spend what.

A record that cannot be used changes nothing but is reported; the last good value
stays. A tombstone removes.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import TypeAdapter, ValidationError

from worker.core.arms import Arm
from worker.errors import BadRecord, DeadLetterCode
from worker.events import EVERYONE_ELSE, BudgetRecord, Identifier, ModelRecord, parse
from worker.kafka.compacted import Follower, Record
from worker.money import to_nanos
from worker.settings import Settings

Notify = Callable[[], None]
OnBad = Callable[[str, int, str], None]
_identifier: TypeAdapter[str] = TypeAdapter(Identifier)


def _nothing(*_args: object) -> None:
    pass


class Catalog:
    """The models that can be chosen, from the topic `models`.

    `version` rises with every change and `on_change` is called after it; `on_bad` gets
    topic without prefix, offset and reason of every record skipped.
    """

    def __init__(self, on_change: Notify = _nothing, on_bad: OnBad = _nothing) -> None:
        self.arms: tuple[Arm, ...] = ()
        self.version = 0
        self._known: dict[str, Arm] = {}
        self._on_change = on_change
        self._on_bad = on_bad

    def arm(self, model: str) -> Arm | None:
        """The arm of this name, enabled or not."""
        return self._known.get(model)

    def apply(self, record: Record) -> None:
        """Take over one record of the topic."""
        try:
            model = key_of(record)
            arm = None if record.value is None else arm_of(_model(record, model))
        except BadRecord as error:
            self._on_bad("models", record.offset, str(error))
            return
        if self._known.get(model) == arm:
            return
        if arm is None:
            self._known.pop(model)
        else:
            self._known[model] = arm
        self.arms = tuple(self._known[name] for name in sorted(self._known))
        self.version += 1
        self._on_change()


class Budgets:
    """The limits per window, from the topic `budgets`; `*` holds for everyone without an own record."""

    def __init__(self, on_bad: OnBad = _nothing) -> None:
        self._limits: dict[str, int] = {}
        self._on_bad = on_bad

    @property
    def users(self) -> tuple[str, ...]:
        """Everyone who has a record, `*` included."""
        return tuple(self._limits)

    def limit_nanos(self, user_id: str) -> int | None:
        """The user's limit in nano-dollars; None: unlimited."""
        limit = self._limits.get(user_id)
        return self._limits.get(EVERYONE_ELSE) if limit is None else limit

    def apply(self, record: Record) -> None:
        """Take over one record of the topic."""
        try:
            user_id = key_of(record)
            limit = None if record.value is None else to_nanos(parse(BudgetRecord, record.value).limit_usd)
        except BadRecord as error:
            self._on_bad("budgets", record.offset, str(error))
            return
        if limit is None:
            self._limits.pop(user_id, None)
        else:
            self._limits[user_id] = limit


def followers(settings: Settings, catalog: Catalog, budgets: Budgets) -> tuple[Follower, Follower]:
    """The tasks that feed both; a worker is ready only when each has caught up."""
    return (
        Follower(settings, settings.topic("models"), catalog.apply),
        Follower(settings, settings.topic("budgets"), budgets.apply),
    )


def arm_of(record: ModelRecord) -> Arm:
    """The core's view of a model record."""
    return Arm(**{**record.model_dump(), "tags": frozenset(record.tags)})


def key_of(record: Record) -> str:
    """The key of a control record.

    Raises:
        BadRecord: `invalid_key`: absent, not UTF-8, or no identifier.
    """
    if record.key is None:
        raise BadRecord(DeadLetterCode.INVALID_KEY, "the record has no key")
    try:
        return _identifier.validate_python(record.key.decode())
    except UnicodeDecodeError:
        raise BadRecord(DeadLetterCode.INVALID_KEY, "the key is not UTF-8") from None
    except ValidationError as error:
        raise BadRecord(DeadLetterCode.INVALID_KEY, f"key: {error.errors()[0]['msg']}") from None


def _model(record: Record, key: str) -> ModelRecord:
    content = parse(ModelRecord, record.value)
    if content.model != key:
        raise BadRecord(DeadLetterCode.INVALID_KEY, f"the key is {key!r}, the model {content.model!r}")
    return content
