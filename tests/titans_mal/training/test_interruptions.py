"""Signals to stop, and steps that are skipped, without a training around them."""

import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from titans_mal.training.interruptions import SkippedSteps, StopOnSignal, any_process


@pytest.fixture
def stop():
    callback = StopOnSignal()
    callback.on_train_begin(None, None, TrainerControl())
    yield callback
    callback.restore_handlers()


def test_a_signal_saves_and_stops_after_the_step(stop):
    control = TrainerControl(should_evaluate=True)
    stop.on_step_end(None, None, control)
    assert (control.should_training_stop, control.should_evaluate) == (False, True)
    signal.raise_signal(signal.SIGTERM)
    assert not control.should_training_stop
    stop.on_step_end(None, None, control)
    assert (control.should_save, control.should_training_stop, control.should_evaluate) == (True, True, False)
    control.should_evaluate = True
    stop.on_epoch_end(None, None, control)
    assert (stop.received, control.should_evaluate) == (signal.SIGTERM, False)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_those_of_before(stop):
    assert signal.getsignal(signal.SIGTERM) == stop._receive
    stop.restore_handlers()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=StopOnSignal().on_train_begin, args=(None, None, TrainerControl()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) == before  # other threads cannot set handlers


@pytest.mark.parametrize(
    ("gradient", "marked", "is_skipped"), [(1.0, False, False), (torch.nan, False, True), (1.0, True, True)]
)
def test_a_step_that_is_not_finite_has_no_gradients(gradient, marked, is_skipped):
    model, skipped = torch.nn.Linear(1, 1), SkippedSteps()
    model.weight.grad = torch.full((1, 1), gradient)
    if marked:
        skipped.mark()
    skipped.on_pre_optimizer_step(None, SimpleNamespace(global_step=4), TrainerControl(), model=model)
    assert (model.weight.grad is None) == is_skipped
    assert (skipped.count, skipped.unlogged) == (is_skipped, is_skipped)
    # The mark was of that step alone.
    model.weight.grad = torch.ones(1, 1)
    skipped.on_pre_optimizer_step(None, SimpleNamespace(global_step=5), TrainerControl(), model=model)
    assert model.weight.grad is not None


def test_a_resumed_training_goes_on_counting():
    skipped = SkippedSteps(count=3)
    state = TrainerState(stateful_callbacks=[skipped])
    again = SkippedSteps()
    again.on_train_begin(None, state, TrainerControl())
    assert again.count == 3


@pytest.mark.parametrize("flag", [True, False])
def test_one_process_speaks_for_itself(flag):
    assert any_process(flag) is flag
