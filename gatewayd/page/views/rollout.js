// One rollout as it runs: its groups, the gate and its evidence, its nodes, and the orders that may be given.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { get, post } from "../api.js";
import { badge, cascadeLink, fact, heading, meter, nodeLink, notes, rolloutState, shares, table, when } from "../parts.js";
import { count, decimal, duration, percent, plural, spoken } from "../words.js";

const AGAIN_MS = 1_500; // at most so often after news of the rollout
const SHOWN = 100; // nodes, until all are asked for
const ORDERS = {
  pause: { name: "Pause", text: "No further node begins. Nodes that run the new model go on with it." },
  resume: { name: "Resume", text: "It goes on where it stopped." },
  approve: { name: "Approve", text: "The next group begins, whatever the gate still waits for." },
  abort: { name: "Abort", danger: true, text: "Nodes on their way go back to their old model. Those that have confirmed the new one keep it." },
  roll_back: { name: "Roll back", danger: true, text: "Every node that got the new model goes back to its old one." },
};
const ANSWERS = { pass: ["yes", "passes"], fail: ["no", "fails"], hold: ["unknown", "holds: not enough evidence"] };
const QUESTIONS = { precision: "of its triggers, agreed with", audits: "of audits, nothing missed", detections: "detections an hour", load: "triggers an hour" };

export class RolloutView {
  title;
  #page;
  #path;
  /** @type {any} */
  #detail = null;
  #all = false;

  constructor(page, id) {
    this.#page = page;
    this.#path = `/rollouts/${encodeURIComponent(id)}`;
    this.title = `Rollout ${id}`;
  }

  get ready() {
    return this.#detail !== null;
  }

  async load(signal) {
    this.#detail = await get(this.#path, {}, signal);
  }

