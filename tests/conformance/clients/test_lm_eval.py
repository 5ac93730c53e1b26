"""EleutherAI's lm-evaluation-harness: `local-completions` scores a local JSON file, by echo and log-probs."""

from __future__ import annotations

import json
from pathlib import Path

import lm_eval
import openai
import pytest
from lm_eval.tasks import TaskManager

from tests.conformance.service import Service

ROWS = [
    {"question": "What helps against a cold?", "choices": ["Rest", "See a doctor"], "answer": 0},
    {"question": "感冒了怎么办？", "choices": ["多喝水", "请立即拨打急救电话"], "answer": 0},
    {"question": "When should I go to hospital?", "choices": ["At once", "drink water"], "answer": 0},
]
TASK = {
    "task": "triage", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
    "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "answer",
    "target_delimiter": " ", "metric_list": [{"metric": "acc"}],
}


def score(client: openai.OpenAI, question: str, choice: str) -> float:
    """Of the choice after the question, as OpenAI's client reads it from the same echo."""
    answer = client.completions.create(
        model="medrl", prompt=f"{question} {choice}", max_tokens=1, echo=True, logprobs=1, temperature=0).choices[0]
    tokens = zip(answer.logprobs.text_offset[:-1], answer.logprobs.token_logprobs[:-1], strict=True)
    return sum(value for offset, value in tokens if offset >= len(question))


def test_its_scores_are_those_of_the_service(
    service: Service, client: openai.OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", service.key)
    data = tmp_path / "triage.json"
    data.write_text(json.dumps(ROWS), encoding="utf-8")
    task = TASK | {"dataset_kwargs": {"data_files": {"test": str(data)}}}
    results = lm_eval.simple_evaluate(
        "local-completions", tasks=[task], task_manager=TaskManager(include_defaults=False), log_samples=True,
        model_args={"model": service.model, "base_url": f"{service.url}/v1/completions",
                    "tokenizer": service.tokenizer, "tokenizer_backend": "huggingface", "max_retries": 1})
    samples = sorted(results["samples"]["triage"], key=lambda sample: sample["doc_id"])
    expected = [[score(client, row["question"], choice) for choice in row["choices"]] for row in ROWS]
    for sample, scores in zip(samples, expected, strict=True):
        assert [float(value[0]) for value in sample["filtered_resps"]] == pytest.approx(scores, abs=1e-3)
    right = sum(scores.index(max(scores)) == row["answer"] for scores, row in zip(expected, ROWS, strict=True))
    assert results["results"]["triage"]["acc,none"] == pytest.approx(right / len(ROWS))
