from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from client.local import train_locally
from client.state import buffer_names, get_arrays, initial_arrays, score, set_arrays
from client.workload import BUILT_IN, Examples, load_workload, with_training
from client.workloads import watch
from scheduler import load_device
from scheduler.errors import BadFile, BadInput, UnknownName

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_workload.py"


@pytest.mark.parametrize("spec", [*BUILT_IN, f"{EXAMPLE}:vibration"])
def test_workloads_fit_together(spec):
    workload = load_workload(spec)
    batch = workload.examples(0)
    assert len(batch) >= workload.batch_size
    for examples in (workload.examples(workload.partitions - 1), workload.test()):
        assert examples.x.shape[1:] == batch.x.shape[1:]
        assert examples.x.dtype == batch.x.dtype
        assert examples.y.dtype == torch.int64
    model = workload.model()
    loss = workload.loss(model(batch.x[:4]), batch.y[:4])
    loss.backward()
    workload.optimizer(model.parameters()).step()
    assert loss.dim() == 0


def test_watch_holds_two_people_out_and_scales_on_the_device():
    workload = load_workload("watch")
    assert workload.partitions == 8
    assert not set(watch.TRAIN_SUBJECTS) & set(watch.TEST_SUBJECTS)
    examples = workload.examples(0)
    assert examples.x.shape[1:] == (6, 100)
    assert set(examples.y.tolist()) == set(range(7))
    torch.testing.assert_close(examples.x.std(dim=(0, 2)), torch.ones(6), rtol=0.1, atol=0)


def test_a_turned_window_keeps_its_length():
    windows = np.random.default_rng(0).normal(size=(5, 20, 6)).astype(np.float32)
    turned = watch._turn(windows, np.random.default_rng(1))
    for sensor in (slice(0, 3), slice(3, 6)):
        ratio = np.linalg.norm(turned[:, :, sensor], axis=2) / np.linalg.norm(
            windows[:, :, sensor], axis=2
        )
        assert (np.ptp(ratio, axis=1) < 1e-5).all()
        assert (np.abs(ratio - 1) <= watch.SCALE + 1e-5).all()


def test_digits_splits_all_training_images_once():
    workload = load_workload("digits")
    parts = [workload.examples(n) for n in range(workload.partitions)]
    assert sum(map(len, parts)) + len(workload.test()) == 1797
    mixes = {tuple(np.bincount(p.y, minlength=10)) for p in parts}
    assert len(mixes) == workload.partitions


@pytest.mark.parametrize(
    ("text", "spec", "error", "message"),
    [
        (None, "nowhere", UnknownName, "no workload named 'nowhere'; known: watch, digits"),
        (None, "missing.py:w", BadFile, "no workload file .*missing.py"),
        ("x = 1", "own.py", BadInput, "name the workload inside the file: .*own.py:NAME"),
        ("x = 1", "own.py:w", BadFile, "has no 'w' at module level"),
        ("w = 1", "own.py:w", BadFile, "is a int, not a client.workload.Workload"),
        ("def w(): return 1", "own.py:w", BadFile, "is a int, not"),
        ("1 / 0", "own.py:w", BadFile, "cannot be run: ZeroDivisionError"),
        ("def w(): raise ValueError('no')", "own.py:w", BadFile, "ended with ValueError: no"),
        ("def w(:", "own.py:w", BadFile, "cannot be run: SyntaxError"),
    ],
)
def test_what_is_not_a_workload_is_said_in_one_line(
    tmp_path, monkeypatch, text, spec, error, message
):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("own.py").write_text(text)
    with pytest.raises(error, match=message) as caught:
        load_workload(spec)
    assert "\n" not in str(caught.value)


def test_a_function_that_returns_a_workload_will_do(tmp_path):
    file = tmp_path / "made.py"
    file.write_text(
        "from client.workload import load_workload\ndef make(): return load_workload('digits')\n"
    )
    assert load_workload(f"{file}:make").name == "digits"


def test_examples_and_numbers_must_make_sense():
    x = torch.zeros(3, 2)
    with pytest.raises(BadInput, match="not 3 and 2"):
        Examples(x=x, y=torch.zeros(2))
    with pytest.raises(BadInput, match="at least one"):
        Examples(x=x[:0], y=torch.zeros(0))
    with pytest.raises(BadInput, match=r"x of examples is a ndarray, not a torch.Tensor"):
        Examples(x=x.numpy(), y=x)
    digits = load_workload("digits")
    with pytest.raises(BadInput, match=r"batch_size must be a whole number, 1 or more, not 8\.5"):
        dataclasses.replace(digits, batch_size=8.5)
    with pytest.raises(BadInput, match="batch_size must be a whole number, 1 or more, not 0"):
        with_training(digits, batch_size=0, local_epochs=None)
    with pytest.raises(BadInput, match="partitions 0 to 9, not 10"):
        digits.examples(10)