  live(name, data) {
    if (!this.#detail || name !== "rollout" || data.id !== this.#detail.rollout.id) return;
    this.#detail = { ...this.#detail, rollout: data };
    this.#page.reloadIn(AGAIN_MS);
  }

  render() {
    if (!this.#detail) return heading(this.title);
    const { rollout, gate, explanation, history, rules } = this.#detail;
    return html`
      <p class="crumbs"><a href="#/rollouts">Rollouts</a></p>
      ${heading(html`${rollout.cascade} ${rollout.version}`, html`${rolloutState(rollout)}${this.#orders(rollout)}`)}
      <p class="lead">Rollout ${rollout.id} of ${cascadeLink(rollout.cascade)}, begun ${when(rollout.created_s)}${rollout.cause ? html`. <strong><bdi>${rollout.cause}</bdi></strong>` : nothing}</p>
      <div class="columns">
        <div class="main-column">
          <section class="card" aria-labelledby="groups-title"><h2 id="groups-title">Groups</h2><ol class="groups">${rollout.groups.map((size, i) => this.#group(i, size))}</ol></section>
          <section class="card" aria-labelledby="gate-title"><h2 id="gate-title">Gate</h2>${gate ? gateView(gate) : html`<p class="soft">${rollout.closed ? "The rollout is over." : "Nothing to say yet."}</p>`}
            ${explanation ? html`<h3>In words</h3><p class="words-block"><bdi>${explanation}</bdi></p>` : nothing}</section>
          <section class="card" aria-labelledby="nodes-title"><h2 id="nodes-title">Nodes</h2>${this.#nodes()}</section>
        </div>
        <div class="side-column">
          <section class="card"><h2>What happened</h2>${notes(history, "Nothing yet.")}</section>
          <section class="card"><h2>Rules</h2><dl class="facts stacked">${Object.entries(rules).map(([name, value]) => fact(...rule(name, value)))}</dl></section>
        </div>
      </div>`;
  }

  #orders(rollout) {
    if (!this.#page.mayOperate) return nothing;
    return html`<div class="buttons">${rollout.commands.filter((command) => command in ORDERS).map((command) => {
      const { name, danger = false } = ORDERS[command];
      return html`<button class=${danger ? "danger" : ""} @click=${() => this.#order(command)}>${name}</button>`;
    })}</div>`;
  }

  #order(command) {
    const { name, text, danger } = ORDERS[command];
    const field = { label: "Because", hint: "Kept in the rollout's history, for whoever asks later." };
    this.#page.order({ title: `${name}?`, text, danger, confirm: name, field, done: `Ordered: ${name}` }, (because) => post(`${this.#path}/orders`, { command, because }));
  }

  #group(i, size) {
    const { rollout, nodes } = this.#detail;
    const tally = {};
    for (const { group, state } of nodes) if (group === i) tally[state] = (tally[state] ?? 0) + 1;
    const now = !rollout.closed && i === rollout.group;
    return html`<li aria-current=${now ? "step" : nothing}>
      <span class="group-name">${i === 0 ? "Canary" : `Group ${i + 1}`} <span class="soft">${plural(size, "node")}</span>${now ? html` <span class="label">now</span>` : nothing}</span>
      ${shares(Object.entries(tally).map(([state, n]) => [`u-${state}`, n, spoken(state)]), i === 0 ? "Canary" : `Group ${i + 1}`)}
    </li>`;
  }

  #nodes() {
    const { nodes } = this.#detail;
    if (!nodes.length) return html`<p class="soft">None.</p>`;
    const shown = this.#all ? nodes : nodes.slice(0, SHOWN);
    return html`${table("Nodes", ["Node", "Group", "State", "Sent", "Since", "Why"], shown.map(nodeRow), "compact")}
      ${shown.length < nodes.length ? html`<p class="pager"><button @click=${() => { this.#all = true; this.#page.update(); }}>Show all ${count(nodes.length)}</button></p>` : nothing}`;
  }
}

const nodeRow = (update) => html`<tr>
  <th scope="row">${nodeLink(update.node)}</th><td data-name="Group" class="number extra">${update.group + 1}</td>
  <td data-name="State"><span class="swatch u-${update.state}"></span>${spoken(update.state)}${update.asleep ? html` <span class="label">asleep</span>` : nothing}</td>
  <td data-name="Sent"><span class="gauge">${meter(update.progress, "gateway")}${percent(update.progress)}</span></td>
  <td data-name="Since" class="extra">${when(update.since_s)}</td><td data-name="Why" class="words"><bdi>${update.reason}</bdi></td>
</tr>`;

/** Rules, as far as their names say what they are. */
function rule(name, value) {
  const shown = value === null ? "–" : typeof value === "boolean" ? (value ? "yes" : "no") : name.endsWith("_s") ? duration(value) : decimal(value);
  return [spoken(name.replace(/_s$/, "")), shown];
}

function gateView(gate) {
  const [sign, words] = ANSWERS[gate.answer];
  return html`<p class="gate-answer">${badge(sign, `The gate ${words}`)} <span class="soft">${plural(gate.nodes, "node")}, ${plural(gate.escalated, "event")} judged</span></p>
    <p>Evidence that the new model is worse: <strong>${decimal(gate.worse)}</strong>. It stops at ${decimal(gate.fails_at)}.</p>
    ${table("What the gate compares", ["Question", "Old", "New", "Evidence: worse", "Evidence: as good"], gate.questions.map((question) => questionRow(question, gate)), "gate")}`;
}

const questionRow = (question, { fails_at, passes_at }) => html`<tr>
  <th scope="row">${spoken(question.name)}<span class="hint">${QUESTIONS[question.name] ?? ""}</span></th>
  <td data-name="Old" class="number">${measured(question.name, question.old)}</td><td data-name="New" class="number">${measured(question.name, question.new)}</td>
  <td data-name="Evidence: worse">${evidence(question.worse, fails_at, "down")}</td><td data-name="Evidence: as good">${evidence(question.fine, passes_at, "up")}</td>
</tr>`;

const measured = (name, value) => (["precision", "audits"].includes(name) ? percent(value) : decimal(value));

/** An e-value on a scale of powers: nothing is known at 1, and the bar is full where it decides. */
function evidence(value, decides, kind) {
  const share = value <= 1 ? 0 : Math.log(value) / Math.log(decides);
  return html`<span class="gauge">${meter(share, kind)}${decimal(value)} <span class="soft">of ${decimal(decides)}</span></span>`;
}
