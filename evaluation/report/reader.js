// The conversation reader. What each filter shows, and in which order, was settled when the page was made (views.py);
// here it is only walked through. All text goes into text nodes: nothing that a reply says is read as HTML.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const inputs = { filter: at("filter"), tactic: at("tactic"), words: at("words"), run: at("run") };
const state = { filter: "all", tactic: "", words: "", run: "", at: 0 };
let shown = []; // indices of the groups that pass the filter, in its order

/** An element with properties, and texts or elements inside. `style` sets custom properties. */
function make(tag, properties = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") Object.entries(value).forEach(([key, text]) => element.style.setProperty(key, text));
    else if (name.startsWith("data-") || name === "scope" || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...inside.filter((item) => item !== null));
  return element;
}

const number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
const colour = (tactic) => `var(--tactic-${tactic})`;
const view = () => data.views.find((entry) => entry.key === state.filter) || data.views[0];
const hasTactic = (reply, tactic) => reply.parts.some(([, tactics]) => tactics.includes(tactic));

// ---- filtering

function passes(group) {
  if (state.run !== "" && group.run !== Number(state.run)) return false;
  if (state.tactic !== "" && !group.replies.some((reply) => hasTactic(reply, Number(state.tactic)))) return false;
  const words = state.words.trim().toLowerCase();
  return !words || textsOf(group).some((text) => text.toLowerCase().includes(words));
}

function textsOf(group) {
  return [group.prompt, group.seeker, ...group.replies.map((reply) => reply.parts.map(([text]) => text).join(""))];
}

function refresh() {
  shown = view().order.filter((index) => passes(data.groups[index]));
  state.at = Math.min(Math.max(state.at, 0), Math.max(shown.length - 1, 0));
  at("place").textContent = shown.length ? `${state.at + 1} of ${shown.length}` : "none";
  at("back").disabled = state.at === 0;
  at("onward").disabled = state.at >= shown.length - 1;
  at("group").replaceChildren(shown.length ? drawGroup(data.groups[shown[state.at]]) : nothing());
  const talk = document.querySelector(".talk");
  if (talk) talk.scrollTop = talk.scrollHeight; // the message that was answered is the last one
}

const nothing = () => make("p", { className: "no-group" }, "No group is like that. That can be good news.");

// ---- drawing

function drawGroup(group) {
  return make(
    "article",
    { className: "group", "data-prompt": group.prompt },
    drawHead(group),
    make("div", { className: "sides" }, drawTalk(group), make("div", {}, drawRewards(group), drawReplies(group))),
  );
}

function drawHead(group) {
  const place = group.kind === "training" ? `training step ${group.step}` : "held out";
  const facts = [place];
  if (data.runs.length > 1) facts.unshift(data.runs[group.run]);
  if (group.gain !== null) {
    const meaning = group.kind === "training" ? "best minus worst reward" : "empathy after minus before";
    facts.push(`${meaning} ${number(group.gain)}`);
  }
  return make("div", { className: "group-head" }, make("h3", {}, group.prompt), make("p", {}, facts.join(" · ")));
}

function drawTalk(group) {
  const turns = group.place
    ? data.talks[group.place.talk].slice(0, group.place.turn).map((text, i) => [i % 2 ? "supporter" : "seeker", text])
    : [["seeker", group.seeker]];
  const bubbles = turns.map(([role, text], i) =>
    make("div", { className: `turn ${role}${i === turns.length - 1 ? " asked" : ""}` }, make("b", {}, role), text),
  );
  const title = group.place ? "The conversation so far" : "The seeker's message (earlier turns are not at hand)";
  const talk = make("div", { className: "talk" }, make("h4", {}, title), ...bubbles);
  if (group.previous !== null && group.previous.length) {
    const tags = group.previous.flatMap((tactic) => [" ", drawTag(tactic)]);
    talk.append(make("p", { className: "note" }, "The supporter's last turn used", ...tags));
  }
  if (group.place) talk.append(drawWritten(data.talks[group.place.talk][group.place.turn]));
  return talk;
}

const drawWritten = (text) =>
  make(
    "details",
    {},
    make("summary", {}, "What the data's supporter said here"),
    make("div", { className: "turn supporter" }, text),
  );

