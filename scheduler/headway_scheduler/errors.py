"""Every error that Headway raises, by whose fault it is.

* HeadwayError
  x CallerError              the caller must ask for something else
    - InvalidQuota           a quota states a limit that cannot be kept
    - UnknownQuota           no quota has this name
    - CallTooLarge           the call is above a limit: no wait can help
    - QueueFull              as many calls wait as the configuration permits
    - RunNotFound            no run has this id
    - KeyTaken               another row has this id or idempotency key
    - RowRefused             the database takes no row with this value
    - RunNotResumable        the run's state does not allow the request
    - WorkflowNotHere        another program registers the run's workflow
    - WorkerEvicted          others took this worker for dead, and took its runs
    - NothingToAnswer        the run waits for no person
    - BudgetExceeded         the run's own dollars do not cover its next call
    - DeadlineExceeded       the run's own time is over
    - RunClosed              the run has ended: its agents may ask for nothing more
    - WorkflowExited         code of a run tried to end the process
    - SchedulerClosed        the scheduler of this process was closed
  x ProviderError            the provider said no, and waiting cannot mend it
  x StoreError               the database cannot be used as it is
    - StoreMissing           there is no database yet: the first run makes it
    - StoreFull              there is no room to write; work goes on once there is
    - StoreBusy              another process has the database open
    - StoreTakenOver         this process was stopped, and another one leads now
    - StoreReplaced          the file is gone, or another one is in its place
    - StoreReadOnly          the file or its folder may not be written
    - StoreCorrupt           the file is damaged
    - StoreForeign           the file is no database of Headway
    - StoreTooNew            a newer Headway wrote the file
    - StoreOnNetwork         SQLite's locks do not hold on a network file system
  x InternalError            our fault, please report it
    - IllegalTransition      a state was to change in a way that its table forbids

A message says what happened, to what, and what to do next. None holds a key or a prompt.
"""


class HeadwayError(Exception):
    """Base of all errors of Headway."""


class CallerError(HeadwayError):
    """The request cannot be carried out as it was made: the caller has to change it."""


class InvalidQuota(CallerError):
    """A quota states a limit that cannot be kept."""


class UnknownQuota(CallerError):
    """A call names a quota that is not configured."""


class CallTooLarge(CallerError):
    """A call needs more than a limit ever allows."""


class QueueFull(CallerError):
    """As many calls wait as ``[defaults] waiting`` permits, or as much text as ``waiting_bytes``.

    Nothing was queued.
    """


class RunNotFound(CallerError):
    """No run has this id."""


class KeyTaken(CallerError):
    """Another row has this id or idempotency key. Nothing was written."""


class RowRefused(CallerError):
    """The database refuses a value of a row, and always will. Nothing was written."""


class RunNotResumable(CallerError):
    """The state of the run does not allow the request: a completed run cannot be resumed, say."""


class WorkflowNotHere(CallerError):
    """Another program registers the run's workflow. The run was left as it is."""


class WorkerEvicted(CallerError):
    """Others took this worker for dead, and took its runs: it is given no runs any more."""


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


class StoreMissing(StoreError):
    """There is no database yet: whoever writes first makes it."""


class StoreFull(StoreError):
    """There is no room to write. Nothing was written; free some space and ask again."""


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
    """The file is the database of another program, or no database."""


class StoreTooNew(StoreError):
    """The file was written by a newer Headway."""


class StoreOnNetwork(StoreError):
    """The file lies on a network file system, where SQLite's locks do not hold."""


class InternalError(HeadwayError):
    """Our fault. Please report it with the message."""


class IllegalTransition(InternalError):
    """A state was to change in a way that its table of transitions forbids. Nothing changed."""


def own_copy(error: Exception) -> Exception:
    """Return a copy of an error: each of several callers raises an object of its own.

    Each raise adds frames to the traceback of the object. If 1,000 callers raised the same object,
    reporting it would take minutes.
    """
    own: Exception
    if isinstance(error, HeadwayError):
        # ``__init__`` is passed by: its parameters may differ from ``args``.
        own = type(error).__new__(type(error), *error.args)
        vars(own).update(vars(error))
    else:
        from copy import copy  # `headway --help` imports this module, and copies nothing

        own = copy(error)
    own.__cause__, own.__context__ = error.__cause__, error.__context__
    own.__suppress_context__ = error.__suppress_context__
    return own.with_traceback(error.__traceback__)
