"""Every error that Headway raises, by whose fault it is.

* HeadwayError
  x CallerError              what was asked for cannot be done as asked
    - InvalidQuota
    - UnknownQuota
    - CallTooLarge           above a limit: no wait can help
    - QueueFull              as many calls wait as the configuration permits
    - RunNotFound
    - KeyTaken               another row has this id or idempotency key
    - RowRefused             the database does not take a value of it
    - RunNotResumable        its state does not allow what was asked
    - WorkflowNotHere        another program registers the run's workflow
    - WorkerEvicted          others took this worker for dead, and took its runs
    - NothingToAnswer        the run waits for no person
    - BudgetExceeded         the run's own dollars do not cover its next call
    - DeadlineExceeded       the run's own time is over
    - RunClosed              the run has ended; its agents may ask for nothing more
    - WorkflowExited         code of a run tried to end the process
    - SchedulerClosed        so has the process's scheduler
  x ProviderError            the provider said no, and waiting cannot mend it
  x StoreError               the database cannot be used as it is
    - StoreFull              no room; goes on when there is
    - StoreBusy              another process has it open
    - StoreTakenOver         this process was stopped, and another one leads now
    - StoreReplaced          the file is gone, or another one is in its place
    - StoreReadOnly
    - StoreCorrupt
    - StoreForeign           not a Headway database
    - StoreTooNew            written by a newer Headway
    - StoreOnNetwork         SQLite's locks do not hold on a network file system
  x InternalError            our fault, please report it
    - IllegalTransition

A message says what happened, to what, and what to do next. None holds a key or a prompt.
"""


class HeadwayError(Exception):
    """Base of all errors of Headway."""


class CallerError(HeadwayError):
    """What was asked for cannot be done as asked."""


class InvalidQuota(CallerError):
    """A quota states a limit that cannot be kept."""


class UnknownQuota(CallerError):
    """A call names a quota that is not configured."""


class CallTooLarge(CallerError):
    """A call needs more than a limit ever allows."""


class QueueFull(CallerError):
    """As many calls wait, or as much text, as the configuration permits. Nothing was queued."""


class RunNotFound(CallerError):
    """No run has this id."""


class KeyTaken(CallerError):
    """Another row has this id or idempotency key. Nothing was written."""


class RowRefused(CallerError):
    """The database refuses a value of a row, and always will. Nothing was written."""


class RunNotResumable(CallerError):
    """The state of the run does not allow what was asked of it."""


class WorkflowNotHere(CallerError):
    """The run's workflow is registered by another program. The run was left as it is."""


class WorkerEvicted(CallerError):
    """Others took this worker for dead: it is given no runs any more."""


class NothingToAnswer(CallerError):
    """The run waits for no person."""


class BudgetExceeded(CallerError):
    """The run's own dollars do not cover its next call."""


class DeadlineExceeded(CallerError):
    """The run's own time is over."""


class RunClosed(CallerError):
    """The run has ended, so its agents may not ask for more."""


class WorkflowExited(CallerError):
    """Code of a run raised SystemExit, KeyboardInterrupt or another error that is no Exception.

    That error is its ``__cause__``.
    """


class SchedulerClosed(CallerError):
    """The scheduler of this process was closed."""


class ProviderError(HeadwayError):
    """The provider refused for good. ``status`` is the HTTP status, if there was one."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class StoreError(HeadwayError):
    """The database cannot be used as it is."""


class StoreFull(StoreError):
    """There is no room to write. Nothing was promised; free some space and ask again."""


class StoreBusy(StoreError):
    """Another process has the database open."""


class StoreTakenOver(StoreError):
    """Another process leads now, because this one showed no life. Nothing was written."""


class StoreReplaced(StoreError):
    """The file was removed, replaced or cut short while it was open. Nothing more is recorded."""


class StoreReadOnly(StoreError):
    """The database or its folder may not be written."""


class StoreCorrupt(StoreError):
    """The file is damaged."""


class StoreForeign(StoreError):
    """The file is a database of something else."""


class StoreTooNew(StoreError):
    """The file was written by a newer Headway."""


class StoreOnNetwork(StoreError):
    """The file lies on a network file system, where SQLite's locks do not hold."""


class InternalError(HeadwayError):
    """Our fault. Please report it with the message."""


class IllegalTransition(InternalError):
    """A state was to change along an arrow that its table does not have."""


def own_copy(error: Exception) -> Exception:
    """Return the same error as another object, for one of several callers who are to raise it.

    A raise adds frames to the traceback of its object, and an object that each of 1,000 callers
    raises takes minutes to report.
    """
    own: Exception
    if isinstance(error, HeadwayError):
        # Without ``__init__``, which may take something else than what the error is made of.
        own = type(error).__new__(type(error), *error.args)
        vars(own).update(vars(error))
    else:
        from copy import copy  # `headway --help` imports this module, and copies nothing

        own = copy(error)
    own.__cause__, own.__context__ = error.__cause__, error.__context__
    own.__suppress_context__ = error.__suppress_context__
    return own.with_traceback(error.__traceback__)