function drawTag(tactic) {
  const { name, short } = data.tactics[tactic];
  return make("span", { className: "tag", title: name, style: { "--c": colour(tactic) } }, short);
}

const COMPONENTS = {
  quality: "empathy",
  d_kl: "change of tactics",
  entropy: "variety",
  bigram: "pairs",
  trigram: "triples",
};

/** Rows of numbers of one group: a title, one value a reply, which way is better (1, -1, or 0), and scaled values. */
function rowsOf(group) {
  const rows = [];
  const add = (title, value, better, scaled = () => null, digits = 2) => {
    const values = group.replies.map(value);
    if (values.every((entry) => entry === null)) return;
    rows.push({ title, values, better, scaled: group.replies.map(scaled), digits });
  };
  add("reward", (reply) => reply.reward, 1);
  for (const [key, title] of Object.entries(COMPONENTS)) {
    const within = (values) => (values && key in values ? values[key] : null);
    add(title, (reply) => within(reply.raw), key === "quality" ? 1 : 0, (reply) => within(reply.scaled));
  }
  add("length factor", (reply) => reply.lengthFactor, 0);
  add("tokens", (reply) => reply.tokens, 0, () => null, 0);
  data.dimensions.forEach(({ name, lowerIsBetter }, i) =>
    add(name, (reply) => reply.dimensions && reply.dimensions[i], lowerIsBetter ? -1 : 1, () => null, 1),
  );
  return rows;
}

function drawRewards(group) {
  const heads = group.replies.map((reply, i) => {
    const properties = { type: "button", title: `Go to this reply (${i + 1})`, onclick: () => choose(i) };
    return make("th", { scope: "col" }, make("button", properties, reply.label));
  });
  const table = make(
    "table",
    { className: "rewards" },
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "component"), ...heads)),
    make("tbody", {}, ...rowsOf(group).map(drawRow)),
  );
  const isScaled = group.replies.some((reply) => reply.scaled);
  const note = make("p", { className: "note" }, "In brackets: scaled within the group. ● best of the group.");
  if (!isScaled) note.textContent = "Held-out replies have no reward of their own. ● best of the group.";
  const box = { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Rewards of the group" };
  return make("div", {}, make("div", box, table), note);
}

function drawRow({ title, values, better, scaled, digits }) {
  const known = values.filter((value) => value !== null);
  const best = better > 0 ? Math.max(...known) : Math.min(...known);
  const differs = known.some((value) => value !== known[0]);
  const cells = values.map((value, i) =>
    make(
      "td",
      { className: better && differs && value === best ? "best" : "" },
      make("span", { className: "value" }, number(value, digits)),
      scaled[i] === null ? null : make("span", { className: "scaled" }, `(${number(scaled[i])})`),
    ),
  );
  return make("tr", { className: title === "reward" ? "sum" : "" }, make("th", { scope: "row" }, title), ...cells);
}

function drawReplies(group) {
  return make("div", { className: "replies" }, ...group.replies.map(drawReply));
}

function drawReply(reply) {
  const wanted = view().faults;
  const faulty = reply.faults.some((fault) => wanted.includes(fault));
  const value = reply.reward === null ? reply.raw && reply.raw.quality : reply.reward;
  const meaning = reply.reward === null ? "empathy" : "reward";
  return make(
    "section",
    { className: `reply${faulty ? " faulty" : ""}`, "data-label": reply.label, "data-faults": reply.faults.join(", ") },
    make(
      "header",
      {},
      make("b", {}, number(value)),
      `${meaning} · ${reply.label}`,
      ...reply.faults.map((fault) => make("span", { className: "fault" }, fault)),
    ),
    make("p", { className: "said" }, ...reply.parts.flatMap(drawPart), ...emptiness(reply)),
  );
}

const emptiness = (reply) =>
  reply.faults.includes("empty") ? [make("i", { className: "untagged" }, "(no text)")] : [];

