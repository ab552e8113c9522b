import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trained import TrainedModel, pieces_of

from tokenmill.config import build
from tokenmill.errors import ConfigError, IdentityError, InputError
from tokenmill.inference.engine import (
    Engine,
    EngineConfig,
    GenerateConfig,
    Prompt,
    Request,
    load_engine,
    run,
)
from tokenmill.inference.sampling import SamplingConfig
from tokenmill.models.presets import preset
from tokenmill.models.transformer import Transformer, initialise
from tokenmill.tokens.tokenizer import train

VOCAB = 97


def make_engine(**values: Any) -> Engine:
    model = Transformer(preset("test", VOCAB))
    initialise(model, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return Engine(model, EngineConfig(**values))


def make_requests(num: int) -> list[Request]:
    draw = random.Random(0)

    def ids(longest: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCAB) for _ in range(draw.randint(1, longest)))

    return [
        Request(context=ids(40), continuations=tuple(ids(12) for _ in range(draw.randint(1, 5))))
        for _ in range(num)
    ]


def oracle(engine: Engine, context: tuple[int, ...], continuation: tuple[int, ...]) -> tuple[float, bool]:
    """One plain causal forward of the whole sequence."""
    ids = torch.tensor([context + continuation])
    with torch.no_grad():
        logits = engine.model.logits(engine.model(ids))[0, len(context) - 1 : -1].double()
    target = torch.tensor(continuation)
    found = logits.log_softmax(-1).gather(1, target[:, None]).sum().item()
    return found, bool((logits.argmax(-1) == target).all())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_a_shared_context_equals_one_forward_per_continuation(
    dtype: str, tolerance: float, batch_tokens: int
) -> None:
    engine = make_engine(dtype=dtype, batch_tokens=batch_tokens)
    requests = make_requests(40)
    for request, scores in zip(requests, engine.loglikelihood(requests), strict=True):
        for continuation, score in zip(request.continuations, scores, strict=True):
            logprob, greedy = oracle(engine, request.context, continuation)
            assert abs(score.logprob - logprob) < tolerance * max(1, abs(logprob))
            assert score.is_greedy == greedy


def test_greedy_continuations_are_known() -> None:
    engine = make_engine()
    [(text,)] = engine.generate([Prompt(name="", ids=(1, 2, 3))], max_new_tokens=4, sampling=SamplingConfig())
    other = (text.ids[0], (text.ids[1] + 1) % VOCAB)
    [scores] = engine.loglikelihood([Request(context=(1, 2, 3), continuations=(text.ids, other))])
    assert [score.is_greedy for score in scores] == [True, False]


def test_the_output_layer_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make_requests(10)
    whole = make_engine(dtype="float64").loglikelihood(requests)
    monkeypatch.setattr("tokenmill.inference.engine._LOGIT_VALUES", 1)
    parts = make_engine(dtype="float64").loglikelihood(requests)
    for left, right in zip(whole, parts, strict=True):
        assert [score.is_greedy for score in left] == [score.is_greedy for score in right]
        assert [score.logprob for score in left] == pytest.approx(
            [score.logprob for score in right], abs=1e-12
        )


def test_results_do_not_depend_on_what_else_is_asked() -> None:
    engine = make_engine(dtype="float64")
    requests = make_requests(30)
    together = engine.loglikelihood(requests)
    for index in (0, 7, 29):
        [alone] = engine.loglikelihood([requests[index]])
        for left, right in zip(alone, together[index], strict=True):
            assert abs(left.logprob - right.logprob) < 1e-12


def test_unbatched_results_are_bitwise_independent_of_what_else_is_asked() -> None:
    engine = make_engine(batch_tokens=1)
    requests = make_requests(30)
    assert engine.loglikelihood(requests)[9:17] == engine.loglikelihood(requests[9:17])


def test_bfloat16_is_near() -> None:
    requests = make_requests(5)
    exact = make_engine().loglikelihood(requests)
    near = make_engine(dtype="bfloat16").loglikelihood(requests)
    for left, right in zip(exact, near, strict=True):
        assert [s.logprob for s in left] == pytest.approx([s.logprob for s in right], rel=0.1, abs=0.5)


