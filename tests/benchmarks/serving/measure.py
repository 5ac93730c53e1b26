"""Seconds of streamed answers, as a client sees them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import httpx

Times = dict[str, dict[str, list[float]]]  # server -> figure -> one value an answer


def compare(urls: Mapping[str, str], rounds: int, tokens: int) -> Times:
    """Answers from each server in turn; which is first changes from round to round. The first round is not kept."""
    times: Times = {server: {"first token": [], "token": [], "request": []} for server in urls}
    with httpx.Client(timeout=600, trust_env=False) as client:
        for number in range(rounds + 1):
            for server in sorted(urls, reverse=bool(number % 2)):
                answer = ask(client, urls[server], number, tokens)
                if number:
                    for figure, seconds in answer.items():
                        times[server][figure].append(seconds)
    return times


def ask(client: httpx.Client, url: str, number: int, tokens: int) -> dict[str, float]:
    """One streamed answer: until its first token, for each token after it, and as a whole."""
    body = {
        "model": "medrl", "prompt": f"{number}: What helps against a cold?", "max_tokens": tokens, "temperature": 0,
        "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
    }
    arrivals, lines = [], []
    started = time.perf_counter()
    with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                arrivals.append(time.perf_counter())
                lines.append(line)
    ended = time.perf_counter()
    assert answer.status_code == 200 and f'"completion_tokens":{tokens}' in lines[-1].replace(" ", "")
    first, last = arrivals[0], arrivals[-2]  # the very last part has the usage alone
    return {"first token": first - started, "token": (last - first) / (tokens - 1), "request": ended - started}


def medians(times: Times) -> dict[str, dict[str, float]]:
    """By figure: seconds of both servers, what medrl adds, and that as a share of vLLM's."""
    figures = {}
    for figure in times["vllm"]:
        vllm, medrl = (statistics.median(times[server][figure]) for server in ("vllm", "medrl"))
        figures[figure] = {"vllm": vllm, "medrl": medrl, "added": medrl - vllm, "share": medrl / vllm - 1}
    return figures