/** A sentence with a line of each tactic's colour below it, and the words of the tactics behind it. */
function drawPart([text, tactics]) {
  if (!tactics.length) return [make("span", { className: "untagged" }, text)];
  const layers = tactics.map((tactic) => `linear-gradient(${colour(tactic)}, ${colour(tactic)})`);
  const places = tactics.map((_, i) => `0 calc(100% - ${4 * i}px)`);
  const sentence = make(
    "span",
    {
      className: "sentence",
      "data-tactics": tactics.map((tactic) => data.tactics[tactic].name).join(", "),
      title: tactics.map((tactic) => data.tactics[tactic].name).join(", "),
      style: {
        "background-image": layers.join(", "),
        "background-position": places.join(", "),
        "background-size": "100% 3px",
        "padding-bottom": `${4 * tactics.length}px`,
      },
    },
    text,
  );
  return [sentence, ...tactics.flatMap((tactic) => ["\u2009", drawTag(tactic)])];
}

// ---- moving about

function choose(index) {
  const replies = [...document.querySelectorAll(".reply")];
  replies.forEach((reply, i) => reply.classList.toggle("chosen", i === index));
  if (replies[index]) replies[index].scrollIntoView({ block: "nearest" });
}

function change(values) {
  Object.assign(state, values);
  for (const [name, input] of Object.entries(inputs)) if (input) input.value = state[name];
  refresh();
  const used = Object.entries(state).filter(([name, value]) => value && !(name === "filter" && value === "all"));
  const words = new URLSearchParams(used.map(([name, value]) => [name, name === "at" ? value + 1 : value]));
  history.replaceState(null, "", `#${used.length ? words : "reader"}`);
}

function move(by) {
  change({ at: state.at + by });
  const top = at("controls").getBoundingClientRect().top;
  if (top < 0 || top > window.innerHeight / 2) at("reader").scrollIntoView();
}

function nextFilter(by) {
  const place = data.views.indexOf(view()) + by;
  change({ filter: data.views[(place + data.views.length) % data.views.length].key, at: 0 });
}

function switchTheme(theme) {
  const preferred = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const current = document.documentElement.dataset.theme || preferred;
  document.documentElement.dataset.theme = theme || (current === "dark" ? "light" : "dark");
}

const KEYS = {
  j: () => move(1),
  ArrowRight: () => move(1),
  k: () => move(-1),
  ArrowLeft: () => move(-1),
  f: () => nextFilter(1),
  F: () => nextFilter(-1),
  a: () => change({ filter: "all", tactic: "", words: "", run: "", at: 0 }),
  d: () => switchTheme(),
  "/": () => inputs.words.focus(),
  "?": () => {
    at("keys").open = !at("keys").open;
    at("keys").scrollIntoView({ block: "nearest" });
  },
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") event.target.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
  if (event.key.startsWith("Arrow") && event.target.matches(".scroll")) return; // it scrolls its table
  const action = /^[1-9]$/.test(event.key) ? () => choose(Number(event.key) - 1) : KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// ---- start

function fill() {
  for (const { key, title, order } of data.views) {
    inputs.filter.append(make("option", { value: key }, `${title} (${order.length})`));
  }
  data.tactics.forEach(({ name }, i) => inputs.tactic.append(make("option", { value: String(i) }, name)));
  if (inputs.run) data.runs.forEach((name, i) => inputs.run.append(make("option", { value: String(i) }, name)));
}

/** What the address asks for: #filter=leaks&tactic=2&at=3&theme=dark */
function fromAddress() {
  if (!location.hash.includes("=")) {
    refresh();
    return;
  }
  const asked = new URLSearchParams(location.hash.slice(1));
  if (asked.has("theme")) switchTheme(asked.get("theme") === "dark" ? "dark" : "light");
  for (const name of Object.keys(inputs)) state[name] = asked.get(name) || (name === "filter" ? "all" : "");
  state.at = (Number(asked.get("at")) || 1) - 1;
  for (const [name, input] of Object.entries(inputs)) if (input) input.value = state[name];
  refresh();
  if (Object.keys(state).some((name) => asked.has(name))) at("reader").scrollIntoView();
}

fill();
for (const [name, input] of Object.entries(inputs)) {
  if (input) input.addEventListener("input", () => change({ [name]: input.value, at: 0 }));
}
at("controls").addEventListener("submit", (event) => event.preventDefault());
at("back").addEventListener("click", () => change({ at: state.at - 1 }));
at("onward").addEventListener("click", () => change({ at: state.at + 1 }));
at("theme").addEventListener("click", () => switchTheme());
window.addEventListener("hashchange", fromAddress);
fromAddress();