def test_fit_drops_the_beginning_of_the_context() -> None:
    request = Request(context=(1, 2, 3, 4), continuations=((5,), (6, 7, 8)))
    assert request.fit(6) == request
    assert request.fit(4).context == (3, 4)
    assert request.fit(3).context == (4,)
    with pytest.raises(InputError, match="a continuation is longer"):
        request.fit(2)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(context=(), continuations=((1,),)), "without context"),
        (Request(context=(1,), continuations=()), "without context or without continuation"),
        (Request(context=(1,), continuations=((2,), ())), "without continuation"),
        (Request(context=(1,) * 9, continuations=((2,),)), "context is longer"),
        (Request(context=(1,), continuations=((2, VOCAB),)), "not in the model's vocabulary"),
    ],
)
def test_requests_without_meaning_are_refused(request_: Request, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_engine(seq_len=8).loglikelihood([request_])


def test_a_diverged_model_is_told() -> None:
    engine = make_engine()
    engine.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        engine.loglikelihood(make_requests(1))


@pytest.mark.parametrize(
    ("values", "where"),
    [({"dtype": "float8"}, "dtype"), ({"seq_len": -1}, "seq_len"), ({"device": "tpu9"}, "device")],
)
def test_a_wrong_config_is_refused(values: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=f"where: {where}"):
        make_engine(**values)


def greedy_without_cache(engine: Engine, ids: tuple[int, ...], num: int, stop: int | None) -> tuple[int, ...]:
    new: list[int] = []
    while len(new) < num:
        with torch.no_grad():
            hidden = engine.model(torch.tensor([[*ids, *new]]))
            chosen = int(engine.model.logits(hidden[:, -1]).argmax())
        if chosen == stop:
            break
        new.append(chosen)
    return tuple(new)


@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_greedy_with_cache_equals_without(batch_tokens: int) -> None:
    engine = make_engine(dtype="float64", batch_tokens=batch_tokens)
    draw = random.Random(2)
    prompts = [
        Prompt(name=str(n), ids=tuple(draw.randrange(VOCAB) for _ in range(length)))
        for n, length in enumerate([3, 17, 1, 9, 9])
    ]
    plain = engine.generate(prompts, max_new_tokens=12, sampling=SamplingConfig())
    expected = [greedy_without_cache(engine, prompt.ids, 12, None) for prompt in prompts]
    assert [texts[0].ids for texts in plain] == expected
    assert {texts[0].finish_reason for texts in plain} == {"length"}
    stop = expected[1][5]
    stopped = engine.generate(prompts, max_new_tokens=12, sampling=SamplingConfig(), stop_id=stop)
    for prompt, texts in zip(prompts, stopped, strict=True):
        assert texts[0].ids == greedy_without_cache(engine, prompt.ids, 12, stop)
    assert stopped[1][0].finish_reason == "eos_token"


def test_samples_differ_and_do_not_depend_on_the_batch() -> None:
    prompts = [Prompt(name=str(n), ids=(n + 1, 2, 3)[: n + 1]) for n in range(3)]
    sampling = SamplingConfig(temperature=1.5, top_k=50, seed=4)
    texts = []
    for batch_tokens in (1, 10_000):
        engine = make_engine(dtype="float64", batch_tokens=batch_tokens)
        texts.append(engine.generate(prompts, max_new_tokens=8, sampling=sampling, num_samples=3))
    assert texts[0] == texts[1]
    assert len({text.ids for text in texts[0][0]}) == 3
    other = make_engine(dtype="float64").generate(
        prompts, max_new_tokens=8, sampling=replace(sampling, seed=5), num_samples=3
    )
    assert other != texts[0]


@pytest.mark.parametrize(
    ("ids", "message"), [((), "without tokens"), ((1,) * 6, "longer than"), ((VOCAB,), "vocabulary")]
)
def test_prompts_without_meaning_are_refused(ids: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_engine(seq_len=8).generate(
            [Prompt(name="p", ids=ids)], max_new_tokens=3, sampling=SamplingConfig()
        )


def test_importing_needs_few_packages() -> None:
    code = (
        "import sys\n"
        "for name in ('gigatoken', 'tokenizers',"
        " 'orjson', 'pydantic', 'yaml', 'zstandard', 'typer', 'submitit'):\n"
        "    sys.modules[name] = None\n"
        "import tokenmill.inference.engine"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the job


def read_texts(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / "data" / "text").iterdir())
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return sorted(lines, key=lambda line: (line["prompt_index"], line["sample"]))


def test_run_writes_texts(trained_model: TrainedModel, tmp_path: Path) -> None:
    config = GenerateConfig(
        prompts=("the cat", "", "why? " * 50),
        max_new_tokens=5,
        num_samples=2,
        sampling=SamplingConfig(temperature=1.0),
        engine=EngineConfig(seq_len=40),
    )
    task = trained_model.task(tmp_path / "one")
    run(config, task)
    texts = read_texts(tmp_path / "one")
    assert [output["name"] for output in task.outputs] == ["text/00000.jsonl"]
    assert [text["prompt"] for text in texts[::2]] == list(config.prompts)
    assert task.counters.values["texts"] == 6
    assert task.counters.values["truncated_prompts"] == 1
    assert task.counters.values["generated_tokens"] == sum(len(text["ids"]) for text in texts)
    [figure] = task.report.figures
    assert figure["kind"] == "texts"
    assert len(figure["items"]) == 6

    for shard in range(3):
        run(config, trained_model.task(tmp_path / "three", shard=shard, num_shards=3))
    assert read_texts(tmp_path / "three") == texts


def test_run_refuses_another_tokenizer(trained_model: TrainedModel, tmp_path: Path) -> None:
    for vocab_size, message in ((280, "sha256"), (400, "at most")):
        words = " ".join(f"{letter}{second}" * 2 for letter in "abcdefghijklm" for second in "nopqrstuvwxyz")
        other = train([words], vocab_size=vocab_size)
        path = tmp_path / str(vocab_size) / "tokenizer.json"
        path.parent.mkdir()
        path.write_bytes(other.data)
        task = trained_model.task(tmp_path, tokenizer=pieces_of(path))
        with pytest.raises(IdentityError, match=message):
            run(GenerateConfig(prompts=("a",)), task)


def test_the_limit_is_that_of_training_unless_the_config_says_otherwise(trained_model: TrainedModel) -> None:
    assert load_engine(trained_model.checkpoint, EngineConfig()).seq_len == 64
    assert load_engine(trained_model.checkpoint, EngineConfig(seq_len=9)).seq_len == 9
    assert make_engine().seq_len == 2048


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"prompts": ()}, "prompts"),
        ({"num_samples": 0}, "num_samples"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 64}, "max_new_tokens"),
    ],
)
def test_run_refuses_to_generate_nothing(
    trained_model: TrainedModel, tmp_path: Path, values: Any, where: str
) -> None:
    values = {"prompts": ("a",), **values}
    with pytest.raises(ConfigError, match=f"where: {where}"):
        run(GenerateConfig(**values), trained_model.task(tmp_path))


def test_missing_inputs_are_named(trained_model: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer .*\n.*tokenizer.json"):
        run(GenerateConfig(prompts=("a",)), trained_model.task(tmp_path, tokenizer=()))
    with pytest.raises(InputError, match="no checkpoint"):
        run(GenerateConfig(prompts=("a",)), trained_model.task(tmp_path, checkpoint=()))


def test_the_config_is_built_from_yaml_values() -> None:
    values = {"prompts": ["a", ""], "sampling": {"temperature": 0.8, "top_p": 0.95}}
    built = build(GenerateConfig, values, "job generate, config")
    assert built.prompts == ("a", "")
    assert built.sampling == SamplingConfig(temperature=0.8, top_p=0.95)
