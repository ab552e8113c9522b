"""One step: two ranks equal one, and a loss that is not finite ends the run."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import pool, succeeded
from torch.nn import functional
from training_programs import CONFIG, MODEL, Trace, broken_on_rank_1, changed, learner, trace, write_tokens

from tokenmill.errors import TokenmillError
from tokenmill.kernels.cross_entropy import cross_entropy_reference
from tokenmill.parallel.collectives import World, alone
from tokenmill.parallel.mesh import Mesh
from tokenmill.tokens.shards import ShardWriter, open_shards
from tokenmill.training.loader import Loader, TokenStream
from tokenmill.training.optimizer import OptimizerConfig
from tokenmill.training.trainer import TrainerConfig

CPU = torch.device("cpu")
STEPS = 6


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("tokens")
    return [write_tokens(folder / f"{index}.tokens", seed=index) for index in range(2)]


def one_rank(tokens: list[str], config: TrainerConfig, steps: int = STEPS) -> Trace:
    with World(rank=0, mesh=Mesh(), device=CPU, store=None, timeout_seconds=1) as world:
        return trace(world, tokens, config, steps)


def worst(got: Trace, want: Trace, what: str) -> float:
    """Largest difference of any tensor, relative to its largest value."""
    pairs = [(getattr(got, what)[name], value) for name, value in getattr(want, what).items()]
    assert all(value.abs().max() > 0 for _, value in pairs), "nothing to compare"
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


VARIANTS = {
    "plain": CONFIG,
    "untied": changed(model=replace(MODEL, tied_embeddings=False)),
    "one microbatch": changed(microbatch_size=64),
    "no clipping, no decay": changed(optimizer=OptimizerConfig(max_gradient_norm=1e9, weight_decay=0.0)),
    "wsd": changed(schedule=replace(CONFIG.schedule, shape="wsd", warmup_steps=1)),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_two_ranks_equal_one(tokens: list[str], config: TrainerConfig) -> None:
    single = one_rank(tokens, config)
    ranks: list[Trace] = succeeded(pool(2).run(trace, tokens, config, STEPS))
    uneven = [(a, b) for a, b in zip(ranks[0].valid_here, ranks[1].valid_here, strict=True) if a != b]
    assert len(uneven) == STEPS, "the ranks' valid labels must differ for this test to mean anything"
    assert [a + b for a, b in zip(ranks[0].valid_here, ranks[1].valid_here, strict=True)] == single.valid_here
    start = one_rank(tokens, config, 1)
    assert worst(start, single, "parameters") > 1e-2, "the parameters must have moved"
    for got in ranks:
        for mine, theirs in zip(got.losses, single.losses, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-12)
        for mine, theirs in zip(got.norms, single.norms, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-12)
        assert worst(got, single, "first_gradients") <= 1e-12
        assert worst(got, single, "parameters") <= 1e-12
        assert worst(got, single, "state") <= 1e-11
        assert got.heldout == pytest.approx(single.heldout, rel=1e-12)
    for name, value in ranks[0].parameters.items():
        assert torch.equal(value, ranks[1].parameters[name]), f"{name} differs between ranks"


def test_equals_a_training_loop_of_torch(tokens: list[str]) -> None:
    """The whole batch at once, torch's clipping, torch's AdamW, a mean over valid labels."""
    subject = learner(alone(CPU), tokens)
    twin = learner(alone(CPU), tokens)
    twin.buckets.close()
    model = twin.model
    parameters = list(model.parameters())
    groups = [
        {"params": [value for value in parameters if value.dim() > 1], "weight_decay": 0.1},
        {"params": [value for value in parameters if value.dim() == 1], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    stream = TokenStream(open_shards(tokens), seq_len=16, mask_document_starts=True)
    loader = Loader({"tokens": stream}, weights={"tokens": 1}, seed=0)
    for step in range(1, STEPS + 1):
        batch = loader.batch(range(8 * (step - 1), 8 * step))
        logits = model.logits(model(batch.inputs))
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-100)
        reference.zero_grad()
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        result = subject.learn(step)
        for group in reference.param_groups:
            group["lr"] = result.learning_rate
        reference.step()
        assert result.loss == pytest.approx(loss.item(), rel=1e-12)
        assert result.gradient_norm == pytest.approx(norm.item(), rel=1e-12)
    for mine, theirs in zip(subject.model.parameters(), parameters, strict=True):
        assert (mine - theirs).abs().max() <= 1e-10 * theirs.abs().max()


def test_microbatches_do_not_change_a_step(tokens: list[str]) -> None:
    whole, cut = one_rank(tokens, changed(microbatch_size=8)), one_rank(tokens, changed(microbatch_size=1))
    assert worst(cut, whole, "parameters") <= 1e-12
    assert cut.losses == pytest.approx(whole.losses, rel=1e-13)


def test_the_loss_is_the_mean_over_valid_labels(tokens: list[str]) -> None:
    subject = learner(alone(CPU), tokens)
    stream = TokenStream(open_shards(tokens), seq_len=16)
    total = count = 0.0
    for index in range(4):
        inputs, labels = (torch.from_numpy(part) for part in stream.window(index * len(stream) // 4))
        with torch.no_grad():
            hidden = subject.model(inputs[None])
        total += cross_entropy_reference(hidden[0], subject.model.head_weight, labels).item()
        count += len(labels)
    assert subject.evaluate(stream, 4) == pytest.approx(total / count, rel=1e-12)


def test_it_learns(tmp_path: Path) -> None:
    writer = ShardWriter(vocab_size=61, tokenizer_sha256="00" * 32, end_id=0)
    writer.add([1 + place % 7 for place in range(3000)])
    with (tmp_path / "a.tokens").open("wb") as file:
        writer.write(file)
    subject = learner(alone(CPU), [str(tmp_path / "a.tokens")], changed(num_steps=40))
    losses = [subject.learn(step).loss for step in range(1, 41)]
    assert losses[0] == pytest.approx(math.log(61), rel=0.05)
    assert losses[-1] < 0.5


def test_nothing_held_out(tokens: list[str]) -> None:
    subject = learner(alone(CPU), tokens)
    assert subject.evaluate(TokenStream([], seq_len=16), 4) is None


def test_a_loss_that_is_not_finite_names_step_and_rank(tokens: list[str]) -> None:
    subject = learner(alone(CPU), tokens)
    subject.learn(1)
    with torch.no_grad():
        subject.model.norm.weight.fill_(float("nan"))
    before = {name: value.clone() for name, value in subject.optimizer.state().items()}
    with pytest.raises(TokenmillError, match=r"the loss is not finite\n  where: step 2, rank 0\n"):
        subject.learn(2)
    assert all(torch.equal(value, before[name]) for name, value in subject.optimizer.state().items())


def test_all_ranks_name_the_rank_whose_loss_is_not_finite(tokens: list[str]) -> None:
    for error in pool(2).run(broken_on_rank_1, tokens):
        assert isinstance(error, TokenmillError)
        assert error.where == "step 1, rank 1"


def test_a_gradient_that_is_not_finite(tokens: list[str]) -> None:
    subject = learner(alone(CPU), tokens)
    weight: Any = subject.model.norm.weight
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TokenmillError, match=r"the gradient is not finite\n  where: step 1, all ranks"):
        subject.learn(1)
