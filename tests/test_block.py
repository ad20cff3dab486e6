"""Blocks of `backward_rule` as contexts: order, threads, decorators, operators of functions."""

import asyncio
import threading

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import lbp
from lbp.errors import LbpError, LbpWarning


def slope(f=torch.tanh, at=2.0):
    z = torch.tensor([at], requires_grad=True)
    return torch.autograd.grad(f(z), z)[0].item()


TRUE = 1 - torch.tanh(torch.tensor(2.0)).item() ** 2


def test_blocks_of_asyncio_tasks_that_cross_are_told_and_nothing_stays_open():
    async def task(rule):
        with lbp.backward_rule(rule):
            await asyncio.sleep(0)

    async def both():
        return await asyncio.gather(task("linear"), task("ste-clip"), return_exceptions=True)

    first, second = asyncio.run(both())
    assert isinstance(first, LbpError)
    assert "'linear' was left while a block inside of it was open" in str(first)
    assert second is None
    assert _get_current_function_mode_stack() == []
    assert slope() == pytest.approx(TRUE)


def test_a_generator_that_ends_in_the_block_of_another_is_told_and_that_block_goes_on():
    def yields():
        with lbp.backward_rule("linear"):
            yield

    open_ = yields()
    next(open_)
    with lbp.backward_rule("ste-clip"):
        with pytest.raises(LbpError, match="leave blocks in their order"):
            open_.close()
        assert slope() == 0
    assert _get_current_function_mode_stack() == []


@pytest.mark.parametrize("rule", ["bp", "linear"])
def test_threads_may_share_a_block(rule):
    shared, inside, failed = lbp.backward_rule(rule), threading.Barrier(2, timeout=30), []

    def work():
        try:
            with lbp.backward_rule("ste-clip"), shared:
                inside.wait()
                assert slope() == pytest.approx(TRUE if rule == "bp" else 1)
                inside.wait()
            assert _get_current_function_mode_stack() == []
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.parametrize(("rule", "expected"), [("linear", 1.0), ("bp", TRUE)])
def test_a_block_is_a_decorator(rule, expected):
    @lbp.backward_rule(rule)
    def decorated(z):
        """The function's own words."""
        return torch.tanh(z)

    assert decorated.__doc__ == "The function's own words."
    assert slope(decorated) == pytest.approx(expected)
    z = torch.tensor([2.0], requires_grad=True)
    with lbp.backward_rule("ste-clip"):
        value = decorated(z)
    assert torch.autograd.grad(value, z)[0].item() == pytest.approx(expected)
    assert slope() == pytest.approx(TRUE)


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated")
def test_an_operator_that_takes_functions_is_reached_where_the_block_is_compiled():
    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(z):
        with lbp.backward_rule("linear"):
            return torch.cond(z.sum() > 0, lambda v: nn.Tanh()(v), lambda v: torch.relu(v), (z,))

    assert slope(compiled) == 1
    assert slope(compiled, at=-2.0) == 1


def test_only_the_innermost_block_warns_of_what_its_rule_misses(recwarn):
    z = torch.randn(3, requires_grad=True)
    with lbp.backward_rule("linear"):
        with lbp.backward_rule("bp"):
            torch.softmax(z, 0)
        assert not recwarn
        with lbp.backward_rule("ste-clip"), pytest.warns(LbpWarning, match="ste-clip") as told:
            torch.softmax(z, 0)
        assert [warning.filename for warning in told] == [__file__]


def test_an_operator_that_takes_functions_has_no_true_derivative_in_a_block_around_it():
    def conditional(z):
        return torch.cond(z.sum() > 0, lambda v: torch.tanh(v), lambda v: torch.relu(v), (z,))

    assert slope(conditional) == pytest.approx(TRUE)
    with lbp.backward_rule("linear"), pytest.raises(RuntimeError, match=r"torch\.cond"):
        slope(conditional)


@pytest.mark.parametrize(
    "call", [lambda z: torch.softmax(z, 0), lambda z: nn.functional.softmax(z, 0), nn.Softmax(0)]
)
def test_a_warning_names_the_users_line(call):
    z = torch.randn(3, requires_grad=True)
    with lbp.backward_rule("linear"), pytest.warns(LbpWarning) as told:
        call(z)
    assert [warning.filename for warning in told] == [__file__]


def test_the_warning_of_a_block_that_reached_nothing_tells_of_modules_with_a_rule():
    model, _ = lbp.linearize(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with lbp.backward_rule("linear"), pytest.warns(LbpWarning, match="keep their own") as told:
        model(torch.randn(3, 2)).sum().backward()
    assert [warning.filename for warning in told] == [__file__]
