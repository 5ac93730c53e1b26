"use strict";
// Talks to the service that serves this page, and to nobody else. Text of users and models is only ever set as text.

const KEY = "medrl-key", LANGUAGE = "medrl-language";
const BASES = { served: "../", candidate: "../candidate/" };
const $ = (id) => document.getElementById(id);
const clone = (id) => $(id).content.cloneNode(true);
const chat = { settings: {}, model: "", history: { served: [], candidate: [] }, running: null };

class Refusal extends Error {} // what the service said, in words that may be shown

function say(place, name, why = "") {
  const words = clone(`say-${name}`);
  if (why) words.querySelector(".why").textContent = why;
  place.replaceChildren(words);
}

function announce(name) { say($("status"), name); }

function setLanguage(language) {
  document.documentElement.lang = language;
  sessionStorage.setItem(LANGUAGE, language);
}

async function request(side, path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = { headers, signal, cache: "no-store" };
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(BASES[side] + path, options);
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw Object.assign(new Refusal(said.error?.message ?? String(response.status)), { status: response.status });
}

// ---- the key

async function connect() {
  $("key-form").hidden = $("chat").hidden = true;
  const key = sessionStorage.getItem(KEY);
  if (chat.settings.key_needed && !key) return askForKey();
  try {
    const models = await (await request("served", "v1/models")).json();
    chat.model = models.data[0].id;
  } catch (error) {
    sessionStorage.removeItem(KEY);
    return askForKey(error.status === 401 ? "no-key" : error instanceof Refusal ? "refused" : "lost", error.message);
  }
  $("model").textContent = chat.model;
  for (const id of ["model", "chat", "clear"]) $(id).hidden = false;
  $("forget").hidden = !key;
  $("compare-label").hidden = !chat.settings.candidate;
  $("question").focus();
}

function askForKey(problem, why) {
  for (const id of ["model", "chat", "clear", "forget"]) $(id).hidden = true;
  $("key-form").hidden = false;
  $("key").value = "";
  $("key-error").replaceChildren();
  if (problem) say($("key-error"), problem, problem === "refused" ? why : "");
  $("key").focus();
}

function newChat() {
  chat.running?.abort();
  chat.history = { served: [], candidate: [] };
  document.querySelectorAll(".turn").forEach((turn) => turn.remove());
}

// ---- asking and answering

async function ask(question) {
  const turn = clone("turn").firstElementChild;
  turn.querySelector(".question").textContent = question;
  const sides = $("compare").checked ? ["served", "candidate"] : ["served"];
  const cards = sides.map((side) => answerCard(side));
  turn.querySelector(".sides").append(...cards);
  $("log").append(turn);
  turn.scrollIntoView({ block: "end" });
  setRunning(new AbortController());
  announce("answering");
  const { signal } = chat.running;
  const endings = await Promise.all(sides.map((side, i) => answer(side, question, cards[i], signal)));
  setRunning(null);
  announce(endings.includes("stopped") ? "stopped" : endings.find((ending) => ending !== "done") ?? "done");
  $("composer").scrollIntoView({ block: "nearest" });
}

function setRunning(controller) {
  chat.running = controller;
  const running = controller !== null;
  if (!running && document.activeElement === $("stop")) $("question").focus(); // a disabled button loses the focus
  $("send").disabled = running;
  $("stop").disabled = !running;
}

function answerCard(side) {
  const card = clone("answer").firstElementChild;
  card.classList.add(side);
  return card;
}

// Streams one side's answer into its card; gives "done", "cut", "stopped", "refused" or "lost".
async function answer(side, question, card, signal) {
  const history = chat.history[side];
  const messages = [...history, { role: "user", content: question }];
  const text = card.querySelector(".text"), ended = card.querySelector(".ended");
  let ending = "done", why = "", id = "";
  try {
    const response = await request(side, "v1/chat/completions", body(messages), signal);
    id = response.headers.get("x-request-id");
    showHeaders(card, response.headers);
    for await (const event of events(response)) {
      if (event.error) throw new Refusal(event.error.message);
      const choice = event.choices?.[0];
      text.append(choice?.delta?.content ?? "");
      if (choice?.finish_reason === "length") ending = "cut";
    }
  } catch (error) {
    ending = signal.aborted ? "stopped" : error instanceof Refusal ? "refused" : "lost";
    why = error.message;
  }
  text.normalize();
  card.setAttribute("aria-busy", "false");
  if (ending !== "done") say(ended, ending, ending === "refused" ? why : "");
  if (text.textContent) {
    history.push(messages.at(-1), { role: "assistant", content: text.textContent });
    if (id && chat.settings.feedback) offerRating(card, side, { request_id: id, messages, answer: text.textContent });
  }
  return ending;
}

function body(messages) {
  const asked = { model: chat.model, messages, stream: true };
  if ($("temperature").value) asked.temperature = $("temperature").valueAsNumber;
  if ($("max-tokens").value) asked.max_tokens = $("max-tokens").valueAsNumber;
  return asked;
}

function showHeaders(card, headers) {
  const version = headers.get("x-medrl-version");
  card.querySelector(".version").hidden = !version;
  card.querySelector(".version b").textContent = version;
  card.querySelector(".warning").hidden = !headers.get("x-medrl-escalation");
}

// The JSON of each server-sent event, up to [DONE].
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// ---- rating

function offerRating(card, side, rated) {
  const buttons = [...card.querySelectorAll("[data-rating]")], more = card.querySelector(".more");
  const form = more.querySelector("form"), said = card.querySelector(".rated");
  const { may_keep: keep, may_train: train } = form.elements;
  let rating = "";
  const send = async (feedback) => {
    try {
      await request(side, "v1/feedback", { request_id: rated.request_id, rating, ...feedback });
      say(said, "saved");
    } catch (error) {
      say(said, error instanceof Refusal ? "refused" : "lost", error instanceof Refusal ? error.message : "");
    }
  };
  const sendForm = () => {
    const words = { comment: form.elements.comment.value, better_answer: form.elements.better_answer.value };
    return send({ ...rated, ...words, may_keep: keep.checked, may_train: train.checked });
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      rating = button.dataset.rating;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      more.hidden = false;
      keep.checked ? sendForm() : send({}); // without consent no text leaves the page
    });
  }
  train.addEventListener("change", () => { keep.checked ||= train.checked; });
  keep.addEventListener("change", () => { train.checked &&= keep.checked; });
  form.addEventListener("submit", (event) => { event.preventDefault(); sendForm(); });
  card.querySelector(".rate").hidden = false;
}

// ---- the page

$("language").addEventListener("click", () => setLanguage(document.documentElement.lang === "en" ? "zh" : "en"));
$("clear").addEventListener("click", () => { newChat(); $("question").focus(); });
$("forget").addEventListener("click", () => { sessionStorage.removeItem(KEY); newChat(); connect(); });
$("stop").addEventListener("click", () => chat.running?.abort());
$("compare").addEventListener("change", () => { chat.history.candidate = [...chat.history.served]; });
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  connect();
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || chat.running) return;
  $("question").value = "";
  ask(question);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") chat.running?.abort(); });

setLanguage(sessionStorage.getItem(LANGUAGE) ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
fetch("settings.json").then((response) => response.json()).then((settings) => {
  chat.settings = settings;
  $("intended-use").textContent = settings.intended_use;
  connect();
});
