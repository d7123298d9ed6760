"""Calls of the loop, each started before the last one is read: devices do not wait for the host."""

from rnn_jax.training.compiled.program import Call, Program
from rnn_jax.training.report import Report
from rnn_jax.training.step import TrainState


class LookAhead:
    """The calls of a run one after another, with one under way while the last one is dealt with.

    A call is started from the state that the one before will leave, which need not be there yet. If
    that one turns out to be the last (all members have stopped, the run is asked to leave,
    something is raised), what was started after it is dropped: its state, its report, and the place
    in the data after it. No buffer is donated, so a state can be saved while the next call runs.

    With several processes, what they agree on after each call waits for the call that is under way,
    as a device does one thing after another: there the host's own work alone is hidden.

    Args:
      program: whose calls they are.
      state: before the next step.
      done: training steps done before it.
      steps: training steps of the whole run.
    """

    def __init__(self, program: Program, state: TrainState, done: int, steps: int):
        self._program, self._steps = program, steps
        # Where the next call starts: a state that may not be there yet, and its step.
        self._state, self._first = state, done
        self._started: Call | Exception | None = None

    def next(self) -> tuple[Call, Report]:
        """The next call, as it is known to have ended, and its report on the host.

        Raises:
          Exception: what it raised itself, whether it was started ahead or not.
        """
        call = self._started or self._start()
        if isinstance(call, Exception):
            raise call
        self._started = self._start() if self._has_next() else None
        return call, self._program.read(call)

    def _has_next(self) -> bool:
        left = self._first < self._steps
        return left and self._program.ready(self._length())

    def _length(self) -> int:
        return self._program.plan.next_length(self._first, self._steps)

    def _start(self) -> Call | Exception:
        """Starts a call; what that raises is kept until it is this call's turn."""
        try:
            call = self._program.advance(self._state, self._first, self._length())
        except Exception as error:
            return error
        self._state, self._first = call.state, call.done
        return call
