"""LangChain's client of OpenAI."""

from __future__ import annotations

from langchain_openai import ChatOpenAI

from tests.conformance.service import Service


def model(service: Service, max_tokens: int = 12) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{service.url}/v1", api_key=service.key, model=service.model, temperature=0, max_tokens=max_tokens,
        max_retries=0)


def test_an_answer_and_its_stream_are_the_same(service: Service) -> None:
    question = [("system", "Answer briefly."), ("human", "What helps against a cold?")]
    answer = model(service).invoke(question)
    assert answer.usage_metadata["output_tokens"] <= 12 and answer.response_metadata["model_name"] == service.model
    assert "".join(part.content for part in model(service).stream(question)) == answer.content


def test_structured_output(service: Service) -> None:
    schema = {"title": "Triage", "type": "object", "properties": {"urgent": {"type": "boolean"}},
              "required": ["urgent"], "additionalProperties": False}
    asked = model(service, max_tokens=80).with_structured_output(schema, method="json_schema")
    assert isinstance(asked.invoke("胸口疼要不要紧?")["urgent"], bool)