def test_an_empty_client_is_named():
    digits = load_workload("digits")

    def nothing(partition):
        return Examples(x=torch.zeros(0, 64), y=torch.zeros(0).long())

    empty = dataclasses.replace(digits, data=nothing)
    with pytest.raises(BadInput, match=r"examples need .* at least one, not 0 and 0; partition 3"):
        empty.examples(3)
    with pytest.raises(BadInput, match=r"at least one.*; partition 3") as caught:
        train_locally(empty, load_device("raspberry-pi-4b"), partition=3)
    assert caught.value.exit_code == 2


def test_arrays_go_in_and_out():
    workload = load_workload("digits")
    before = torch.get_rng_state()
    arrays = initial_arrays(workload, 5)
    assert torch.equal(before, torch.get_rng_state())
    again = initial_arrays(workload, 5)
    assert all(np.array_equal(arrays[k], again[k]) for k in arrays)
    assert any(not np.array_equal(arrays[k], v) for k, v in initial_arrays(workload, 6).items())
    model = workload.model()
    set_arrays(model, arrays)
    assert all(np.array_equal(arrays[k], v) for k, v in get_arrays(model).items())
    with pytest.raises(BadInput, match="not those of this workload's model"):
        set_arrays(model, {"w": np.zeros(2)})


def test_score_is_the_mean_over_examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 4, generator=generator)
    examples = Examples(x=x, y=torch.randint(3, (600,), generator=generator))
    model = torch.nn.Linear(4, 3)
    workload = load_workload("digits")
    got = score(workload, model, examples)
    output = model(examples.x).detach()
    assert got["loss"] == pytest.approx(float(workload.loss(output, examples.y)), rel=1e-5)
    assert got["accuracy"] == int((output.argmax(1) == examples.y).sum()) / 600
    assert model.training
    real = Examples(x=examples.x, y=torch.randn(600, 3))
    assert set(score(workload, model, real)) == {"loss"}


@pytest.mark.parametrize(
    ("part", "body", "message"),
    [
        (
            "model",
            "raise ValueError('no\\nway')",
            r"model\(\) of workload 'mine' ended with ValueError: no way",
        ),
        ("model", "return None", r"model\(\) of workload 'mine' returned a NoneType, not a Module"),
        ("optimizer", "return None", r"optimizer\(\) .* returned a NoneType, not a Optimizer"),
        ("data", "raise OSError('no card')", r"data\(\) .* ended with OSError: no card"),
        ("data", "return (1, 2)", r"data\(\) .* returned a tuple, not a Examples"),
        ("test", "raise SystemExit(0)", r"test\(\) .* ended with SystemExit: 0"),
    ],
)
def test_a_part_of_a_workload_that_fails_is_named(tmp_path, part, body, message):
    file = tmp_path / "own.py"
    file.write_text(
        "import dataclasses\nfrom client.workload import load_workload\n"
        f"def part(*_):\n    {body}\n"
        "digits = load_workload('digits')\n"
        f"mine = dataclasses.replace(digits, name='mine', {part}=part)\n"
    )
    workload = load_workload(f"{file}:mine")
    with pytest.raises(BadInput, match=message) as caught:
        getattr(workload, part)(*{"data": (0,), "optimizer": ([],)}.get(part, ()))
    assert "\n" not in str(caught.value)


def test_test_examples_that_do_not_fit_are_said_in_one_line():
    digits, model = load_workload("digits"), torch.nn.Linear(4, 3)
    for examples in (
        Examples(x=torch.zeros(2, 5), y=torch.zeros(2).long()),
        Examples(x=torch.zeros(2, 4), y=torch.full((2,), 7)),
    ):
        with pytest.raises(BadInput, match="'digits' cannot take its test examples: ") as caught:
            score(digits, model, examples)
        assert "\n" not in str(caught.value)
        assert model.training


def test_whole_numbers_that_are_no_classes_have_no_accuracy():
    counts = dataclasses.replace(load_workload("digits"), loss=lambda o, t: ((o - t) ** 2).mean())
    model = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Flatten(0))
    assert set(score(counts, model, Examples(x=torch.zeros(3, 4), y=torch.ones(3).long()))) == {
        "loss"
    }


def test_arrays_that_cannot_be_sent_are_named():
    class Extra(torch.nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(BadInput, match=r"'weight' is torch\.bfloat16, which cannot be sent"):
        get_arrays(torch.nn.Linear(2, 2).bfloat16())
    with pytest.raises(BadInput, match="the model saves '_extra_state', a dict"):
        get_arrays(Extra(2, 2))


def test_buffers_are_told_from_parameters():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm = torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)
            self.b = self.a

    workload = dataclasses.replace(load_workload("digits"), model=Tied)
    names = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert buffer_names(workload) == names


def test_a_partition_smaller_than_a_batch_is_named():
    digits = with_training(load_workload("digits"), batch_size=500, local_epochs=None)
    with pytest.raises(BadInput, match="partition 1 has 84 examples, fewer than a batch of 500"):
        train_locally(digits, load_device("raspberry-pi-4b"), partition=1)
    with pytest.raises(BadInput, match="seed must be 0 or more and less than"):
        train_locally(digits, load_device("raspberry-pi-4b"), seed=2**64)
